# SPDX-License-Identifier: GPL-2.0
"""Which memory instructions touch, by the registers that QEMU has logged in front of each."""

import collections
import re

import iced_x86

LINE = 64
# The upper half is the kernel's.
KERNEL = 1 << 63

# "0xffffffff81000000:  48 89 e5                 movq     %rsp, %rbp", and for more bytes a second line.
CODE = re.compile(r"^0x([0-9a-f]{8,16}): {2}((?:[0-9a-f]{2} )+)", re.M)
REGISTER = re.compile(r"\b(R[A-Z0-9]{1,2}) ?=([0-9a-f]{16})\b")
SEGMENT = re.compile(r"^([FG]S) =[0-9a-f]{4} ([0-9a-f]{16})", re.M)
REGISTERS = {name: getattr(iced_x86.Register, name)
             for name in [f"R{name}" for name in "AX BX CX DX SI DI BP SP 8 9 10 11 12 13 14 15".split()] + ["FS", "GS"]}

# What a stack begins at a multiple of (THREAD_SIZE).
STACK = 16384
# Lines by their numbers, of user memory addresses.
Touched = collections.namedtuple("Touched", "code data stack user")


def code_bytes(log):
    """The bytes of instructions by address, of all that QEMU has translated meanwhile."""
    found, last = {}, None
    for address, text in CODE.findall(log):
        address, data = int(address, 16), bytes.fromhex(text)
        if last is not None and address == last + len(found[last]) and len(found[last]) == 8:
            # The rest of a long one, or the next: its own entry does not hurt.
            found[last] += data
        found[address], last = data, address
    return found


def registers(dump):
    """By their numbers, FS and GS with their bases."""
    values = REGISTER.findall(dump) + SEGMENT.findall(dump)
    return {REGISTERS[name]: int(value, 16) for name, value in values if name in REGISTERS}


def accesses(instruction, values):
    """(address, bytes) of one instruction; of one that repeats itself, the first."""
    for memory in iced_x86.InstructionInfoFactory().info(instruction).used_memory():
        if memory.access in (iced_x86.OpAccess.NONE, iced_x86.OpAccess.NO_MEM_ACCESS):
            continue
        at = memory.displacement + values.get(memory.base, 0) + values.get(memory.index, 0) * memory.scale
        at += values.get(memory.segment, 0)
        yield at % (1 << 64), iced_x86.MemorySizeExt.size(memory.memory_size) or 1


def touched(steps, code):
    """The cache lines of steps, each an address and what was logged there; and how many accesses to
    user memory they made."""
    lines = Touched(set(), set(), set(), [])
    for address, dump in steps:
        data = code.get(address)
        if data is None:
            raise KeyError(f"{address:#x} was not translated while QEMU logged that")
        instruction, values = iced_x86.Decoder(64, data, ip=address).decode(), registers(dump)
        lines.code.update({address // LINE, (address + instruction.len - 1) // LINE})
        for at, size in accesses(instruction, values):
            if at < KERNEL:
                lines.user.append(at)
            else:
                kind = lines.stack if at // STACK == values[iced_x86.Register.RSP] // STACK else lines.data
                kind.update(range(at // LINE, (at + size - 1) // LINE + 1))
    return lines
