/* SPDX-License-Identifier: Apache-2.0 */
/*
 * counters: streams meminfo, vmstat, buddyinfo and zoneinfo at a fixed rate, or on request.
 *
 * A frame, in little endian:
 *   "FPRC" u32 version, u64 sequence, u64 ticks missed so far, u64 planned and u64 actual
 *   monotonic ns, u32 length of each of the four texts, the texts
 * The answer to a line `ping NUMBER` on standard input, sent at once:
 *   "FPRP" u32 version, u64 number, u64 monotonic ns
 * With --on-request, each line `frame` on standard input asks for a frame.
 * The end of standard input ends the tool.
 */
#define _GNU_SOURCE
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define VERSION 1
#define TEXTS 4
#define SECOND 1000000000ULL

static const char *const names[TEXTS] = { "/proc/meminfo", "/proc/vmstat", "/proc/buddyinfo",
					  "/proc/zoneinfo" };

struct frame {
	char magic[4];
	uint32_t version;
	uint64_t sequence, missed, planned, actual;
	uint32_t lengths[TEXTS];
};

struct pong {
	char magic[4];
	uint32_t version;
	uint64_t number, now;
};

/* A header and its texts, sent with one write. */
static char buffer[sizeof(struct frame) + (1U << 20)];

static int files[TEXTS];

static void send_frame(uint64_t sequence, uint64_t missed, uint64_t planned)
{
	struct frame frame = { .version = VERSION, .sequence = sequence, .missed = missed,
			       .planned = planned, .actual = monotonic_ns() };
	size_t used = sizeof(frame);

	memcpy(frame.magic, "FPRC", 4);
	for (int i = 0; i < TEXTS; i++) {
		size_t got = read_at(files[i], buffer + used, sizeof(buffer) - used, 0, names[i]);

		frame.lengths[i] = (uint32_t)got;
		used += got;
	}
	if (used == sizeof(buffer)) {
		errno = EFBIG;
		die("read the counters into %zu bytes", sizeof(buffer));
	}
	memcpy(buffer, &frame, sizeof(frame));
	write_all(buffer, used);
}

/* Answers one line. */
static void answer_line(const char *line)
{
	static uint64_t sequence;
	struct pong pong = { .version = VERSION, .now = monotonic_ns() };

	if (!strcmp(line, "frame")) {
		send_frame(sequence++, 0, pong.now);
		return;
	}
	if (strncmp(line, "ping ", 5))
		usage("counters: unknown command %s", line);
	memcpy(pong.magic, "FPRP", 4);
	pong.number = parse_number(line + 5, "ping");
	write_all(&pong, sizeof(pong));
}

/* Answers the lines received; returns 0 at the end of standard input. */
static int answer(void)
{
	static char line[256];
	static size_t used;
	ssize_t got = read(STDIN_FILENO, line + used, sizeof(line) - 1 - used);
	char *end;

	if (got < 0)
		die("read standard input");
	used += (size_t)got;
	line[used] = 0;
	while ((end = strchr(line, '\n'))) {
		*end = 0;
		answer_line(line);
		used -= (size_t)(end + 1 - line);
		memmove(line, end + 1, used + 1);
	}
	if (used == sizeof(line) - 1)
		usage("counters: a command is too long");
	return got > 0;
}

/*
 * Waits until `when`, answering pings; returns 0 at the end of standard input. Polls standard input
 * at least once, so that a guest too slow for its rate still notices the end.
 */
static int wait_until(uint64_t when)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	uint64_t now;

	do {
		struct timespec left = { 0 };
		int ready;

		now = monotonic_ns();
		if (now < when) {
			left.tv_sec = (time_t)((when - now) / SECOND);
			left.tv_nsec = (long)((when - now) % SECOND);
		}
		ready = ppoll(&input, 1, &left, NULL);
		if (ready < 0 && errno != EINTR)
			die("poll standard input");
		if (ready > 0 && !answer())
			return 0;
		now = monotonic_ns();
	} while (now < when);
	return 1;
}

/* Parses a rate such as 10 or 0.5 into the nanoseconds between two frames. */
static uint64_t parse_period(const char *text)
{
	char *end;
	double rate = strtod(text, &end);

	if (end == text || *end || !(rate >= 0.01 && rate <= 1000))
		usage("counters: --hz takes 0.01 to 1000, not '%s'", text);
	return (uint64_t)((double)SECOND / rate);
}

int counters_main(int argc, char **argv)
{
	uint64_t period, next, sequence = 0, missed = 0;

	for (int i = 0; i < TEXTS; i++) {
		files[i] = open(names[i], O_RDONLY);
		if (files[i] < 0)
			die("open %s", names[i]);
	}
	if (argc == 1 && !strcmp(argv[0], "--once")) {
		send_frame(0, 0, monotonic_ns());
		return STATUS_OK;
	}
	if (argc == 1 && !strcmp(argv[0], "--on-request")) {
		while (answer())
			;
		return STATUS_OK;
	}
	if (argc != 2 || strcmp(argv[0], "--hz"))
		usage("counters: expected --once, --on-request, or --hz RATE");
	period = parse_period(argv[1]);
	next = monotonic_ns() + period;
	while (wait_until(next)) {
		uint64_t late;

		send_frame(sequence, missed, next);
		sequence++;
		next += period;
		/* Count frames that are already late instead of sending them. */
		late = monotonic_ns();
		while (next + period <= late) {
			next += period;
			missed++;
		}
	}
	return STATUS_OK;
}
