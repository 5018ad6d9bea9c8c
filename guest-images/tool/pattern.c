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

uint64_t pattern_word(uint64_t seed, uint64_t page, uint64_t index)
{
	return mix(seed * STEP + page) + index * STEP;
}

void fill_page(uint64_t *words, uint64_t seed, uint64_t page)
{
	uint64_t word = pattern_word(seed, page, 0);

	for (size_t i = 0; i < WORDS; i++, word += STEP)
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

	/* No branch in the loop, so that the compiler can vectorize it. */
	for (i = 0; i < WORDS; i++)
		wrong |= words[i] ^ (word + i * STEP);
	if (!wrong)
		return WORDS;
	for (i = 0; i < WORDS && words[i] == word; i++)
		word += STEP;
	return i;
}
