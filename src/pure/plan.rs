// SPDX-License-Identifier: GPL-2.0

//! What becomes of a decoded instruction once its place in memory is known: all is computed that
//! does not depend on registers, so that carrying it out takes a few operations.

use crate::{
    addr::Gva,
    pure::{
        code_address::CodeAddress,
        decode::{Access, Base, Operation},
        gpr::{Extend, Register, RSP}, //
    }, //
};

/// An instruction with one operand in memory, at a certain address.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The address of the next instruction.
    pub next_rip: u64,
    /// `(base & base_mask) + (index << scale) + displacement`, cut to `address_mask`, is the
    /// operand's address, `index << scale` being 0 if there is no index.
    displacement: u64,
    base_mask: u64,
    address_mask: u64,
    /// `(register >> shift) & value_mask | immediate` is what a store writes.
    value_mask: u64,
    immediate: u64,
    base: u8,
    index: u8,
    scale: u8,
    has_index: bool,
    register: u8,
    shift: u8,
    /// Bytes of the operand in memory: 1, 2, 4 or 8.
    pub size: u8,
    /// The address depends on RSP, which a vendor module may not have read yet.
    pub uses_rsp: bool,
    /// What a load does, `None` for a store.
    pub load: Option<(Register, Extend)>,
}

impl Plan {
    /// For places where there is none yet.
    pub const EMPTY: Self = Self {
        next_rip: 0,
        displacement: 0,
        base_mask: 0,
        address_mask: 0,
        value_mask: 0,
        immediate: 0,
        base: 0,
        index: 0,
        scale: 0,
        has_index: false,
        register: 0,
        shift: 0,
        size: 1,
        uses_rsp: false,
        load: None,
    };

    /// The plan for an instruction at `place`.
    ///
    /// # Examples
    ///
    /// ```
    /// use kvm_mmio_ext::addr::Gva;
    /// use kvm_mmio_ext::pure::{code_address::CodeAddress, decode::{decode, CodeKind}, plan::Plan};
    ///
    /// // mov %esi, 0x10(%rdi)
    /// let access = decode(&[0x89, 0x77, 0x10], CodeKind::Long).unwrap();
    /// let plan = Plan::new(&access, CodeAddress::new(0x1000, CodeKind::Long));
    /// assert_eq!(plan.next_rip, 0x1003);
    /// let register = |number| [0xd000_0000, 7][usize::from(number == 6)];
    /// assert_eq!(plan.address(register), Gva(0xd000_0010));
    /// assert_eq!(plan.stored(register), 7);
    /// ```
    pub fn new(access: &Access, place: CodeAddress) -> Self {
        let address = &access.address;
        let next_rip = place.next(access.length);
        let mut plan = Self {
            next_rip,
            displacement: address.displacement as u64,
            address_mask: if address.short {
                u32::MAX.into()
            } else {
                u64::MAX
            },
            size: access.size,
            ..Self::EMPTY
        };

        match address.base {
            Base::None => (),
            Base::Register(base) => (plan.base, plan.base_mask) = (base, u64::MAX),
            Base::NextRip => plan.displacement = plan.displacement.wrapping_add(next_rip),
        }
        // RSP can be a base only.
        plan.uses_rsp = address.base == Base::Register(RSP);
        if let Some((index, scale)) = address.index {
            (plan.index, plan.scale, plan.has_index) = (index, scale, true);
        }
        match access.operation {
            Operation::Load { register, extend } => plan.load = Some((register, extend)),
            Operation::StoreImmediate(value) => plan.immediate = value,
            Operation::Store(register) => {
                plan.register = register.number;
                plan.shift = if register.high { 8 } else { 0 };
                plan.value_mask = u64::MAX >> (64 - 8 * u32::from(access.size));
            }
        }
        plan
    }

    /// The operand's address, the linear one. `register` returns a register's value.
    #[inline(always)]
    pub fn address(&self, register: impl Fn(u8) -> u64) -> Gva {
        let mut address = (register(self.base) & self.base_mask).wrapping_add(self.displacement);
        // Drivers rarely have one.
        if self.has_index {
            address = address.wrapping_add(register(self.index) << (self.scale & 3));
        }
        Gva(address & self.address_mask)
    }

    /// What a store writes.
    #[inline(always)]
    pub fn stored(&self, register: impl Fn(u8) -> u64) -> u64 {
        (register(self.register) >> (self.shift & 8)) & self.value_mask | self.immediate
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pure::decode::{decode, CodeKind};

    const RIP: u64 = 0x40_0000;

    fn plan_of(bytes: &[u8], rip: u64, kind: CodeKind) -> Plan {
        Plan::new(&decode(bytes, kind).unwrap(), CodeAddress::new(rip, kind))
    }

    fn plan(bytes: &[u8]) -> Plan {
        plan_of(bytes, RIP, CodeKind::Long)
    }

    /// Registers that all differ, in all bytes.
    fn register(number: u8) -> u64 {
        0x1122_3344_5566_7788u64.wrapping_add(0x0101_0101_0101_0101 * u64::from(number))
    }

    #[test]
    fn base_index_and_displacement() {
        // mov %ah, 8(%rax,%rcx,4)
        let plan = plan(&[0x88, 0x64, 0x88, 0x08]);
        let want = register(0).wrapping_add(register(1) << 2).wrapping_add(8);
        assert_eq!(plan.address(register), Gva(want));
        assert_eq!(plan.stored(register), register(0) >> 8 & 0xff);
        assert_eq!((plan.next_rip, plan.size), (RIP + 4, 1));
        assert!(!plan.uses_rsp && plan.load.is_none());
    }

    #[test]
    fn relative_to_rip_and_immediate() {
        // movl $-2, 0x10(%rip)
        let plan = plan(&[0xc7, 0x05, 0x10, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff]);
        assert_eq!(plan.address(register), Gva(RIP + 10 + 0x10));
        assert_eq!(plan.stored(register), 0xffff_fffe);
    }

    #[test]
    fn stack_and_short_address() {
        // mov %r9w, 0x7f(%esp)
        let plan = plan(&[0x66, 0x67, 0x44, 0x89, 0x4c, 0x24, 0x7f]);
        assert_eq!(
            plan.address(register),
            Gva((register(4) + 0x7f) as u32 as u64)
        );
        assert_eq!(plan.stored(register), register(9) & 0xffff);
        assert!(plan.uses_rsp);
    }

    #[test]
    fn code_of_32_bits_stays_within_4_gib() {
        // mov %eax, 8(%edi), which ends where addresses do
        let plan = plan_of(&[0x89, 0x47, 0x08], 0xffff_fffd, CodeKind::Flat);
        assert_eq!(plan.next_rip, 0);
        let register = |_| 0x1_ffff_fffa;
        assert_eq!(plan.address(register), Gva(2));
    }

    #[test]
    fn loads_store_nothing() {
        // movsbl (%rdi), %eax
        let plan = plan(&[0x0f, 0xbe, 0x07]);
        assert_eq!(plan.address(register), Gva(register(7)));
        assert_eq!(plan.stored(register), 0);
        assert!(matches!(plan.load, Some((_, Extend::Sign(4)))));
    }
}
