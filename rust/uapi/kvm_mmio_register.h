/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Registers of emulated devices that answer by themselves:
 * /dev/kvm_mmio_registers.  See Documentation/registers.rst.
 */
#ifndef KVM_MMIO_REGISTER_H
#define KVM_MMIO_REGISTER_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* on_write: what a write does. */
#define KVM_MMIO_REGISTER_WRITE_EXIT	0	/* exits to userspace */
#define KVM_MMIO_REGISTER_WRITE_STORE	1	/* word = value */
#define KVM_MMIO_REGISTER_WRITE_CLEAR	2	/* word &= ~value, atomically */
#define KVM_MMIO_REGISTER_WRITE_SET	3	/* word |= value, atomically */

/* on_read: what a read returns. */
#define KVM_MMIO_REGISTER_READ_EXIT	0	/* exits to userspace */
#define KVM_MMIO_REGISTER_READ_RETURN	1	/* word */
#define KVM_MMIO_REGISTER_READ_CLEAR	2	/* word, then word = 0, atomically */

/* signal: which writes signal the eventfd, after the word. */
#define KVM_MMIO_REGISTER_SIGNAL_NEVER	0	/* event_fd is -1 */
#define KVM_MMIO_REGISTER_SIGNAL_ALWAYS	1
#define KVM_MMIO_REGISTER_SIGNAL_VALUE	2	/* those of value datamatch */
#define KVM_MMIO_REGISTER_SIGNAL_CHANGE	3	/* those that change the word */

struct kvm_mmio_register {
	__u64 gpa;		/* a multiple of len */
	__u64 user_addr;	/* of the word, a multiple of len */
	__u64 datamatch;	/* 0 unless SIGNAL_VALUE */
	__u32 len;		/* 1, 2, 4 or 8 bytes */
	__s32 vm_fd;
	__s32 event_fd;
	__u8 on_write;
	__u8 on_read;
	__u8 signal;
	__u8 reserved[25];	/* 0 */
};

struct kvm_mmio_register_at {
	__u64 gpa;
	__s32 vm_fd;
	__u32 reserved;		/* 0 */
};

#define KVM_MMIO_REGISTER_ADD		_IOW(0xBB, 0x00, struct kvm_mmio_register)
#define KVM_MMIO_REGISTER_REMOVE	_IOW(0xBB, 0x01, struct kvm_mmio_register_at)

#endif /* KVM_MMIO_REGISTER_H */
