/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faults: measures how many pages a second the guest can fault in, with a task on every CPU.
 *
 * Each task repeatedly maps memory, writes to every page and unmaps it, like page_fault1 of
 * will-it-scale. Prints `faults pages=N nanoseconds=N` at the end.
 */
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAPPED_BYTES (32UL << 20)
#define HUGE_BYTES (2UL << 20)

struct race {
	uint64_t end_ns;
	int advice;
	atomic_ullong pages;
};

static void *run(void *shared)
{
	struct race *race = shared;
	/* One write faults in a whole huge page. */
	size_t step = race->advice == MADV_HUGEPAGE ? HUGE_BYTES : PAGE_BYTES;

	while (monotonic_ns() < race->end_ns) {
		/* Map more, to start at a huge-page boundary. */
		char *memory = mmap(NULL, MAPPED_BYTES + HUGE_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		char *first;

		if (memory == MAP_FAILED)
			die("map %lu bytes", MAPPED_BYTES + HUGE_BYTES);
		first = memory + (-(uintptr_t)memory % HUGE_BYTES);
		if (madvise(memory, MAPPED_BYTES + HUGE_BYTES, race->advice))
			die("madvise huge pages");
		for (size_t at = 0; at < MAPPED_BYTES; at += step)
			first[at] = 1;
		if (munmap(memory, MAPPED_BYTES + HUGE_BYTES))
			die("unmap %lu bytes", MAPPED_BYTES + HUGE_BYTES);
		atomic_fetch_add(&race->pages, MAPPED_BYTES / PAGE_BYTES);
	}
	return NULL;
}

static void run_processes(struct race *race)
{
	long count = sysconf(_SC_NPROCESSORS_ONLN);
	int status;

	for (long i = 0; i < count; i++) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child) {
			run(race);
			_exit(STATUS_OK);
		}
	}
	for (long i = 0; i < count; i++)
		if (wait(&status) < 0 || status) {
			errno = ECHILD;
			die("a task ended with wait status %#x", (unsigned int)status);
		}
}

int faults_main(int argc, char **argv)
{
	struct race *race = mmap(NULL, sizeof(*race), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t milliseconds = 0, start;
	int processes = 1;

	if (race == MAP_FAILED)
		die("map %zu bytes", sizeof(*race));
	if (argc % 2)
		usage("faults: %s needs a value", argv[argc - 1]);
	race->advice = MADV_NOHUGEPAGE;
	for (int i = 0; i < argc; i += 2) {
		if (!strcmp(argv[i], "--ms"))
			milliseconds = parse_number(argv[i + 1], "--ms");
		else if (!strcmp(argv[i], "--by") && !strcmp(argv[i + 1], "thread"))
			processes = 0;
		else if (!strcmp(argv[i], "--by") && !strcmp(argv[i + 1], "process"))
			processes = 1;
		else if (!strcmp(argv[i], "--pages") && !strcmp(argv[i + 1], "huge"))
			race->advice = MADV_HUGEPAGE;
		else if (!strcmp(argv[i], "--pages") && !strcmp(argv[i + 1], "base"))
			race->advice = MADV_NOHUGEPAGE;
		else
			usage("faults: unknown option %s %s", argv[i], argv[i + 1]);
	}
	if (!milliseconds)
		usage("faults: --ms takes milliseconds");
	start = monotonic_ns();
	race->end_ns = start + milliseconds * 1000000;
	if (processes)
		run_processes(race);
	else
		on_every_cpu(run, race);
	printf("faults pages=%llu nanoseconds=%" PRIu64 "\n", atomic_load(&race->pages),
	       monotonic_ns() - start);
	if (fflush(stdout))
		die("write to standard output");
	return STATUS_OK;
}
