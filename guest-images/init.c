/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Process 1 of the guest. It is a program rather than a shell script because under TCG each command
 * of a script takes some 50 ms, and a boot needs twenty of them.
 *
 * The harness waits for `fpr-init: start`, `ready` or `FAILED` on the console.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The guest's address in QEMU's user network, set statically because DHCP would take a second. */
#define ADDRESS "10.0.2.15"
#define NETMASK "255.255.255.0"

/* PCI base class of network controllers (include/linux/pci_ids.h), as in sysfs. */
#define PCI_NETWORK_CLASS "0x02"

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void failed(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

/*
 * Prints a line through the kernel's log, as an emergency, which every log level shows. Written to
 * the terminal, it could be split by the kernel's lines, and it would never come out if the serial
 * port has no interrupt, as on a microvm with a kernel that lacks CONFIG_SERIAL_8250_PNP.
 */
static void say_line(const char *prefix, const char *format, va_list arguments)
{
	int log = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
	char text[256], line[300];
	int size;

	vsnprintf(text, sizeof(text), format, arguments);
	size = snprintf(line, sizeof(line), "<0>fpr-init: %s%s\n", prefix, text);
	/* A single write, so that no line of the kernel's can split it. */
	if (log < 0 || write(log, line, (size_t)size) != size)
		dprintf(STDOUT_FILENO, "%s", line + strlen("<0>"));
	if (log >= 0)
		close(log);
}

static void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say_line("", format, arguments);
	va_end(arguments);
}

/* Prints what failed and sleeps forever: the kernel panics if process 1 exits. */
static void failed(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	say_line("FAILED: ", format, arguments);
	va_end(arguments);
	for (;;)
		pause();
}

static void mount_kind(const char *kind, const char *where, int needed)
{
	mkdir(where, 0755);
	if (mount(kind, where, kind, 0, NULL) && needed)
		failed("mount %s on %s: %s", kind, where, strerror(errno));
}

static void mount_all(void)
{
	mount_kind("proc", "/proc", 1);
	mount_kind("sysfs", "/sys", 1);
	mount_kind("devtmpfs", "/dev", 1);
	mount_kind("devpts", "/dev/pts", 1);
	mount_kind("tmpfs", "/run", 1);
	mount_kind("tmpfs", "/tmp", 1);
	/* The kernel may lack these. */
	mount_kind("debugfs", "/sys/kernel/debug", 0);
	mount_kind("tracefs", "/sys/kernel/tracing", 0);
}

/* Returns 0 or an errno. */
static int load_module(const char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC), error = 0;

	if (file < 0)
		return errno;
	if (syscall(SYS_finit_module, file, "", 0) && errno != EEXIST)
		error = errno;
	close(file);
	return error;
}

/*
 * /etc/modules.order, written by the image's builder, lists the modules in order of dependency.
 * Modules that no other needs end in " &" and are loaded in parallel, because verifying a module's
 * signature and probing its devices takes long.
 */
static void load_modules(void)
{
	FILE *list = fopen("/etc/modules.order", "re");
	char path[256];
	int status;

	if (!list)
		failed("open /etc/modules.order: %s", strerror(errno));
	while (fgets(path, sizeof(path), list)) {
		char *background = strstr(path, " &\n");
		int error;

		*(background ? background : path + strcspn(path, "\n")) = '\0';
		if (background) {
			pid_t child = fork();

			if (child < 0)
				failed("fork: %s", strerror(errno));
			if (child)
				continue;
		}
		error = load_module(path);
		if (error)
			failed("load %s: %s (dmesg may say more)", path, strerror(error));
		if (background)
			_exit(0);
	}
	fclose(list);
	while (waitpid(-1, &status, 0) > 0 || errno == EINTR)
		;
}

static int set_address(int control, struct ifreq *request, unsigned long what, const char *address)
{
	struct sockaddr_in *in = (struct sockaddr_in *)&request->ifr_addr;

	memset(in, 0, sizeof(*in));
	in->sin_family = AF_INET;
	inet_pton(AF_INET, address, &in->sin_addr);
	return ioctl(control, what, request);
}

static int set_up(int control, struct ifreq *request)
{
	request->ifr_flags = IFF_UP;
	return ioctl(control, SIOCSIFFLAGS, request);
}

static int has_network_hardware(void)
{
	DIR *devices = opendir("/sys/bus/pci/devices");
	struct dirent *device;
	int found = 0;

	while (devices && !found && (device = readdir(devices))) {
		char path[300], class[16] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/class", device->d_name);
		file = fopen(path, "re");
		found = file && fgets(class, sizeof(class), file) &&
			!strncmp(class, PCI_NETWORK_CLASS, strlen(PCI_NETWORK_CLASS));
		if (file)
			fclose(file);
	}
	if (devices)
		closedir(devices);
	return found;
}

/* Returns whether the guest has a network device. */
static int bring_up_network(void)
{
	struct ifreq lo = { .ifr_name = "lo" }, eth0 = { .ifr_name = "eth0" };
	int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (control < 0)
		failed("the kernel has no IPv4: %s", strerror(errno));
	if (set_up(control, &lo))
		failed("bring up lo: %s", strerror(errno));
	if (ioctl(control, SIOCGIFINDEX, &eth0)) {
		if (has_network_hardware())
			failed("this kernel has no driver for the network device "
			       "(needs virtio_pci and virtio_net, built in or as modules)");
		close(control);
		return 0;
	}
	if (set_address(control, &eth0, SIOCSIFADDR, ADDRESS) ||
	    set_address(control, &eth0, SIOCSIFNETMASK, NETMASK) || set_up(control, &eth0))
		failed("bring up eth0: %s", strerror(errno));
	close(control);
	return 1;
}

static pid_t start(char *const command[], const char *oom_score_adj)
{
	pid_t child = fork();

	if (child < 0)
		failed("fork: %s", strerror(errno));
	if (child == 0) {
		int file = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
		sigset_t none;

		/* The child must not inherit the blocked signals of process 1. */
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		if (file >= 0 && write(file, oom_score_adj, strlen(oom_score_adj)) >= 0)
			execv(command[0], command);
		say("cannot start %s: %s", command[0], strerror(errno));
		_exit(127);
	}
	return child;
}

/* Returns once port 22 is open: dropbear goes into the background only then. */
static void start_ssh_server(void)
{
	/* No passwords, no forwarding. */
	char *const dropbear[] = { "/bin/dropbear", "-s", "-j", "-k", "-m", "-r",
				   "/etc/dropbear/host_key", "-p", "22", "-P",
				   "/run/dropbear.pid", NULL };
	int status;
	/* The server must survive memory pressure; /bin/guest-shell resets its sessions to 0. */
	pid_t child = start(dropbear, "-1000");

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			failed("wait for the SSH server: %s", strerror(errno));
	if (status)
		failed("start the SSH server: wait status %#x", (unsigned int)status);
}

static int is_told(const char *word)
{
	char cmdline[4096] = "";
	FILE *file = fopen("/proc/cmdline", "re");
	int found = file && fgets(cmdline, sizeof(cmdline), file) && strstr(cmdline, word);

	if (file)
		fclose(file);
	return found;
}

/*
 * Continues with the memory image on the disk, if it holds one; then this does not return
 * (Documentation/admin-guide/pm/sleep-states.rst, /sys/power/resume).
 */
static void resume(void)
{
	char *const modprobe[] = { "/bin/modprobe", "virtio_blk", NULL };
	char device[32] = "";
	pid_t child = start(modprobe, "0");
	int status, file;
	FILE *disk;

	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			failed("wait for modprobe: %s", strerror(errno));
	disk = fopen("/sys/block/vda/dev", "re");
	if (!disk || !fgets(device, sizeof(device), disk))
		failed("resume: there is no disk");
	fclose(disk);
	file = open("/sys/power/resume", O_WRONLY | O_CLOEXEC);
	if (file < 0)
		failed("open /sys/power/resume: %s", strerror(errno));
	/* It fails if there is no image, as before the first hibernation. */
	if (write(file, device, strlen(device)) < 0)
		say("nothing to resume: %s", strerror(errno));
	close(file);
}

/* Reaps orphans, and handles the signals that busybox's poweroff and reboot send to process 1. */
static void serve(const sigset_t *signals, int console_shell)
{
	/* A shell for a guest booted by hand (repro.sh). */
	char *const shell[] = { "/bin/setsid", "cttyhack", "sh", NULL };
	pid_t shell_pid = console_shell ? start(shell, "0") : -1;

	for (;;) {
		int seen = sigwaitinfo(signals, NULL);
		pid_t child;

		if (seen == SIGUSR1 || seen == SIGUSR2)
			reboot(RB_POWER_OFF);
		if (seen == SIGTERM)
			reboot(RB_AUTOBOOT);
		while ((child = waitpid(-1, NULL, WNOHANG)) > 0)
			if (child == shell_pid)
				shell_pid = start(shell, "0");
	}
}

int main(void)
{
	sigset_t signals;

	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGUSR1);
	sigaddset(&signals, SIGUSR2);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	mount_all();
	say("start");
	load_modules();
	if (is_told("fpr.resume"))
		resume();
	if (bring_up_network()) {
		start_ssh_server();
		say("ready");
	} else {
		say("ready (no network device)");
	}
	serve(&signals, is_told("fpr.console_shell"));
}
