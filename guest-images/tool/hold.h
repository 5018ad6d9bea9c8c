/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is written with a pattern, held, verified and given back, page by page. */
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

/* What checks of a hold have found so far. */
struct findings {
	/* Pages compared with their pattern, and those that differ from it. */
	atomic_ullong checked, mismatched;
	/* Pages with a damaged entry in the ledger, and those with none that is sound. */
	atomic_ullong damaged, unproven;
	/* Whether the tool's own code and constants changed. */
	atomic_int text_changed;
};

/* Memory that begins at a boundary of huge pages, with nothing mapped beside it; or die(). */
void *map_aligned(uint64_t bytes, int advice);

/* Maps `bytes`, whole pages, and holds nothing yet. Or die(). */
void hold_open(struct hold *hold, uint64_t bytes, int advice);

/* Whether the page is held, by the ledger; one whose entry is lost may be. */
int hold_has(const struct hold *hold, uint64_t page);

static inline uint64_t *hold_words(const struct hold *hold, uint64_t page)
{
	return hold->memory + page * WORDS;
}

/* Writes every page that is not held, on every CPU, telling how far it is. */
void hold_fill(struct hold *hold, uint64_t seed);

/* Compares `count` pages from `page` on; says the first mismatches. */
void hold_check(const struct hold *hold, uint64_t page, uint64_t count, struct findings *findings);

/* Compares all that is held, on every CPU, and the tool's own text; says what it found. */
void hold_verify(const struct hold *hold, struct findings *findings);

/* Whether any of it is wrong. */
int findings_bad(const struct findings *findings);

/* Gives back `count` pages from `page` on, and leaves huge pages as they are. */
void hold_drop(struct hold *hold, uint64_t page, uint64_t count);

/* The page frame numbers of `count` pages from `page` on; 0 where there is none. Or die(). */
void hold_pfns(const struct hold *hold, uint64_t page, uint64_t count, uint64_t *pfns);

#endif
