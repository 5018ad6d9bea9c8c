/* SPDX-License-Identifier: Apache-2.0 */
/* Which CPU does the work, and time on it without a device. */
#ifndef FPR_CPUS_H
#define FPR_CPUS_H

#include <stdint.h>

/* Moves the caller to the CPU of this number among those it may use, counted around. */
void run_on(unsigned int number);

/* Lets the caller use all of them again. */
void run_anywhere(void);

/* Compares the CPU's counter with the clock, once, before ticks_ms(). */
void calibrate_ticks(void);

/* Milliseconds by the CPU's counter: a clock may be a device, which stands still with the others. */
uint64_t ticks_ms(void);

#endif
