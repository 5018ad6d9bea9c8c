/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's free memory, and the setting for how much of it the per-CPU lists may keep. */
#ifndef FPR_BUDDY_H
#define FPR_BUDDY_H

#include <stddef.h>
#include <stdint.h>

/* Lets the per-CPU lists keep as little as the kernel permits. */
#define SHORTEST_LISTS "2147483647"

/* Writes the setting and stores the old one; returns 0 if the kernel has none (before 5.14). */
int set_lists(const char *value, char *before, size_t size);

/* Counts the free blocks of a huge page's size in the zone that has the most of them. */
uint64_t free_blocks(void);

uint64_t free_bytes(void);

#endif
