/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "ledger.h"

#include "pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>

/* Any number but 0; makes the proof of an entry differ from the words of a page's pattern. */
#define SALT UINT64_C(0xd1b54a32d192ed03)

static uint64_t prove(uint64_t seed, uint64_t page, unsigned int copy)
{
	return mix(seed ^ mix(SALT + page * LEDGER_COPIES + copy));
}

static struct entry *map_copy(uint64_t pages)
{
	size_t size = pages * sizeof(struct entry);
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("map a ledger of %zu bytes", size);
	/* A kernel without transparent huge pages returns EINVAL. */
	if (madvise(memory, size, MADV_NOHUGEPAGE) && errno != EINVAL)
		die("madvise the ledger");
	/* Keep it out of swap where the limits allow it, as they always do for root. */
	if (mlock(memory, size) && errno != ENOMEM && errno != EPERM && errno != EAGAIN)
		die("lock the ledger");
	return memory;
}

void ledger_open(struct ledger *ledger, uint64_t pages)
{
	ledger->pages = pages;
	for (unsigned int copy = 0; copy < LEDGER_COPIES; copy++)
		ledger->copies[copy] = map_copy(pages);
	for (uint64_t page = 0; page < pages; page++)
		ledger_set(ledger, page, 0);
}

void ledger_set(struct ledger *ledger, uint64_t page, uint64_t seed)
{
	for (unsigned int copy = 0; copy < LEDGER_COPIES; copy++)
		ledger->copies[copy][page] =
			(struct entry){ .seed = seed, .proof = prove(seed, page, copy) };
}

int ledger_get(const struct ledger *ledger, uint64_t page, uint64_t *seed)
{
	int damaged = 0, known = 0;

	*seed = 0;
	for (unsigned int copy = 0; copy < LEDGER_COPIES; copy++) {
		const struct entry *entry = &ledger->copies[copy][page];

		if (entry->proof != prove(entry->seed, page, copy)) {
			damaged++;
			continue;
		}
		if (known && *seed != entry->seed)
			return LEDGER_COPIES;
		*seed = entry->seed;
		known = 1;
	}
	return damaged;
}
