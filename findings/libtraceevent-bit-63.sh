#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# libtraceevent, by which trace-cmd and perf print events, names bit 63 where it is clear.
#
# Versions: libtraceevent 1.8.4 (Debian 13's), called by a Python 3.13.
# Expected: what the kernel prints of the same event: __print_flags() gives the name of each flag
#           that is set (include/trace/trace_events.h and trace_print_flags_seq() of Linux), and a
#           signed field below 0 is below 0.
# Seen:     28 November 2026. With names for bits 0 and 63, bit 0 alone gives both names, with
#           nothing between them; bits 0 and 63 give the first name and a number. An s64 of -1 is
#           not below 0. Symbols written as 1ULL << 63 are as wrong, those in hex are right.
# Known:    not found anywhere.
# Matters:  to tracepoints with flags up to bit 63, as in page table entries: the file trace of
#           tracefs is right and trace-cmd is not.
# shellcheck source=findings/finding.sh
. "$(dirname "$0")/finding.sh"

debian libtraceevent1=1:1.8.4-2 python3.13

cat >print.py <<'END'
import ctypes
import struct

HEAD = """name: demo
ID: 1
format:
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;

	field:%s value;	offset:8;	size:8;	signed:%d;

print fmt: "%%s", %s
"""
FLAGS = HEAD % ("u64", 0, '__print_flags(REC->value, "|", { 1ULL << 0, "low" }, { 1ULL << 63, "top" })')
SIGN = HEAD % ("s64", 1, 'REC->value < 0 ? "below" : "not below"')


class Seq(ctypes.Structure):
    _fields_ = [("buffer", ctypes.c_void_p), *((name, ctypes.c_uint) for name in ("size", "len", "at", "state"))]


class Record(ctypes.Structure):
    _fields_ = [("times", ctypes.c_ulonglong * 3), ("record_size", ctypes.c_int), ("size", ctypes.c_int),
                ("data", ctypes.c_char_p), ("rest", ctypes.c_ulonglong * 4)]


def printed(layout, value):
    lib = ctypes.CDLL("libtraceevent.so.1")
    lib.tep_alloc.restype = lib.tep_find_event_by_name.restype = ctypes.c_void_p
    tep = ctypes.c_void_p(lib.tep_alloc())
    lib.tep_set_long_size(tep, 8)
    text = layout.encode()
    assert lib.tep_parse_event(tep, text, ctypes.c_ulong(len(text)), b"demo") == 0
    event = ctypes.c_void_p(lib.tep_find_event_by_name(tep, b"demo", b"demo"))
    seq, record = Seq(), Record(size=16, data=struct.pack("<H6xQ", 1, value))
    lib.trace_seq_init(ctypes.byref(seq))
    lib.tep_print_event(tep, ctypes.byref(seq), ctypes.byref(record), b"%s", b"INFO")
    return ctypes.string_at(seq.buffer, seq.len).decode()


print(printed(FLAGS, 1), printed(FLAGS, 1 << 63 | 1), printed(SIGN, 2**64 - 1), sep=", ")
END
export PYTHONHOME="$PWD/unpacked/usr"
found=$(run python3.13 print.py 2>log) || untried "$(tail -n1 log)"
echo "bit 0, bits 0 and 63, -1: $found"
[ "$found" = "lowtop, low|0x8000000000000000, not below" ] || changed "libtraceevent prints $found"
