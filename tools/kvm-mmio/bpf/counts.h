/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs of count.bpf.c count in, and src/trace/bpf/ reads: places, times, and threads.
 */
#ifndef KVM_MMIO_COUNTS_H
#define KVM_MMIO_COUNTS_H

#include "bpf.h"

/*
 * Most places in all; those of a VM that has ended are free once they were read. And most of a vCPU,
 * from where on only the page is told apart, then not the instruction either, then not even the page.
 */
#define PLACES 65536
#define VCPU_ADDRESSES 4096
#define VCPU_SITES 8192
#define VCPU_PAGES 12288
#define TIMES 65536
#define THREADS 65536

/* Of a place: no page has this address, no instruction begins there. */
#define NOWHERE (~0UL)
/* In an address: it is that of a page, see src/site.rs. */
#define SOMEWHERE (1UL << 63)

/* What an instruction of a vCPU does to an address. */
struct key {
	u64 gpa;
	u64 rip;
	u32 tgid;
	u32 vcpu;
};

/* The next three are read by src/trace/bpf/tally.rs as words of 64 bits. */
struct place {
	struct key key;
	u64 reads;
	u64 writes;
	/* Zero-length ioeventfds, which tell neither. */
	u64 bells;
	/* Of these, left to userspace. */
	u64 userspace;
	/* The last one. */
	u64 time;
	u64 value;
	u32 size;
	u8 type;
	u8 by_userspace;
	u8 unused[2];
};

struct time_key {
	u32 place;
	u32 bucket;
};

struct time {
	struct time_key key;
	u64 count;
};

/* How many numbers the reader has put into a ring of free ones, and how many were taken of it. */
struct spares {
	u64 given;
	u64 taken;
};

/* Read, and the rings of the spare ones written, by src/trace/bpf/. */
struct totals {
	u64 places;
	u64 times;
	/* Events that had no room. */
	u64 lost;
	struct spares spare_places;
	struct spares spare_times;
};

/* What a thread that runs a vCPU is about. Places are one more than their index; 0 is none. */
struct thread {
	/* The instruction that has left the guest, and when it has. */
	u64 rip;
	u64 left;
	u32 tgid;
	u32 vcpu;
	/* What it has first accessed. */
	u32 first;
	/* The last writes, of which it is not known yet who takes them. */
	u32 written;
	u32 written_before;
	/* Userspace has been asked for a value; what is read next is its answer. */
	u32 asked;
	/* Places that it has made. */
	u32 used;
	u32 unused;
};

/*
 * The counts themselves are in arrays that the reader has mapped: a system call that looks into a
 * map would keep the programs from being run on its processor meanwhile.
 */
SEC("maps") struct bpf_map_def places = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = sizeof(u32),
	.value_size = sizeof(struct place),
	.max_entries = PLACES,
	.map_flags = BPF_F_MMAPABLE,
};

SEC("maps") struct bpf_map_def times = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = sizeof(u32),
	.value_size = sizeof(struct time),
	.max_entries = TIMES,
	.map_flags = BPF_F_MMAPABLE,
};

SEC("maps") struct bpf_map_def totals = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = sizeof(u32),
	.value_size = sizeof(struct totals),
	.max_entries = 1,
	.map_flags = BPF_F_MMAPABLE,
};

/* The rings: what was freed, as it is numbered in the next two maps. */
SEC("maps") struct bpf_map_def spare_places = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = sizeof(u32),
	.value_size = sizeof(u64),
	.max_entries = PLACES,
	.map_flags = BPF_F_MMAPABLE,
};

SEC("maps") struct bpf_map_def spare_times = {
	.type = BPF_MAP_TYPE_ARRAY,
	.key_size = sizeof(u32),
	.value_size = sizeof(u64),
	.max_entries = TIMES,
	.map_flags = BPF_F_MMAPABLE,
};

/* Where in the arrays something is, plus one. */
SEC("maps") struct bpf_map_def place_of = {
	.type = BPF_MAP_TYPE_HASH,
	.key_size = sizeof(struct key),
	.value_size = sizeof(u32),
	.max_entries = PLACES,
	.map_flags = BPF_F_NO_PREALLOC,
};

SEC("maps") struct bpf_map_def time_of = {
	.type = BPF_MAP_TYPE_HASH,
	.key_size = sizeof(struct time_key),
	.value_size = sizeof(u32),
	.max_entries = TIMES,
	.map_flags = BPF_F_NO_PREALLOC,
};

SEC("maps") struct bpf_map_def threads = {
	.type = BPF_MAP_TYPE_HASH,
	.key_size = sizeof(u32),
	.value_size = sizeof(struct thread),
	.max_entries = THREADS,
	.map_flags = BPF_F_NO_PREALLOC,
};

#endif
