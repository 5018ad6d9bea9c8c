/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pattern of a page, by which the page proves itself: word 0 follows from the seed and the
 * page's number by a one-to-one function, every other word from the one before it.
 */
#ifndef FPR_PATTERN_H
#define FPR_PATTERN_H

#include "util.h"

#define WORDS (PAGE_BYTES / 8)

/* The finalizer of splitmix64: neighbouring numbers get unrelated words. One-to-one; 0 gives 0. */
uint64_t mix(uint64_t x);

/* What word `index` of the page must be. */
uint64_t pattern_word(uint64_t seed, uint64_t page, uint64_t index);

/* Writes all words of a page, or the first one only. */
void fill_page(uint64_t *words, uint64_t seed, uint64_t page);
void stamp_page(uint64_t *words, uint64_t seed, uint64_t page);

/* The index of the first wrong word, or WORDS. */
size_t check_page(const uint64_t *words, uint64_t seed, uint64_t page);

#endif
