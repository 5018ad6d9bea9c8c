/* SPDX-License-Identifier: Apache-2.0 */
/*
 * busy: takes memory and frees it, over and over, until its standard input ends.
 *
 * Says `busy bytes=N` after the first round and `done rounds=N` at the end.
 */
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Lets time pass; whether standard input has ended meanwhile. */
static int ended_within(uint64_t milliseconds)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	char byte;
	int seen = poll(&input, 1, (int)milliseconds);

	if (seen < 0 && errno != EINTR)
		die("wait for standard input");
	return seen > 0 && read(STDIN_FILENO, &byte, 1) == 0;
}

static void say(const char *word, const char *what, uint64_t number)
{
	printf("%s %s=%" PRIu64 "\n", word, what, number);
	if (fflush(stdout))
		die("write to standard output");
}

int busy_main(int argc, char **argv)
{
	uint64_t bytes = 0, hold = 0, idle = 0, rounds = 0;
	char *memory;

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
		for (uint64_t at = 0; at < bytes; at += PAGE_BYTES)
			memory[at] = 1;
		if (ended_within(hold))
			break;
		if (madvise(memory, bytes, MADV_DONTNEED))
			die("madvise(MADV_DONTNEED) of %" PRIu64 " bytes", bytes);
		if (!rounds++)
			say("busy", "bytes", bytes);
	} while (!ended_within(idle));
	say("done", "rounds", rounds);
	return STATUS_OK;
}
