/* SPDX-License-Identifier: Apache-2.0 */
/* What the subcommands of the guest tool share. */
#ifndef FPR_UTIL_H
#define FPR_UTIL_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096UL

/* /proc/PID/pagemap: Documentation/admin-guide/mm/pagemap.rst */
#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_PFN ((1ULL << 55) - 1)

/* Exit statuses. */
#define STATUS_OK 0
#define STATUS_BROKEN 1
#define STATUS_USAGE 2
#define STATUS_MISMATCH 3

/* Ends the tool with STATUS_BROKEN and `message: strerror(errno)`. */
void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Ends the tool with STATUS_USAGE and the message. */
void usage(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/* Writes the text and ` mono_ns=` with the time as one line to standard output, or die(). */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Parses a decimal number, or usage(). */
uint64_t parse_number(const char *text, const char *what);

/* Returns CLOCK_MONOTONIC in nanoseconds. */
uint64_t monotonic_ns(void);

/* Writes all of it to standard output, or die(). */
void write_all(const void *data, size_t size);

/* Reads up to `size` bytes from `offset`, less only at the end of the file; returns the number of
 * bytes read, or die(). */
size_t read_at(int fd, void *buffer, size_t size, uint64_t offset, const char *name);

/* Allocates memory, or die(). */
void *allocate(size_t size);

/* Runs work(shared) in a thread for each online CPU, up to 16, and waits for all of them. */
void on_every_cpu(void *(*work)(void *), void *shared);

/*
 * Forks; returns in the child, which does the work and which the OOM killer takes first. The parent
 * stays to report how the child ended: without it, the SSH server would show only that the channel
 * closed, because a login shell may exec the tool.
 */
void work_in_a_child(const char *name);

int pages_main(int argc, char **argv);
int churn_main(int argc, char **argv);
int counters_main(int argc, char **argv);
int busy_main(int argc, char **argv);
int race_main(int argc, char **argv);
int kexec_main(int argc, char **argv);
int witness_main(int argc, char **argv);
int faults_main(int argc, char **argv);
int starve_main(int argc, char **argv);

#endif
