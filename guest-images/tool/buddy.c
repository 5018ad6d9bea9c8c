/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "buddy.h"

#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define HUGE_ORDER 9U

/*
 * The setting for how many pages a per-CPU list may keep: by default up to a zone's low watermark,
 * including whole huge pages (zone_highsize(), mm/page_alloc.c, from 5.14). Pages on these lists
 * are not reported and are allocated first. The kernel rounds the shortest up to four batches, less
 * than a huge page.
 */
#define LISTS "/proc/sys/vm/percpu_pagelist_high_fraction"

int set_lists(const char *value, char *before, size_t size)
{
	int file = open(LISTS, O_RDWR | O_CLOEXEC);
	ssize_t length;

	if (file < 0) {
		if (errno == ENOENT)
			return 0;
		die("open %s", LISTS);
	}
	length = pread(file, before, size - 1, 0);
	if (length < 0)
		die("read %s", LISTS);
	before[length] = '\0';
	if (pwrite(file, value, strlen(value), 0) < 0)
		die("write %s to %s", value, LISTS);
	close(file);
	return 1;
}

uint64_t free_blocks(void)
{
	FILE *file = fopen("/proc/buddyinfo", "re");
	char line[512];
	uint64_t most = 0;

	if (!file)
		die("open /proc/buddyinfo");
	while (fgets(line, sizeof(line), file)) {
		/* Node 0, zone    DMA32      3      2 ...: a number for each order from 0 on */
		char *next = strstr(line, "zone");
		uint64_t blocks = 0;

		if (!next || !(next = strpbrk(next + 4, "ADHMN")) || !(next = strchr(next, ' ')))
			continue;
		for (unsigned int order = 0;; order++) {
			char *end;
			uint64_t count = strtoull(next, &end, 10);

			if (end == next)
				break;
			if (order >= HUGE_ORDER)
				blocks += count << (order - HUGE_ORDER);
			next = end;
		}
		if (blocks > most)
			most = blocks;
	}
	if (ferror(file))
		die("read /proc/buddyinfo");
	fclose(file);
	return most;
}

uint64_t free_bytes(void)
{
	struct sysinfo info;

	if (sysinfo(&info))
		die("sysinfo");
	return (uint64_t)info.freeram * info.mem_unit;
}
