/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into QEMU, breaks the last step of free page reporting: the discard of guest memory.
 *
 *   FPR_FAULT      NAME or NAME=NUMBER, see `faults` below
 *   FPR_FAULT_LOG  a file; one line for each discard touched: "NAME ADDRESS LENGTH" in hexadecimal
 *   FPR_FAULT_AT   a path; until there is such a file every discard is carried out as asked
 *
 * QEMU discards private anonymous memory with madvise(MADV_DONTNEED) and punches holes into files
 * with fallocate() (ram_block_discard_range(), softmmu/physmem.c of 7.2, system/physmem.c of 10.0);
 * it uses neither for anything else of a block's size.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

typedef int madvise_call(void *, size_t, int);
typedef int fallocate_call(int, int, off_t, off_t);

struct discard {
	char *address;
	size_t length;
	/* What the real call would return, and does. */
	int (*carry_out)(const struct discard *);
	int descriptor, mode;
	off_t offset;
};

typedef int fault(const struct discard *, unsigned long argument);

static madvise_call *real_madvise;
static fallocate_call *real_fallocate;
static atomic_ulong discards;
static fault *chosen;
static const char *name;
static unsigned long argument;
static const char *begins_at;
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
		die("cannot write FPR_FAULT_LOG");
}

/* Success without an effect. */
static int swallow(const struct discard *discard, unsigned long unused)
{
	(void)unused;
	note(discard);
	return 0;
}

/* One of every N. */
static int swallow_one_of(const struct discard *discard, unsigned long n)
{
	if (atomic_fetch_add(&discards, 1) % n)
		return discard->carry_out(discard);
	return swallow(discard, 0);
}

/* Only those of this length. */
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

static int delay(const struct discard *discard, unsigned long milliseconds)
{
	struct timespec left = { (time_t)(milliseconds / 1000),
				 (long)(milliseconds % 1000) * 1000000 };

	note(discard);
	while (nanosleep(&left, &left) && errno == EINTR)
		;
	return discard->carry_out(discard);
}

/* Taken lazily: gone only under memory pressure. */
static int lazily(const struct discard *discard, unsigned long unused)
{
	(void)unused;
	note(discard);
	return real_madvise(discard->address, discard->length, MADV_FREE);
}

/* The N bytes that follow are lost as well. */
static int neighbour(const struct discard *discard, unsigned long more)
{
	int status = discard->carry_out(discard);

	note(discard);
	real_madvise(discard->address + discard->length, more, MADV_DONTNEED);
	return status;
}

/* Somebody touches every page again. */
static int repopulate(const struct discard *discard, unsigned long unused)
{
	int status = discard->carry_out(discard);

	(void)unused;
	note(discard);
	for (size_t at = 0; at < discard->length; at += PAGE)
		*(volatile char *)(discard->address + at) = 0;
	return status;
}

static const struct {
	const char *name;
	fault *fault;
} faults[] = {
	{ "swallow", swallow },	      { "swallow-one-of", swallow_one_of },
	{ "swallow-length", swallow_length }, { "errno", fail_with },
	{ "delay-ms", delay },	      { "lazily", lazily },
	{ "neighbour", neighbour },   { "repopulate", repopulate },
};

__attribute__((constructor)) static void choose(void)
{
	const char *wanted = getenv("FPR_FAULT"), *path = getenv("FPR_FAULT_LOG");
	const char *value = wanted ? strchr(wanted, '=') : NULL;
	size_t length = value ? (size_t)(value - wanted) : wanted ? strlen(wanted) : 0;

	real_madvise = (madvise_call *)dlsym(RTLD_NEXT, "madvise");
	real_fallocate = (fallocate_call *)dlsym(RTLD_NEXT, "fallocate64");
	if (!real_madvise || !real_fallocate)
		die("this C library has no madvise or fallocate64");
	argument = value ? strtoul(value + 1, NULL, 0) : 0;
	for (size_t i = 0; wanted && i < sizeof(faults) / sizeof(faults[0]); i++)
		if (strlen(faults[i].name) == length && !strncmp(wanted, faults[i].name, length)) {
			name = faults[i].name;
			chosen = faults[i].fault;
		}
	begins_at = getenv("FPR_FAULT_AT");
	if (wanted && !chosen)
		die("FPR_FAULT names no fault");
	if (path && (log_file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) < 0)
		die("cannot open FPR_FAULT_LOG");
}

static int active(void)
{
	return chosen && (!begins_at || !access(begins_at, F_OK));
}

static int by_madvise(const struct discard *discard)
{
	return real_madvise(discard->address, discard->length, MADV_DONTNEED);
}

int madvise(void *address, size_t length, int advice)
{
	struct discard discard = { .address = address, .length = length, .carry_out = by_madvise };

	if (advice != MADV_DONTNEED || !active())
		return real_madvise(address, length, advice);
	return chosen(&discard, argument);
}

static int by_fallocate(const struct discard *discard)
{
	return real_fallocate(discard->descriptor, discard->mode, discard->offset,
			      (off_t)discard->length);
}

/* QEMU is built with 64-bit offsets and calls this name. */
int fallocate64(int descriptor, int mode, off_t offset, off_t length)
{
	struct discard discard = { .length = (size_t)length, .carry_out = by_fallocate,
				   .descriptor = descriptor, .mode = mode, .offset = offset };

	if (!(mode & FALLOC_FL_PUNCH_HOLE) || !active())
		return real_fallocate(descriptor, mode, offset, length);
	if (chosen == lazily || chosen == neighbour || chosen == repopulate)
		die("this fault is for anonymous memory");
	return chosen(&discard, argument);
}
