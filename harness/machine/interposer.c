/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into QEMU, this changes the last step of free page reporting: the discard of guest
 * memory. `lazily` is the host's other policy, MADV_FREE; all others are faults that test the
 * harness.
 *
 *   FPR_DISCARD       NAME or NAME=NUMBER, see `ways` below
 *   FPR_DISCARD_LOG   a file that gets a line "NAME ADDRESS LENGTH" (hexadecimal) for each discard
 *                     changed; for a hole in a file, ADDRESS is its offset
 *   FPR_DISCARD_FROM  a file; until it exists, every discard is carried out as asked. If it holds
 *                     "LOW HIGH" (hexadecimal), only discards within these host addresses change.
 *
 * QEMU discards private anonymous memory with madvise(MADV_DONTNEED) and punches holes into files
 * with fallocate() (ram_block_discard_range(), softmmu/physmem.c of 7.2, system/physmem.c of 10.0).
 * It uses neither for anything else of a block's size.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define DONTUNMAP 4 /* MREMAP_DONTUNMAP, which older C libraries do not name */

/*
 * A QEMU of an older suite brings its own C library. glibc 2.34 moved these into libc.so.6 under a
 * new version, and keeps the old one: by that they are found in either.
 */
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");
__asm__(".symver pthread_create,pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_detach,pthread_detach@GLIBC_2.2.5");

typedef int madvise_call(void *, size_t, int);
typedef int fallocate_call(int, int, off_t, off_t);

struct discard {
	char *address;
	size_t length;
	/* Makes the real call, and returns its result. */
	int (*carry_out)(const struct discard *);
	int descriptor, mode;
	off_t offset;
};

typedef int way(const struct discard *, unsigned long argument);

static madvise_call *real_madvise;
static fallocate_call *real_fallocate;
static atomic_ulong discards;
static way *chosen;
static int to_files;
static const char *name;
static unsigned long argument;
static const char *begins_at;
static atomic_int begun;
static unsigned long low, high = ULONG_MAX;
static int log_file = -1;

static void die(const char *what)
{
	fprintf(stderr, "interposer: %s\n", what);
	_exit(70);
}

static void note(const struct discard *discard)
{
	char line[128];
	int length = snprintf(line, sizeof(line), "%s %lx %zx\n", name,
			      (unsigned long)discard->address, discard->length);

	if (log_file >= 0 && write(log_file, line, (size_t)length) != length)
		die("cannot write FPR_DISCARD_LOG");
}

static int by_madvise(const struct discard *discard)
{
	return real_madvise(discard->address, discard->length, MADV_DONTNEED);
}

/* Report success without discarding. */
static int swallow(const struct discard *discard, unsigned long unused)
{
	(void)unused;
	note(discard);
	return 0;
}

/* Swallow one of every N discards. */
static int swallow_one_of(const struct discard *discard, unsigned long n)
{
	if (atomic_fetch_add(&discards, 1) % n)
		return discard->carry_out(discard);
	return swallow(discard, 0);
}

/* Swallow only discards of this length. */
static int swallow_length(const struct discard *discard, unsigned long length)
{
	return discard->length == length ? swallow(discard, 0) : discard->carry_out(discard);
}

static int fail_with(const struct discard *discard, unsigned long number)
{
	note(discard);
	errno = (int)number;
	return -1;
}

static void sleep_ms(unsigned long milliseconds)
{
	struct timespec left = { (time_t)(milliseconds / 1000),
				 (long)(milliseconds % 1000) * 1000000 };

	while (nanosleep(&left, &left) && errno == EINTR)
		;
}

static int delay(const struct discard *discard, unsigned long milliseconds)
{
	/* It ends when the file is gone. */
	if (begins_at && access(begins_at, F_OK))
		return discard->carry_out(discard);
	note(discard);
	sleep_ms(milliseconds);
	return discard->carry_out(discard);
}

/* Report success at once, and discard later in another thread. */
struct late {
	struct discard discard;
	unsigned long milliseconds;
};

static void *carry_out_late(void *given)
{
	struct late *late = given;

	sleep_ms(late->milliseconds);
	late->discard.carry_out(&late->discard);
	free(late);
	return NULL;
}

static int late(const struct discard *discard, unsigned long milliseconds)
{
	struct late *late = malloc(sizeof(*late));
	pthread_t thread;

	if (!late)
		die("no memory for a late discard");
	*late = (struct late){ .discard = *discard, .milliseconds = milliseconds };
	note(discard);
	if (pthread_create(&thread, NULL, carry_out_late, late) || pthread_detach(thread))
		die("no thread for a late discard");
	return 0;
}

/* Free lazily, so that the host reclaims the memory only under pressure. */
static int lazily(const struct discard *discard, unsigned long unused)
{
	(void)unused;
	note(discard);
	return real_madvise(discard->address, discard->length, MADV_FREE);
}

/* Discard the N bytes that follow as well. */
static int neighbour(const struct discard *discard, unsigned long more)
{
	int status = discard->carry_out(discard);

	note(discard);
	real_madvise(discard->address + discard->length, more, MADV_DONTNEED);
	return status;
}

/* Discard the block after a block of N bytes instead of it. */
static int shift(const struct discard *discard, unsigned long length)
{
	if (discard->length != length)
		return discard->carry_out(discard);
	note(discard);
	return real_madvise(discard->address + length, length, MADV_DONTNEED);
}

/* Do not punch holes: the mapping is dropped, but the file keeps its blocks. */
static int swallow_holes(const struct discard *discard, unsigned long unused)
{
	return discard->carry_out == by_madvise ? discard->carry_out(discard) :
						  swallow(discard, unused);
}

/* Discard, and touch every page again. */
static int repopulate(const struct discard *discard, unsigned long unused)
{
	int status = discard->carry_out(discard);

	(void)unused;
	note(discard);
	for (size_t at = 0; at < discard->length; at += PAGE)
		*(volatile char *)(discard->address + at) = 0;
	return status;
}

/* Moved to another place in QEMU, as if it had copied the memory first (Linux 5.7). */
static int keep_elsewhere(const struct discard *discard, unsigned long unused)
{
	(void)unused;
	note(discard);
	if (mremap(discard->address, discard->length, discard->length,
		   MREMAP_MAYMOVE | DONTUNMAP) == MAP_FAILED)
		die("cannot move discarded memory elsewhere");
	return 0;
}

static const struct {
	const char *name;
	way *way;
	/* Whether it works on files. */
	int to_files;
} ways[] = {
	{ "swallow", swallow, 1 },
	{ "swallow-one-of", swallow_one_of, 1 },
	{ "swallow-length", swallow_length, 1 },
	{ "swallow-holes", swallow_holes, 1 },
	{ "errno", fail_with, 1 },
	{ "delay-ms", delay, 1 },
	{ "late-ms", late, 1 },
	{ "lazily", lazily, 0 },
	{ "neighbour", neighbour, 0 },
	{ "shift", shift, 0 },
	{ "repopulate", repopulate, 0 },
	{ "keep-elsewhere", keep_elsewhere, 0 },
};

__attribute__((constructor)) static void choose(void)
{
	const char *wanted = getenv("FPR_DISCARD"), *path = getenv("FPR_DISCARD_LOG");
	const char *value = wanted ? strchr(wanted, '=') : NULL;
	size_t length = value ? (size_t)(value - wanted) : wanted ? strlen(wanted) : 0;

	real_madvise = (madvise_call *)dlsym(RTLD_NEXT, "madvise");
	real_fallocate = (fallocate_call *)dlsym(RTLD_NEXT, "fallocate64");
	if (!real_madvise || !real_fallocate)
		die("this C library has no madvise or fallocate64");
	argument = value ? strtoul(value + 1, NULL, 0) : 0;
	for (size_t i = 0; wanted && i < sizeof(ways) / sizeof(ways[0]); i++)
		if (strlen(ways[i].name) == length && !strncmp(wanted, ways[i].name, length)) {
			name = ways[i].name;
			chosen = ways[i].way;
			to_files = ways[i].to_files;
		}
	begins_at = getenv("FPR_DISCARD_FROM");
	if (wanted && !chosen)
		die("FPR_DISCARD names no way to discard");
	if (path && (log_file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
		die("cannot open FPR_DISCARD_LOG");
}

/* Read the range once the file exists; later changes to the file have no effect. */
static int active(const struct discard *discard)
{
	char text[64] = "";

	if (!chosen)
		return 0;
	if (begins_at && !atomic_load(&begun)) {
		int file = open(begins_at, O_RDONLY | O_CLOEXEC);

		if (file < 0)
			return 0;
		if (read(file, text, sizeof(text) - 1) < 0 ||
		    (*text && sscanf(text, "%lx %lx", &low, &high) != 2))
			die("FPR_DISCARD_FROM holds no range of addresses");
		close(file);
		atomic_store(&begun, 1);
	}
	return (unsigned long)discard->address >= low &&
	       (unsigned long)discard->address + discard->length <= high;
}

int madvise(void *address, size_t length, int advice)
{
	struct discard discard = { .address = address, .length = length, .carry_out = by_madvise };

	if (advice != MADV_DONTNEED || !active(&discard))
		return real_madvise(address, length, advice);
	return chosen(&discard, argument);
}

static int by_fallocate(const struct discard *discard)
{
	return real_fallocate(discard->descriptor, discard->mode, discard->offset,
			      (off_t)discard->length);
}

/* QEMU is built with 64-bit offsets and therefore calls fallocate64(). */
int fallocate64(int descriptor, int mode, off_t offset, off_t length)
{
	struct discard discard = { .address = (char *)offset, .length = (size_t)length,
				   .carry_out = by_fallocate,
				   .descriptor = descriptor, .mode = mode, .offset = offset };

	if (!(mode & FALLOC_FL_PUNCH_HOLE) || !active(&discard))
		return real_fallocate(descriptor, mode, offset, length);
	if (!to_files)
		die("this way to discard is for anonymous memory");
	return chosen(&discard, argument);
}
