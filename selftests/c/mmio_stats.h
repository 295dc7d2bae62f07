/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Counters of the kvm_mmio_ext module.
 */
#ifndef SELFTEST_MMIO_STATS_H
#define SELFTEST_MMIO_STATS_H

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "kvm_util.h"
#include "test_util.h"

#define MMIO_EXT_STATS		"/sys/kernel/debug/kvm_mmio_ext/stats"
#define MMIO_EXT_ENABLED	"/sys/module/kvm_mmio_ext/parameters/enabled"

/* Whether the extension is loaded and switched on. */
static inline bool mmio_ext_on(void)
{
	FILE *file = fopen(MMIO_EXT_ENABLED, "r");
	int c;

	if (!file)
		return false;
	c = fgetc(file);
	fclose(file);
	return c == 'Y';
}

/* One counter, summed over all vCPUs; 0 when the extension is not loaded. */
static inline u64 mmio_ext_stat(const char *name)
{
	unsigned long long value;
	char line_name[64];
	FILE *file;

	file = fopen(MMIO_EXT_STATS, "r");
	if (!file) {
		TEST_ASSERT(errno == ENOENT, "%s: errno %d", MMIO_EXT_STATS, errno);
		return 0;
	}
	while (fscanf(file, "%63s %llu", line_name, &value) == 2) {
		if (!strcmp(line_name, name)) {
			fclose(file);
			return value;
		}
	}
	fclose(file);
	TEST_FAIL("no counter '%s' in %s", name, MMIO_EXT_STATS);
	return 0;
}

#endif /* SELFTEST_MMIO_STATS_H */
