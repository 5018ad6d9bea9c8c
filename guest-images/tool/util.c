/* SPDX-License-Identifier: Apache-2.0 */
#include "util.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void die(const char *format, ...)
{
	int error = errno;
	va_list arguments;

	fputs("fpr-guest: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fprintf(stderr, ": %s\n", strerror(error));
	exit(STATUS_BROKEN);
}

void usage(const char *format, ...)
{
	va_list arguments;

	fputs("fpr-guest: ", stderr);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(STATUS_USAGE);
}

void say(const char *format, ...)
{
	va_list arguments;

	/* Threads share standard output. */
	flockfile(stdout);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(" mono_ns=%" PRIu64 "\n", monotonic_ns());
	if (fflush(stdout))
		die("write to standard output");
	funlockfile(stdout);
}

uint64_t parse_number(const char *text, const char *what)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	/* strtoull() also accepts white space and signs. */
	if (errno || *text < '0' || *text > '9' || *end)
		usage("%s: '%s' is not a whole number", what, text);
	return number;
}

uint64_t monotonic_ns(void)
{
	struct timespec now;

	if (clock_gettime(CLOCK_MONOTONIC, &now))
		die("clock_gettime");
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

void write_all(const void *data, size_t size)
{
	const char *next = data;

	while (size) {
		ssize_t written = write(STDOUT_FILENO, next, size);

		if (written < 0) {
			if (errno == EINTR)
				continue;
			die("write to standard output");
		}
		next += written;
		size -= (size_t)written;
	}
}

size_t read_at(int fd, void *buffer, size_t size, uint64_t offset, const char *name)
{
	char *next = buffer;
	size_t done = 0;

	while (done < size) {
		ssize_t count = pread(fd, next + done, size - done, (off_t)(offset + done));

		if (count < 0) {
			if (errno == EINTR)
				continue;
			die("read %s", name);
		}
		if (!count)
			break;
		done += (size_t)count;
	}
	return done;
}

void *allocate(size_t size)
{
	void *memory = malloc(size ? size : 1);

	if (!memory)
		die("allocate %zu bytes", size);
	return memory;
}

/* More threads were not needed for guests of any size. */
#define MOST_THREADS 16
/* A stack of the default size would get a huge page. */
#define STACK_BYTES 65536UL

void on_every_cpu(void *(*work)(void *), void *shared)
{
	pthread_t threads[MOST_THREADS];
	pthread_attr_t small;
	long count = sysconf(_SC_NPROCESSORS_ONLN);

	if (count < 1)
		die("count the CPUs");
	if (count > MOST_THREADS)
		count = MOST_THREADS;
	errno = pthread_attr_init(&small);
	if (!errno)
		errno = pthread_attr_setstacksize(&small, STACK_BYTES);
	if (errno)
		die("set a thread's stack size");
	for (long i = 0; i < count; i++) {
		errno = pthread_create(&threads[i], &small, work, shared);
		if (errno)
			die("start a thread");
	}
	for (long i = 0; i < count; i++) {
		errno = pthread_join(threads[i], NULL);
		if (errno)
			die("wait for a thread");
	}
	pthread_attr_destroy(&small);
}
