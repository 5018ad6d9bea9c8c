/* SPDX-License-Identifier: Apache-2.0 */
/*
 * busy: fills memory with a pattern, holds, verifies and frees it, in rounds, until the end of
 * standard input.
 *
 * Prints `busy bytes=N` after the first round, `mismatch ...` for the first wrong pages, and at the
 * end `done checked_bytes=N mismatched_pages=N rounds=N`. All memory is verified before being
 * freed; the end of standard input does not cut a round short.
 */
#include "pattern.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TOLD_MISMATCHES 16

/* Waits, and returns whether standard input has ended meanwhile. */
static int ended_within(uint64_t milliseconds)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	char byte;
	int seen = poll(&input, 1, (int)milliseconds);

	if (seen < 0 && errno != EINTR)
		die("wait for standard input");
	return seen > 0 && read(STDIN_FILENO, &byte, 1) == 0;
}

/* Returns the number of pages that differ from their pattern. */
static uint64_t count_wrong(const uint64_t *memory, uint64_t pages, uint64_t seed, uint64_t *told)
{
	uint64_t bad = 0;

	for (uint64_t page = 0; page < pages; page++) {
		size_t wrong = check_page(memory + page * WORDS, seed, page);

		if (wrong == WORDS)
			continue;
		bad++;
		if ((*told)++ < TOLD_MISMATCHES)
			say("mismatch round=%" PRIu64 " page=%" PRIu64 " offset=%zu expected=0x%016" PRIx64
			    " found=0x%016" PRIx64,
			    seed, page, wrong * 8, pattern_word(seed, page, wrong),
			    memory[page * WORDS + wrong]);
	}
	return bad;
}

int busy_main(int argc, char **argv)
{
	uint64_t bytes = 0, hold = 0, idle = 0, rounds = 0, checked = 0, bad = 0, told = 0;
	uint64_t *memory;
	int ended;

	if (argc % 2)
		usage("busy: %s needs a value", argv[argc - 1]);
	for (int i = 0; i < argc; i += 2) {
		if (!strcmp(argv[i], "--bytes"))
			bytes = parse_number(argv[i + 1], "--bytes");
		else if (!strcmp(argv[i], "--hold-ms"))
			hold = parse_number(argv[i + 1], "--hold-ms");
		else if (!strcmp(argv[i], "--idle-ms"))
			idle = parse_number(argv[i + 1], "--idle-ms");
		else
			usage("busy: unknown option %s", argv[i]);
	}
	if (!bytes || bytes % PAGE_BYTES || hold > INT32_MAX || idle > INT32_MAX)
		usage("busy: --bytes takes whole pages, --hold-ms and --idle-ms up to %d",
		      INT32_MAX);
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("map %" PRIu64 " bytes", bytes);
	do {
		uint64_t pages = bytes / PAGE_BYTES;

		rounds++;
		for (uint64_t page = 0; page < pages; page++)
			fill_page(memory + page * WORDS, rounds, page);
		ended = ended_within(hold);
		bad += count_wrong(memory, pages, rounds, &told);
		checked += bytes;
		if (madvise(memory, bytes, MADV_DONTNEED))
			die("madvise(MADV_DONTNEED) of %" PRIu64 " bytes", bytes);
		if (rounds == 1)
			say("busy bytes=%" PRIu64, bytes);
	} while (!ended && !ended_within(idle));
	say("done checked_bytes=%" PRIu64 " mismatched_pages=%" PRIu64 " rounds=%" PRIu64, checked,
	    bad, rounds);
	return bad ? STATUS_MISMATCH : STATUS_OK;
}
