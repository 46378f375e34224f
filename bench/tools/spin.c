// SPDX-License-Identifier: Apache-2.0
/* Keep a core from going idle: a loop of class SCHED_IDLE, which gives way to everything else.
 *
 * Waking a halted core of a virtual machine costs some 50 us, more than most of what is measured,
 * and as much for every peer. Pin one of these to each core that is used.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>

int main(void)
{
	struct sched_param none = { 0 };

	if (sched_setscheduler(0, SCHED_IDLE, &none) < 0) {
		perror("sched_setscheduler");
		return 1;
	}
	for (volatile unsigned long turns = 0;; turns++)
		;
}
