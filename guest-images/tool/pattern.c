/* SPDX-License-Identifier: Apache-2.0 */
#include "pattern.h"

/* From the golden ratio. An odd step between the words of a page is cheap to compute under TCG. */
#define STEP UINT64_C(0x9e3779b97f4a7c15)

uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

/*
 * The word after `word` of a page. The asm generates no code; it keeps the compiler from vectorizing
 * the loops, because TCG takes 1.6 times longer with SSE, and a processor no less.
 */
static inline uint64_t following(uint64_t word)
{
	word += STEP;
	__asm__("" : "+r"(word));
	return word;
}

uint64_t pattern_word(uint64_t seed, uint64_t page, uint64_t index)
{
	return mix(seed * STEP + page) + index * STEP;
}

void fill_page(uint64_t *words, uint64_t seed, uint64_t page)
{
	uint64_t word = pattern_word(seed, page, 0);

#pragma GCC unroll 8
	for (size_t i = 0; i < WORDS; i++, word = following(word))
		words[i] = word;
}

void stamp_page(uint64_t *words, uint64_t seed, uint64_t page)
{
	words[0] = pattern_word(seed, page, 0);
}

size_t check_page(const uint64_t *words, uint64_t seed, uint64_t page)
{
	uint64_t word = pattern_word(seed, page, 0), wrong = 0;
	size_t i;

	/* No branch on a word: nearly always all are right. */
#pragma GCC unroll 8
	for (i = 0; i < WORDS; i++, word = following(word))
		wrong |= words[i] ^ word;
	if (!wrong)
		return WORDS;
	word = pattern_word(seed, page, 0);
	for (i = 0; i < WORDS && words[i] == word; i++)
		word += STEP;
	return i;
}
