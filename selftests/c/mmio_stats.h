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
#define MMIO_EXT_HEAT_PAGES	"/sys/kernel/debug/kvm_mmio_ext/heat"
#define MMIO_EXT_ENABLED	"/sys/module/kvm_mmio_ext/parameters/enabled"
#define MMIO_EXT_FAST		"/sys/module/kvm_mmio_ext/parameters/fast"
#define MMIO_EXT_IRQSOFF	"/sys/module/kvm_mmio_ext/parameters/irqsoff"
#define MMIO_EXT_HEAT		"/sys/module/kvm_mmio_ext/parameters/heat"

/* A switch of the extension; false when it is not loaded. */
static inline bool mmio_ext_switch(const char *path)
{
	FILE *file = fopen(path, "r");
	int c;

	if (!file)
		return false;
	c = fgetc(file);
	fclose(file);
	return c == 'Y';
}

/* Whether the extension is loaded and switched on. */
static inline bool mmio_ext_on(void)
{
	return mmio_ext_switch(MMIO_EXT_ENABLED);
}

static inline void mmio_ext_set_switch(const char *path, bool on)
{
	FILE *file = fopen(path, "w");

	TEST_ASSERT(file && fputc(on ? 'Y' : 'N', file) != EOF && !fclose(file),
		    "%s: cannot write %d, errno %d", path, on, errno);
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

/* Accesses to a page that VMs alive have recorded since they were made. */
static inline u64 mmio_ext_heat(u64 gpa)
{
	unsigned long long page, count;
	FILE *file = fopen(MMIO_EXT_HEAT_PAGES, "r");
	char line[256];
	u64 sum = 0;

	TEST_ASSERT(file, "%s: errno %d", MMIO_EXT_HEAT_PAGES, errno);
	while (fgets(line, sizeof(line), file)) {
		if (sscanf(line, " 0x%llx %llu", &page, &count) == 2 && page == gpa)
			sum += count;
	}
	fclose(file);
	return sum;
}

#endif /* SELFTEST_MMIO_STATS_H */
