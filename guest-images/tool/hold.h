/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is filled with a pattern, held, verified and freed, page by page. */
#ifndef FPR_HOLD_H
#define FPR_HOLD_H

#include "ledger.h"
#include "pattern.h"

#include <stdatomic.h>

#define HUGE_PAGES 512U
#define HUGE_BYTES (HUGE_PAGES * PAGE_BYTES)

struct hold {
	uint64_t *memory;
	uint64_t pages;
	uint64_t held;
	struct ledger ledger;
	uint64_t text_sum;
	int pagemap;
};

/* What the checks of a hold have found so far. */
struct findings {
	/* Pages compared with their pattern, and those that differ from it. */
	atomic_ullong checked, mismatched;
	/* Pages with a damaged entry in the ledger, and those with no intact entry. */
	atomic_ullong damaged, unproven;
	/* Whether the tool's own code or constants have changed. */
	atomic_int text_changed;
};

/* Maps memory that starts at a huge-page boundary, with nothing mapped next to it; or die(). */
void *map_aligned(uint64_t bytes, int advice);

/* Maps `bytes`, whole pages, none of them held yet; or die(). */
void hold_open(struct hold *hold, uint64_t bytes, int advice);

/* Returns whether the page is held according to the ledger; true if its entry is lost. */
int hold_has(const struct hold *hold, uint64_t page);

static inline uint64_t *hold_words(const struct hold *hold, uint64_t page)
{
	return hold->memory + page * WORDS;
}

/* Fills every page that is not held, on every CPU, and prints the progress. */
void hold_fill(struct hold *hold, uint64_t seed);

/* Compares `count` pages from `page` with their pattern; prints the first mismatches. */
void hold_check(const struct hold *hold, uint64_t page, uint64_t count, struct findings *findings);

/* Verifies everything held, on every CPU, and the tool's own text; prints the result. */
void hold_verify(const struct hold *hold, struct findings *findings);

/* Returns whether the findings show any damage. */
int findings_bad(const struct findings *findings);

/* Frees `count` pages from `page`, without splitting huge pages. */
void hold_drop(struct hold *hold, uint64_t page, uint64_t count);

/* Reads the PFNs of `count` pages from `page`; 0 for a page not present. Or die(). */
void hold_pfns(const struct hold *hold, uint64_t page, uint64_t count, uint64_t *pfns);

#endif
