/* SPDX-License-Identifier: Apache-2.0 */
/* fpr-guest kexec: loads a kernel, and starts the one that is loaded (kexec_file_load(2)). */
#include "util.h"

#include <fcntl.h>
#include <linux/reboot.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* COMMAND_LINE_SIZE of x86, arch/x86/include/asm/setup.h */
#define COMMAND_LINE_BYTES 2048

static void load(const char *kernel, const char *initramfs)
{
	char line[COMMAND_LINE_BYTES];
	int kernel_fd = open(kernel, O_RDONLY | O_CLOEXEC);
	int initramfs_fd = open(initramfs, O_RDONLY | O_CLOEXEC);
	int line_fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t size;

	if (kernel_fd < 0)
		die("open %s", kernel);
	if (initramfs_fd < 0)
		die("open %s", initramfs);
	if (line_fd < 0)
		die("open /proc/cmdline");
	size = read(line_fd, line, sizeof(line) - 1);
	if (size < 0)
		die("read /proc/cmdline");
	if (size > 0 && line[size - 1] == '\n')
		size--;
	line[size] = '\0';
	if (syscall(SYS_kexec_file_load, kernel_fd, initramfs_fd, (unsigned long)size + 1, line, 0UL))
		die("load %s", kernel);
}

int kexec_main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[0], "load")) {
		load(argv[1], argv[2]);
		return STATUS_OK;
	}
	if (argc == 1 && !strcmp(argv[0], "go")) {
		syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC,
			NULL);
		die("start the kernel that is loaded");
	}
	usage("kexec: expected load KERNEL INITRAMFS, or go");
}
