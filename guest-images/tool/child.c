/* SPDX-License-Identifier: Apache-2.0 */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void volunteer_for_oom(void)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY);

	if (file < 0 || write(file, "1000", 4) != 4)
		die("write /proc/self/oom_score_adj");
	close(file);
}

void work_in_a_child(const char *name)
{
	pid_t parent = getpid(), child = fork();
	int status;

	if (child < 0)
		die("fork");
	if (child == 0) {
		if (prctl(PR_SET_PDEATHSIG, SIGKILL))
			die("prctl(PR_SET_PDEATHSIG)");
		if (getppid() != parent)
			exit(STATUS_BROKEN);
		volunteer_for_oom();
		return;
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("wait for the child %d", child);
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "fpr-guest: %s (pid %d) was killed by signal %d (%s)%s\n", name,
			child, WTERMSIG(status), strsignal(WTERMSIG(status)),
			WTERMSIG(status) == SIGKILL ? ": out of memory?" : "");
		exit(STATUS_BROKEN);
	}
	exit(WEXITSTATUS(status));
}
