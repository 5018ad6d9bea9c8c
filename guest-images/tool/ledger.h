/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ledger records which pages are held, and the seed of each.
 *
 * It lies in the guest memory under test and may be lost itself. It is therefore kept twice, and
 * each entry has a checksum ("proof") that no entry of zeros passes, as a lost page would hold.
 */
#ifndef FPR_LEDGER_H
#define FPR_LEDGER_H

#include "util.h"

#define LEDGER_COPIES 2

struct entry {
	/* 0 if the page is not held. */
	uint64_t seed;
	uint64_t proof;
};

struct ledger {
	uint64_t pages;
	struct entry *copies[LEDGER_COPIES];
};

/* Makes a ledger of `pages` pages, none of them held; or die(). */
void ledger_open(struct ledger *ledger, uint64_t pages);

void ledger_set(struct ledger *ledger, uint64_t page, uint64_t seed);

/*
 * Reads the seed of a page; returns how many copies of its entry are damaged. If all are, or if
 * they contradict each other, returns LEDGER_COPIES, and the seed is meaningless.
 */
int ledger_get(const struct ledger *ledger, uint64_t page, uint64_t *seed);

#endif
