/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a program of BPF calls and is made of, so that it needs no headers of a kernel or of libbpf.
 * Numbers are those of <linux/bpf.h>.
 */
#ifndef KVM_MMIO_BPF_H
#define KVM_MMIO_BPF_H

typedef __UINT8_TYPE__ u8;
typedef __UINT32_TYPE__ u32;
typedef __INT32_TYPE__ s32;
typedef __UINT64_TYPE__ u64;

#define SEC(name) __attribute__((section(name), used))
#define __always_inline inline __attribute__((always_inline))

#define BPF_MAP_TYPE_HASH 1
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_F_NO_PREALLOC (1 << 0)
#define BPF_F_MMAPABLE (1 << 10)
#define BPF_ANY 0

struct bpf_map_def {
	u32 type;
	u32 key_size;
	u32 value_size;
	u32 max_entries;
	u32 map_flags;
};

static void *(*const bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static s32 (*const bpf_map_update_elem)(void *map, const void *key, const void *value,
					u64 flags) = (void *)2;
static u64 (*const bpf_ktime_get_ns)(void) = (void *)5;
static u64 (*const bpf_get_current_pid_tgid)(void) = (void *)14;

#endif
