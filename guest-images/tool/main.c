/* SPDX-License-Identifier: Apache-2.0 */
/* fpr-guest: does what the harness cannot do from outside the guest. */
#include "util.h"

#include <string.h>

int main(int argc, char **argv)
{
	if (argc >= 2 && !strcmp(argv[1], "pages"))
		return pages_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "churn"))
		return churn_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "counters"))
		return counters_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "starve"))
		return starve_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "busy"))
		return busy_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "race"))
		return race_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "witness"))
		return witness_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "faults"))
		return faults_main(argc - 2, argv + 2);
	if (argc >= 2 && !strcmp(argv[1], "kexec"))
		return kexec_main(argc - 2, argv + 2);
	usage("expected a subcommand: pages, churn, counters, busy, race, witness, faults, kexec or "
	      "starve");
}
