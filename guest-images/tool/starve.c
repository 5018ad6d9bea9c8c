/* SPDX-License-Identifier: Apache-2.0 */
/*
 * starve CPU: occupies one CPU completely, with a real-time process in a busy loop, until killed.
 *
 * Nothing else bound to that CPU runs, not even kernel workers. It first lifts the limit on
 * real-time processes (sched(7), sched_rt_runtime_us).
 */
#define _GNU_SOURCE
#include "util.h"

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#define LIMIT "/proc/sys/kernel/sched_rt_runtime_us"

int starve_main(int argc, char **argv)
{
	struct sched_param lowest = { .sched_priority = sched_get_priority_min(SCHED_FIFO) };
	cpu_set_t cpus;
	uint64_t cpu;
	int limit;

	if (argc != 1 || (cpu = parse_number(argv[0], "CPU")) >= CPU_SETSIZE)
		usage("starve: expected the number of a CPU");
	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if ((limit = open(LIMIT, O_WRONLY)) < 0 || write(limit, "-1", 2) != 2)
		die("write -1 to %s", LIMIT);
	close(limit);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("starve: bind to CPU %s", argv[0]);
	if (sched_setscheduler(0, SCHED_FIFO, &lowest))
		die("starve: set SCHED_FIFO");
	for (;;)
		__asm__ volatile("pause");
}
