// SPDX-License-Identifier: GPL-2.0
/*
 * Counts accesses in the kernel, from KVM's tracepoints. What they mean is as in
 * src/trace/perf/follow.rs, which does the same with events that were copied to it; a difference
 * between the two is a mistake. src/trace/bpf/ loads this, reads what it has counted, and frees
 * what VMs had that have ended.
 */
#include "counts.h"

#define PAGE_MASK (~0xfffUL)

/* As KVM's tracepoint kvm_mmio has them. */
#define READ_UNSATISFIED 0
#define READ 1
#define WRITE 2

#define KVM_EXIT_MMIO 6

/* Bytes that a device sees at once. */
#define WIDEST 8

/* Where the fields of the tracepoints are on this kernel. */
const volatile u32 exit_reason_at;
const volatile u32 exit_rip_at;
const volatile u32 exit_vcpu_at;
const volatile u32 mmio_type_at;
const volatile u32 mmio_len_at;
const volatile u32 mmio_gpa_at;
const volatile u32 mmio_val_at;
const volatile u32 fast_gpa_at;
const volatile u32 userspace_reason_at;
const volatile u32 userspace_errno_at;

/* Whether kvm_entry() is attached. */
const volatile u32 is_timed;

/*
 * The verifier takes constant offsets only. As it knows what the variables above hold, it drops
 * all but one of these, and the kernel executes that alone.
 */
#define TRY(type, n)								\
	do {									\
		if (at == (n))							\
			asm volatile("%0 = *(" #type " *)(%1 + " #n ")"		\
				     : "=r"(value) : "r"(context));		\
	} while (0)

static __always_inline u32 field32(void *context, u32 at)
{
	u64 value = 0;

	TRY(u32, 8); TRY(u32, 12); TRY(u32, 16); TRY(u32, 20); TRY(u32, 24); TRY(u32, 28);
	TRY(u32, 32); TRY(u32, 36); TRY(u32, 40); TRY(u32, 44); TRY(u32, 48); TRY(u32, 52);
	TRY(u32, 56); TRY(u32, 60); TRY(u32, 64); TRY(u32, 68); TRY(u32, 72); TRY(u32, 76);
	return value;
}

static __always_inline u64 field64(void *context, u32 at)
{
	u64 value = 0;

	TRY(u64, 8); TRY(u64, 16); TRY(u64, 24); TRY(u64, 32); TRY(u64, 40); TRY(u64, 48);
	TRY(u64, 56); TRY(u64, 64); TRY(u64, 72);
	return value;
}

static __always_inline void add(u64 *sum)
{
	/* Two VMs of a process may have a vCPU of the same number. */
	__sync_fetch_and_add(sum, 1);
}

static __always_inline struct totals *all(void)
{
	u32 only = 0;

	return bpf_map_lookup_elem(&totals, &only);
}

static __always_inline void lose(void)
{
	struct totals *sums = all();

	if (sums)
		add(&sums->lost);
}

/* The number of the next free one of `most`, plus one; 0 if there is none. */
static __always_inline u32 take(u64 *used, u32 most)
{
	u64 index;

	if (*used >= most)
		return 0;
	index = __sync_fetch_and_add(used, 1);
	return index < most ? index + 1 : 0;
}

/* After so many a new number is taken: others were quicker each time. */
#define TRIES 4

#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

/* A number that was freed; 0 if there is none. */
static __always_inline u32 take_spare(struct spares *spares, void *ring, u32 size)
{
	for (int i = 0; i < TRIES; i++) {
		u64 taken = READ_ONCE(spares->taken), *number;
		u32 index = taken % size, spare;

		if (taken == READ_ONCE(spares->given))
			return 0;
		number = bpf_map_lookup_elem(ring, &index);
		if (!number)
			return 0;
		/* Once it is taken, the reader may put another one there. */
		spare = READ_ONCE(*number);
		if (__sync_val_compare_and_swap(&spares->taken, taken, taken + 1) == taken)
			return spare;
	}
	return 0;
}

static __always_inline struct place *place_at(u32 number)
{
	u32 index = number - 1;

	return bpf_map_lookup_elem(&places, &index);
}

static __always_inline u32 make_place(const struct key *key)
{
	struct totals *sums = all();
	struct place *place;
	u32 number;

	if (!sums)
		return 0;
	number = take_spare(&sums->spare_places, &spare_places, PLACES);
	if (!number)
		number = take(&sums->places, PLACES);
	place = place_at(number);
	if (!place)
		return 0;
	place->key = *key;
	bpf_map_update_elem(&place_of, key, &number, BPF_ANY);
	return number;
}

/* Makes the key a wider one if the vCPU has so many places. Where that is; 0 if it is new. */
static __always_inline u32 widen(struct thread *thread, struct key *key, u32 most, u64 gpa, u64 rip)
{
	u32 *known;

	if (thread->used < most)
		return 0;
	key->gpa = gpa;
	key->rip = rip;
	known = bpf_map_lookup_elem(&place_of, key);
	return known ? *known : 0;
}

/* Where accesses of the instruction to an address are counted, plus one; 0 if there is no room. */
static __always_inline u32 find_place(struct thread *thread, u64 gpa)
{
	u64 page = (gpa & PAGE_MASK) | SOMEWHERE;
	struct key key = {
		.gpa = gpa,
		.rip = thread->rip,
		.tgid = thread->tgid,
		.vcpu = thread->vcpu,
	};
	u32 *known = bpf_map_lookup_elem(&place_of, &key);
	u32 number = known ? *known : 0;

	if (!number)
		number = widen(thread, &key, VCPU_ADDRESSES, page, thread->rip);
	if (!number)
		number = widen(thread, &key, VCPU_SITES, page, NOWHERE);
	if (!number)
		number = widen(thread, &key, VCPU_PAGES, NOWHERE, NOWHERE);
	if (number)
		return number;
	thread->used++;
	return make_place(&key);
}

static __always_inline void count_part(struct thread *thread, u32 type, u64 gpa, u32 size, u64 value)
{
	u32 number = find_place(thread, gpa);
	struct place *place = place_at(number);

	/* Also if it is lost: what userspace then takes is not the write before. */
	if (type == WRITE) {
		thread->written_before = thread->written;
		thread->written = number;
	}
	if (!place) {
		lose();
		return;
	}
	if (!thread->first)
		thread->first = number;
	place->time = bpf_ktime_get_ns();
	place->value = value;
	place->size = size;
	place->type = type;
	place->by_userspace = type == READ_UNSATISFIED;
	if (type == WRITE) {
		add(&place->writes);
		return;
	}
	add(&place->reads);
	if (type == READ_UNSATISFIED)
		add(&place->userspace);
}

static __always_inline struct thread *current_thread(void)
{
	u64 ids = bpf_get_current_pid_tgid();
	u32 tgid = ids >> 32, tid = ids;
	struct thread *thread = bpf_map_lookup_elem(&threads, &tid);

	/* One of another process may have had its number. */
	return thread && thread->tgid == tgid ? thread : 0;
}

/* Those from which instructions are emulated, see Kind::filter() in src/trace/event.rs. */
static __always_inline int may_access(u32 reason)
{
	const u64 vmx = 1UL << 0 | 1UL << 44 | 1UL << 48 | 1UL << 49 | 1UL << 56;

	return reason < 64 ? (vmx >> reason & 1) :
	       reason == 0x4e || (reason >= 0x400 && reason <= 0x402);
}

static __always_inline struct thread *new_thread(void)
{
	u64 ids = bpf_get_current_pid_tgid();
	u32 tgid = ids >> 32, tid = ids;
	struct thread fresh = { .tgid = tgid };

	bpf_map_update_elem(&threads, &tid, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&threads, &tid);
}

/* The thread that leaves a guest, be it a new one. */
static __always_inline struct thread *leaving_thread(void)
{
	struct thread *thread = current_thread();

	return thread ? thread : new_thread();
}

/* From each: others who follow the tracepoint get the event, too. With 0, perf would not. */
#define PASS_ON 1

SEC("tracepoint/kvm_exit") int kvm_exit(void *context)
{
	struct thread *thread;

	if (!may_access(field32(context, exit_reason_at)))
		return PASS_ON;
	thread = leaving_thread();
	if (!thread) {
		lose();
		return PASS_ON;
	}
	thread->rip = field64(context, exit_rip_at);
	thread->vcpu = field32(context, exit_vcpu_at);
	thread->left = is_timed ? bpf_ktime_get_ns() : 0;
	thread->first = 0;
	thread->written = 0;
	thread->written_before = 0;
	thread->asked = 0;
	return PASS_ON;
}

SEC("tracepoint/kvm_mmio") int kvm_mmio(void *context)
{
	/* What began before we looked is not counted, as it would be by half. */
	struct thread *thread = current_thread();
	u32 type = field32(context, mmio_type_at);
	u32 len = field32(context, mmio_len_at);
	u64 gpa = field64(context, mmio_gpa_at);
	u64 value = field64(context, mmio_val_at);

	if (!thread || type > WRITE)
		return PASS_ON;
	if (type == READ && thread->asked) {
		thread->asked = 0;
		return PASS_ON;
	}
	if (type == READ_UNSATISFIED)
		thread->asked = 1;
	count_part(thread, type, gpa, len < WIDEST ? len : WIDEST, value);
	if (len > WIDEST) {
		len -= WIDEST;
		count_part(thread, type, gpa + WIDEST, len < WIDEST ? len : WIDEST, value);
	}
	return PASS_ON;
}

SEC("tracepoint/kvm_fast_mmio") int kvm_fast_mmio(void *context)
{
	struct thread *thread = current_thread();
	struct place *place;
	u32 number;

	if (!thread)
		return PASS_ON;
	number = find_place(thread, field64(context, fast_gpa_at));
	place = place_at(number);
	if (!place) {
		lose();
		return PASS_ON;
	}
	if (!thread->first)
		thread->first = number;
	add(&place->bells);
	place->time = bpf_ktime_get_ns();
	place->type = WRITE + 1;
	return PASS_ON;
}

/* The last write is left to userspace. */
SEC("tracepoint/kvm_userspace_exit") int kvm_userspace_exit(void *context)
{
	struct thread *thread;
	struct place *place;

	if (field32(context, userspace_reason_at) != KVM_EXIT_MMIO ||
	    (s32)field32(context, userspace_errno_at) < 0)
		return PASS_ON;
	thread = current_thread();
	if (!thread || thread->asked)
		return PASS_ON;
	place = place_at(thread->written);
	thread->written = thread->written_before;
	thread->written_before = 0;
	if (!place)
		return PASS_ON;
	add(&place->userspace);
	place->by_userspace = 1;
	return PASS_ON;
}

/* As bucket() in src/site.rs: the power of two, and the four bits that follow it. */
static __always_inline u32 bucket(u64 value)
{
	u64 rest = value;
	u32 shift = 0;

#define HALVE(bits)						\
	do {							\
		if (rest >> 4 >> (bits)) {			\
			rest >>= (bits);			\
			shift += (bits);			\
		}						\
	} while (0)
	HALVE(32); HALVE(16); HALVE(8); HALVE(4); HALVE(2); HALVE(1);
	return (shift << 4) + rest;
}

static __always_inline struct time *find_time(const struct time_key *key)
{
	u32 *known = bpf_map_lookup_elem(&time_of, key), number = known ? *known : 0, index;
	struct totals *sums = all();
	struct time *time;

	if (!sums)
		return 0;
	if (!number)
		number = take_spare(&sums->spare_times, &spare_times, TIMES);
	if (!number)
		number = take(&sums->times, TIMES);
	index = number - 1;
	time = bpf_map_lookup_elem(&times, &index);
	if (time && !known) {
		time->key = *key;
		bpf_map_update_elem(&time_of, key, &number, BPF_ANY);
	}
	return time;
}

/* The guest goes on: what it has left for is over. */
SEC("tracepoint/kvm_entry") int kvm_entry(void)
{
	struct thread *thread = current_thread();
	struct time_key key;
	struct time *time;

	if (!thread || !thread->first)
		return PASS_ON;
	key.place = thread->first;
	key.bucket = bucket(bpf_ktime_get_ns() - thread->left);
	thread->first = 0;
	time = find_time(&key);
	if (time)
		add(&time->count);
	else
		lose();
	return PASS_ON;
}

SEC("license") char of_this[] = "GPL";
