/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pages are held, and the seed each was written with.
 *
 * The guest's memory is what is on trial, and the ledger lies in it: so it is kept twice, each entry
 * with a proof of itself that fails for an entry of zeros, as a page is that was given away.
 */
#ifndef FPR_LEDGER_H
#define FPR_LEDGER_H

#include "util.h"

#define LEDGER_COPIES 2

struct entry {
	/* 0 where the page is not held. */
	uint64_t seed;
	uint64_t proof;
};

struct ledger {
	uint64_t pages;
	struct entry *copies[LEDGER_COPIES];
};

/* A ledger of so many pages, none held; or die(). */
void ledger_open(struct ledger *ledger, uint64_t pages);

void ledger_set(struct ledger *ledger, uint64_t page, uint64_t seed);

/*
 * The seed, and how many copies of its entry are damaged. When all are, or they contradict each
 * other, LEDGER_COPIES, and the seed says nothing.
 */
int ledger_get(const struct ledger *ledger, uint64_t page, uint64_t *seed);

#endif
