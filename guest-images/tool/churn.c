/* SPDX-License-Identifier: Apache-2.0 */
/*
 * churn: fills memory with a seeded pattern, holds it, verifies every word, and frees all or part.
 *
 * Answers are lines `word key=value ...`. Commands come on standard input, one a line:
 *   verify                          compares every held word with its pattern, and checks the
 *                                   tool's own ledger and code
 *   free all                        frees everything held
 *   free blocks ORDER STRIDE OFFSET frees the physical blocks of 2^ORDER pages that are entirely
 *                                   held and whose number modulo STRIDE is OFFSET
 *   free tails                      frees all but the first page of every huge page, without
 *                                   splitting any
 *   refill SEED                     fills what was freed again, with another seed
 *   exit                            ends the tool, as the end of standard input does
 */
#include "hold.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Well above MAX_ORDER, the kernel's highest. */
#define MOST_ORDER 20U

/*
 * Splits the huge page in which a range begins or ends. Dropping part of a huge page frees nothing
 * until the kernel splits it, at some later time; MADV_COLD on the part splits it at once
 * (madvise_cold_or_pageout_pte_range(), mm/madvise.c, 5.4 to 7.x).
 */
static void split_huge_page(const struct hold *hold, uint64_t page, uint64_t count)
{
	if (count && madvise(hold_words(hold, page), count * PAGE_BYTES, MADV_COLD))
		die("madvise(MADV_COLD) of %" PRIu64 " pages", count);
}

static void split_edges(const struct hold *hold, uint64_t page, uint64_t count)
{
	uint64_t address = (uint64_t)(uintptr_t)hold->memory / PAGE_BYTES + page;
	uint64_t head = -address % HUGE_PAGES, tail = (address + count) % HUGE_PAGES;

	if (head > count) {
		split_huge_page(hold, page, count);
		return;
	}
	split_huge_page(hold, page, head);
	split_huge_page(hold, page + count - tail, tail);
}

static void drop(struct hold *hold, uint64_t page, uint64_t count)
{
	if (!count)
		return;
	split_edges(hold, page, count);
	hold_drop(hold, page, count);
}

static void say_freed(const struct hold *hold, uint64_t freed, uint64_t blocks)
{
	say("freed bytes=%" PRIu64 " blocks=%" PRIu64 " held_bytes=%" PRIu64, freed * PAGE_BYTES,
	    blocks, hold->held * PAGE_BYTES);
}

static void free_all(struct hold *hold)
{
	uint64_t freed = hold->held;

	hold_drop(hold, 0, hold->pages);
	say_freed(hold, freed, 0);
}

static void free_blocks(struct hold *hold, unsigned int order, uint64_t stride, uint64_t offset)
{
	uint64_t *pfns = allocate(hold->pages * 8), highest = 0, freed = 0, run = 0;
	uint32_t *owned;

	hold_pfns(hold, 0, hold->pages, pfns);
	for (uint64_t page = 0; page < hold->pages; page++) {
		if (!hold_has(hold, page))
			pfns[page] = 0;
		if (pfns[page] > highest)
			highest = pfns[page];
	}
	owned = calloc((highest >> order) + 1, sizeof(*owned));
	if (!owned)
		die("allocate %" PRIu64 " block counters", (highest >> order) + 1);
	for (uint64_t page = 0; page < hold->pages; page++)
		if (pfns[page])
			owned[pfns[page] >> order]++;
	for (uint64_t page = 0; page < hold->pages; page++) {
		uint64_t block = pfns[page] >> order;

		if (pfns[page] && owned[block] == 1U << order && block % stride == offset) {
			run++;
			continue;
		}
		drop(hold, page - run, run);
		freed += run;
		run = 0;
	}
	drop(hold, hold->pages - run, run);
	freed += run;
	free(owned);
	free(pfns);
	say_freed(hold, freed, freed >> order);
}

static void free_tails(struct hold *hold)
{
	uint64_t held = hold->held;
	uint64_t page = -((uint64_t)(uintptr_t)hold->memory / PAGE_BYTES) % HUGE_PAGES;

	for (; page + HUGE_PAGES <= hold->pages; page += HUGE_PAGES)
		if (hold_has(hold, page + 1))
			hold_drop(hold, page + 1, HUGE_PAGES - 1);
	say_freed(hold, held - hold->held, 0);
}

/* Returns whether the line is the command followed by `count` whole numbers, and stores these. */
static int is_command(const char *line, const char *command, int count, uint64_t *numbers)
{
	size_t length = strlen(command);

	if (strncmp(line, command, length))
		return 0;
	line += length;
	for (int i = 0; i < count; i++) {
		char *end;

		/* strtoull() accepts signs and turns -1 into ULLONG_MAX. */
		if (line[0] != ' ' || line[1] < '0' || line[1] > '9')
			return 0;
		errno = 0;
		numbers[i] = strtoull(line + 1, &end, 10);
		if (errno)
			return 0;
		line = end;
	}
	return !strcmp(line, "\n");
}

/* Returns whether everything was intact. */
static int verify(const struct hold *hold)
{
	struct findings findings = { 0 };

	hold_verify(hold, &findings);
	return !findings_bad(&findings);
}

/* Executes commands until the end; returns the exit status. */
static int obey(struct hold *hold)
{
	int status = STATUS_OK;
	char line[128];
	/* ORDER STRIDE OFFSET, or SEED. */
	uint64_t numbers[3];

	while (fgets(line, sizeof(line), stdin)) {
		if (is_command(line, "verify", 0, numbers))
			status = verify(hold) ? status : STATUS_MISMATCH;
		else if (is_command(line, "free all", 0, numbers))
			free_all(hold);
		else if (is_command(line, "free tails", 0, numbers))
			free_tails(hold);
		else if (is_command(line, "free blocks", 3, numbers) && numbers[0] <= MOST_ORDER &&
			 numbers[2] < numbers[1])
			free_blocks(hold, (unsigned int)numbers[0], numbers[1], numbers[2]);
		else if (is_command(line, "refill", 1, numbers) && numbers[0])
			hold_fill(hold, numbers[0]);
		else if (is_command(line, "exit", 0, numbers))
			break;
		else
			usage("churn: unknown command %.*s", (int)strcspn(line, "\n"), line);
	}
	return status;
}

int churn_main(int argc, char **argv)
{
	struct hold hold;
	uint64_t bytes = 0, seed = 0;
	int advice = MADV_NORMAL;

	if (argc % 2)
		usage("churn: %s needs a value", argv[argc - 1]);
	for (int i = 0; i < argc; i += 2) {
		if (!strcmp(argv[i], "--bytes"))
			bytes = parse_number(argv[i + 1], "--bytes");
		else if (!strcmp(argv[i], "--seed"))
			seed = parse_number(argv[i + 1], "--seed");
		else if (!strcmp(argv[i], "--hugepages") && !strcmp(argv[i + 1], "always"))
			advice = MADV_HUGEPAGE;
		else if (!strcmp(argv[i], "--hugepages") && !strcmp(argv[i + 1], "never"))
			advice = MADV_NOHUGEPAGE;
		else if (strcmp(argv[i], "--hugepages") || strcmp(argv[i + 1], "default"))
			usage("churn: unknown option %s %s", argv[i], argv[i + 1]);
	}
	if (!bytes || bytes % PAGE_BYTES || !seed)
		usage("churn: --bytes takes whole pages, --seed a number other than 0");
	work_in_a_child("churn");
	hold_open(&hold, bytes, advice);
	hold_fill(&hold, seed);
	return obey(&hold);
}
