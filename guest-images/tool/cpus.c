/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "cpus.h"

#include "util.h"

#include <sched.h>

#define CALIBRATION_NS 20000000ULL

/* The CPUs that the caller could use at first. */
static cpu_set_t allowed;
static uint64_t cycles_in_ms;

static uint64_t cycles(void)
{
	return __builtin_ia32_rdtsc();
}

void calibrate_ticks(void)
{
	uint64_t start = monotonic_ns(), first = cycles(), counted, took;

	/* A pause between two readings must only make ticks too short, and so times too long. */
	do {
		counted = cycles() - first;
		took = monotonic_ns() - start;
	} while (took < CALIBRATION_NS);
	cycles_in_ms = counted * 1000000 / took;
}

uint64_t ticks_ms(void)
{
	return cycles() / cycles_in_ms;
}

void run_on(unsigned int number)
{
	cpu_set_t one;

	if (!CPU_COUNT(&allowed) && sched_getaffinity(0, sizeof(allowed), &allowed))
		die("sched_getaffinity");
	number %= (unsigned int)CPU_COUNT(&allowed);
	CPU_ZERO(&one);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &allowed) && !number--) {
			CPU_SET(cpu, &one);
			if (sched_setaffinity(0, sizeof(one), &one))
				die("run on CPU %d", cpu);
			return;
		}
}

void run_anywhere(void)
{
	if (CPU_COUNT(&allowed) && sched_setaffinity(0, sizeof(allowed), &allowed))
		die("run on any CPU");
}
