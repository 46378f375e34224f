// SPDX-License-Identifier: Apache-2.0
/* Keep a core from going idle, giving way to everything else at once.
 *
 * Waking a halted core of a virtual machine costs some 50 us, more than most of what is measured,
 * and as much for every peer. Pin one of these to each core that is used.
 *
 * SCHED_IDLE alone does not give way: with CONFIG_SCHED_AUTOGROUP the session of this program is
 * weighed as a whole, and counts as much as anybody else's. So the group is made the lightest there
 * is, and every turn offers the core to whoever wants it.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	struct sched_param none = { 0 };
	int group = open("/proc/self/autogroup", O_WRONLY | O_CLOEXEC);

	if (group >= 0 && write(group, "19", 2) != 2) {
		perror("/proc/self/autogroup");
		return 1;
	}
	if (sched_setscheduler(0, SCHED_IDLE, &none) < 0) {
		perror("sched_setscheduler");
		return 1;
	}
	for (;;)
		sched_yield();
}
