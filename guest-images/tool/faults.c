/* SPDX-License-Identifier: Apache-2.0 */
/*
 * faults: measures how many pages a second the guest can fault in, with a task on every CPU.
 *
 * Each task repeatedly maps memory, writes to every page and unmaps it. Anonymous memory is what
 * page_fault1 of will-it-scale maps; `--pages file` maps a file, privately, as page_fault2 does: each
 * write copies a page of the page cache. Prints `faults pages=N nanoseconds=N` at the end.
 */
#define _GNU_SOURCE
#include "util.h"

#include <errno.h>
#include <fcntl.h>
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
/* In memory twice: in the page cache, and as the copies that the writes make. */
#define FILE_BYTES (MAPPED_BYTES / 2)

struct race {
	uint64_t end_ns;
	int advice;
	/* A file for each task, and how many tasks have taken theirs; NULL if memory is anonymous. */
	int *files;
	atomic_long taken;
	atomic_ullong pages;
};

/* Files whose pages are in the page cache, so that no task has to wait for them. */
static int *create_files(void)
{
	long count = sysconf(_SC_NPROCESSORS_ONLN);
	int *files = allocate((size_t)count * sizeof(*files));

	for (long i = 0; i < count; i++) {
		files[i] = memfd_create("faults", MFD_CLOEXEC);
		if (files[i] < 0)
			die("create a file in memory");
		if (fallocate(files[i], 0, 0, FILE_BYTES))
			die("fill a file of %lu bytes", FILE_BYTES);
	}
	return files;
}

static void *run(void *shared)
{
	struct race *race = shared;
	int file = race->files ? race->files[atomic_fetch_add(&race->taken, 1)] : -1;
	size_t mapped = race->files ? FILE_BYTES : MAPPED_BYTES + HUGE_BYTES;
	size_t written = race->files ? FILE_BYTES : MAPPED_BYTES;
	/* One write faults in a whole huge page. */
	size_t step = race->advice == MADV_HUGEPAGE ? HUGE_BYTES : PAGE_BYTES;

	while (monotonic_ns() < race->end_ns) {
		/* Map more, to start at a huge-page boundary. */
		char *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | (race->files ? 0 : MAP_ANONYMOUS), file, 0);
		char *first = memory;

		if (memory == MAP_FAILED)
			die("map %zu bytes", mapped);
		if (!race->files)
			first += -(uintptr_t)memory % HUGE_BYTES;
		if (madvise(memory, mapped, race->advice))
			die("madvise huge pages");
		for (size_t at = 0; at < written; at += step)
			first[at] = 1;
		if (munmap(memory, mapped))
			die("unmap %zu bytes", mapped);
		atomic_fetch_add(&race->pages, written / PAGE_BYTES);
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
	int processes = 1, files = 0;

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
		else if (!strcmp(argv[i], "--pages") && !strcmp(argv[i + 1], "file"))
			files = 1;
		else
			usage("faults: unknown option %s %s", argv[i], argv[i + 1]);
	}
	if (!milliseconds)
		usage("faults: --ms takes milliseconds");
	if (files)
		race->files = create_files();
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
