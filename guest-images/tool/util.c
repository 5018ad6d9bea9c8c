/* SPDX-License-Identifier: Apache-2.0 */
#include "util.h"

#include <errno.h>
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

uint64_t parse_number(const char *text, const char *what)
{
	char *end;
	unsigned long long number;

	errno = 0;
	number = strtoull(text, &end, 10);
	if (errno || end == text || *end || *text == '-')
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

size_t read_fully(int fd, void *buffer, size_t size, const char *name)
{
	char *next = buffer;
	size_t done = 0;

	while (done < size) {
		ssize_t count = read(fd, next + done, size - done);

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
