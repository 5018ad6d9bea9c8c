/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pattern that identifies a page: word 0 is a one-to-one function of the seed and the page's
 * number, and each following word depends on the one before it.
 */
#ifndef FPR_PATTERN_H
#define FPR_PATTERN_H

#include "util.h"

#define WORDS (PAGE_BYTES / 8)

/* The finalizer of splitmix64: maps neighbouring numbers to unrelated words, one-to-one, 0 to 0. */
uint64_t mix(uint64_t x);

/* Returns the value that word `index` of the page must have. */
uint64_t pattern_word(uint64_t seed, uint64_t page, uint64_t index);

/* Write all words of a page, and only the first word. */
void fill_page(uint64_t *words, uint64_t seed, uint64_t page);
void stamp_page(uint64_t *words, uint64_t seed, uint64_t page);

/* Returns the index of the first wrong word; WORDS if there is none. */
size_t check_page(const uint64_t *words, uint64_t seed, uint64_t page);

#endif
