/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages: sends the state of every page frame, run-length encoded.
 *
 * A round, in little endian:
 *   header  "FPRPAGES", u32 version, u32 bytes in a page, u64 number of page frames,
 *           u64 monotonic ns at the start of the reading, u64 at its end, u64 number of runs
 *   runs    u32 each: state in bits 0-2, length in pages in bits 3-31
 *
 * The states are those of GuestState in harness/kernel/pages.py. With --kinds, pages in use have
 * those of PageKind in harness/kernel/page_kinds.py instead; the version is 3, the state takes bits
 * 0-3, the tool ends LEFT_ALONE_SECONDS after the last byte, and with --patient SECONDS, the guest's
 * other work goes first in the first seconds of each round. Before every round but the first, the
 * tool waits for a byte on standard input; the end of standard input ends the tool.
 */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#define VERSION 2
#define VERSION_KINDS 3

#define LEFT_ALONE_SECONDS 120U

/*
 * At nice 19, a thread gets 1.4 % of a CPU that others keep busy (sched_prio_to_weight in
 * kernel/sched/core.c: 15 beside 1024), and all of an idle one.
 */
#define PATIENT_NICE 19
#define MOST_PATIENT_SECONDS 60U

/* Page frames that a thread reads at once, and the most pieces, for a guest of 16 TiB. */
#define PIECE_PAGES 32768U
#define MOST_PIECES 131072U

/* include/uapi/linux/kernel-page-flags.h */
#define KPF_UPTODATE (1ULL << 3)
#define KPF_LRU (1ULL << 5)
#define KPF_SLAB (1ULL << 7)
#define KPF_BUDDY (1ULL << 10)
#define KPF_ANON (1ULL << 12)
#define KPF_SWAPBACKED (1ULL << 14)
#define KPF_COMPOUND_TAIL (1ULL << 16)
#define KPF_HUGE (1ULL << 17)
#define KPF_HWPOISON (1ULL << 19)
#define KPF_NOPAGE (1ULL << 20)
#define KPF_OFFLINE (1ULL << 23)
#define KPF_ZERO_PAGE (1ULL << 24)
#define KPF_PGTABLE (1ULL << 26)

enum state {
	USED = 0,
	FREE = 1,
	REPORTED_HEAD = 2,
	NO_PAGE = 3,
	HELD = 4,
	CONTENT = 5,
	OFFLINE = 6,
	/* Only with --kinds, instead of USED and CONTENT. */
	ANONYMOUS = 8,
	FILE_CACHE = 9,
	SHMEM = 10,
	SLAB = 11,
	PAGE_TABLE = 12,
	HUGETLB = 13,
	KERNEL = 14
};

/* Page frames [start, end) of the guest's memory. */
struct range {
	uint64_t start, end;
};

/* A bit for each page frame that one of the named processes maps. */
struct held {
	uint64_t *bits;
	uint64_t pages;
};

/* The runs of one piece of page frames. */
struct piece {
	uint32_t *runs;
	uint32_t count, pages;
};

static struct {
	int kpageflags;
	int kinds;
	uint64_t patient_seconds;
	/* Monotonic ns; from then on, a round is as urgent as all else. */
	uint64_t hurry;
	struct range *ram;
	size_t ram_count;
	struct held held;
	atomic_uint next;
	/* One past the first piece that reaches the end of the file. */
	atomic_uint end;
	struct piece pieces[MOST_PIECES];
} round_;

static int is_held(uint64_t pfn)
{
	const struct held *held = &round_.held;

	return pfn < held->pages && held->bits[pfn / 64] >> pfn % 64 & 1;
}

static void hold(struct held *held, uint64_t pfn)
{
	if (pfn >= held->pages) {
		uint64_t pages = (pfn / 65536 + 1) * 65536 * 2;
		uint64_t *bits = realloc(held->bits, pages / 8);

		if (!bits)
			die("allocate %" PRIu64 " bytes", pages / 8);
		memset(bits + held->pages / 64, 0, (pages - held->pages) / 8);
		held->bits = bits;
		held->pages = pages;
	}
	held->bits[pfn / 64] |= 1ULL << pfn % 64;
}

/* Adds the pages present in a mapping of the process. */
static void hold_range(struct held *held, int pagemap, uint64_t start, uint64_t end)
{
	static uint64_t entries[8192];

	while (start < end) {
		uint64_t count = (end - start) / PAGE_BYTES, got;

		if (count > 8192)
			count = 8192;
		got = read_at(pagemap, entries, count * 8, start / PAGE_BYTES * 8, "pagemap") / 8;
		for (uint64_t i = 0; i < got; i++)
			if (entries[i] & PAGEMAP_PRESENT)
				hold(held, entries[i] & PAGEMAP_PFN);
		if (got < count)
			return; /* the vsyscall page lies beyond pagemap's end */
		start += count * PAGE_BYTES;
	}
}

/* Adds the anonymous memory of a process. */
static void hold_process(struct held *held, uint64_t pid)
{
	char name[64], line[512];
	FILE *maps;
	int pagemap;

	snprintf(name, sizeof(name), "/proc/%" PRIu64 "/pagemap", pid);
	pagemap = open(name, O_RDONLY);
	if (pagemap < 0)
		die("open %s", name);
	snprintf(name, sizeof(name), "/proc/%" PRIu64 "/maps", pid);
	maps = fopen(name, "r");
	if (!maps)
		die("open %s", name);
	while (fgets(line, sizeof(line), maps)) {
		uint64_t start, end, inode;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %*s %*s %*s %" SCNu64, &start, &end,
			   &inode) == 3 && !inode)
			hold_range(held, pagemap, start, end);
	}
	if (ferror(maps))
		die("read %s", name);
	fclose(maps);
	close(pagemap);
}

/* Reads the guest's memory ranges, anew in each round because of memory hotplug. */
static void read_ram(void)
{
	FILE *iomem = fopen("/proc/iomem", "r");
	char line[256];

	if (!iomem)
		die("open /proc/iomem");
	round_.ram_count = 0;
	while (fgets(line, sizeof(line), iomem)) {
		struct range *ram;
		uint64_t start, last;

		/* The entries of virtio-mem are indented below its device. */
		if (!strstr(line, " : System RAM") ||
		    sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &last) != 2 || !last)
			continue;
		ram = realloc(round_.ram, (round_.ram_count + 1) * sizeof(*ram));
		if (!ram)
			die("allocate the list of memory ranges");
		ram[round_.ram_count++] = (struct range){
			.start = start / PAGE_BYTES, .end = last / PAGE_BYTES + 1};
		round_.ram = ram;
	}
	if (ferror(iomem))
		die("read /proc/iomem");
	fclose(iomem);
	if (!round_.ram_count) {
		errno = EACCES; /* without root, all addresses read 0 */
		die("find System RAM in /proc/iomem");
	}
}

static int is_ram(uint64_t pfn)
{
	for (size_t i = 0; i < round_.ram_count; i++)
		if (pfn >= round_.ram[i].start && pfn < round_.ram[i].end)
			return 1;
	return 0;
}

/*
 * Returns whether the page has certainly been written: anonymous memory and page tables are cleared
 * before use, and a file's page is up to date once it has been filled. Pages of the hugetlb pool
 * and of the slab allocator may never have been touched.
 */
static int has_content(uint64_t flags)
{
	if (flags & (KPF_SLAB | KPF_HUGE | KPF_ZERO_PAGE))
		return 0;
	return !!(flags & (KPF_UPTODATE | KPF_ANON | KPF_PGTABLE));
}

/* What a page in use is used for. */
static enum state kind_of(uint64_t flags)
{
	if (flags & KPF_HUGE)
		return HUGETLB;
	if (flags & KPF_SLAB)
		return SLAB;
	if (flags & KPF_PGTABLE)
		return PAGE_TABLE;
	if (flags & KPF_ZERO_PAGE)
		return KERNEL;
	if (flags & KPF_ANON)
		return ANONYMOUS;
	if (flags & (KPF_LRU | KPF_UPTODATE))
		return flags & KPF_SWAPBACKED ? SHMEM : FILE_CACHE;
	return KERNEL;
}

static enum state state_of(uint64_t flags, uint64_t pfn)
{
	if (flags & (KPF_NOPAGE | KPF_HWPOISON))
		return NO_PAGE;
	/* In the balloon, or hot-plugged but not online (virtio-mem). */
	if (flags & KPF_OFFLINE)
		return OFFLINE;
	if (flags & KPF_BUDDY)
		return flags & KPF_UPTODATE ? REPORTED_HEAD : FREE;
	/*
	 * Page frames without memory are not always marked: 5.10 shows the rest of an incomplete
	 * memory section as reserved, and from 6.16 kpage_read() in fs/proc/page.c shows no flag for
	 * a hole, just as for some pages of the kernel's own.
	 */
	if (!is_ram(pfn))
		return NO_PAGE;
	if (round_.kinds)
		return kind_of(flags);
	/* A process maps the zero page where it has not written. */
	if (is_held(pfn) && !(flags & KPF_ZERO_PAGE))
		return HELD;
	return has_content(flags) ? CONTENT : USED;
}

/* Encodes the flags of `pages` page frames from `pfn`; returns the number of runs. */
static uint32_t encode(uint32_t *runs, const uint64_t *flags, uint32_t pages, uint64_t pfn)
{
	const uint32_t unknown = round_.kinds ? KERNEL : USED, bits = round_.kinds ? 4 : 3;
	uint32_t count = 0, current = 0, length = 0, head = USED;

	for (uint32_t i = 0; i < pages; i++) {
		uint32_t state = state_of(flags[i], pfn + i);

		/* The head of a compound page decides for all its pages. */
		if (!(flags[i] & KPF_COMPOUND_TAIL))
			head = state;
		else if (state == unknown && (head == CONTENT || head >= ANONYMOUS))
			state = head;

		if (length && state != current) {
			runs[count++] = length << bits | current;
			length = 0;
		}
		current = state;
		length++;
	}
	if (length)
		runs[count++] = length << bits | current;
	return count;
}

/*
 * Sets how nice the calling thread is, and its session, within which it counts under autogroup
 * (CONFIG_SCHED_AUTOGROUP). Where it is not allowed to be as urgent again, it stays slow.
 */
static void be_nice(int nice)
{
	int session = open("/proc/self/autogroup", O_WRONLY);

	setpriority(PRIO_PROCESS, 0, nice);
	if (session >= 0) {
		dprintf(session, "%d", nice);
		close(session);
	}
}

static void *read_pieces(void *unused)
{
	uint64_t *flags = allocate(PIECE_PAGES * sizeof(*flags));
	uint32_t *runs = allocate(PIECE_PAGES * sizeof(*runs));
	unsigned int index;
	int patient = round_.patient_seconds > 0;

	while ((index = atomic_fetch_add(&round_.next, 1)) < atomic_load(&round_.end)) {
		struct piece *piece = &round_.pieces[index];
		uint64_t pfn = (uint64_t)index * PIECE_PAGES;
		size_t got;

		if (patient && monotonic_ns() > round_.hurry) {
			be_nice(0);
			patient = 0;
		}
		got = read_at(round_.kpageflags, flags, PIECE_PAGES * 8, pfn * 8, "/proc/kpageflags");

		piece->pages = (uint32_t)(got / 8);
		piece->count = encode(runs, flags, piece->pages, pfn);
		piece->runs = allocate(piece->count * sizeof(*runs));
		memcpy(piece->runs, runs, piece->count * sizeof(*runs));
		if (piece->pages < PIECE_PAGES) {
			unsigned int end = atomic_load(&round_.end);

			while (index + 1 < end &&
			       !atomic_compare_exchange_weak(&round_.end, &end, index + 1))
				;
		}
	}
	free(flags);
	free(runs);
	return unused;
}

/* Sends the round with one write, so that it takes few packets. */
static void send_round(unsigned int pieces, uint64_t start, uint64_t end)
{
	struct header {
		char magic[8];
		uint32_t version, page_bytes;
		uint64_t pages, start, end, runs;
	} header = { .version = round_.kinds ? VERSION_KINDS : VERSION, .page_bytes = PAGE_BYTES, .start = start, .end = end };
	size_t used = sizeof(header);
	char *message;

	memcpy(header.magic, "FPRPAGES", sizeof(header.magic));
	for (unsigned int i = 0; i < pieces; i++) {
		header.pages += round_.pieces[i].pages;
		header.runs += round_.pieces[i].count;
	}
	message = allocate(used + header.runs * sizeof(uint32_t));
	memcpy(message, &header, used);
	for (unsigned int i = 0; i < pieces; i++) {
		size_t size = round_.pieces[i].count * sizeof(uint32_t);

		memcpy(message + used, round_.pieces[i].runs, size);
		used += size;
	}
	write_all(message, used);
	free(message);
}

static void read_round(void)
{
	uint64_t start = monotonic_ns();
	unsigned int end;

	read_ram();
	/* The threads inherit it. */
	if (round_.patient_seconds)
		be_nice(PATIENT_NICE);
	round_.hurry = start + round_.patient_seconds * 1000000000ULL;
	atomic_store(&round_.next, 0);
	atomic_store(&round_.end, MOST_PIECES);
	on_every_cpu(read_pieces, NULL);
	if (round_.patient_seconds)
		be_nice(0);
	end = atomic_load(&round_.end);
	if (round_.pieces[end - 1].pages == PIECE_PAGES) {
		errno = EFBIG;
		die("read /proc/kpageflags");
	}
	send_round(end, start, monotonic_ns());
	/* A thread may have read a piece beyond the end before another reached the end. */
	for (unsigned int i = 0; i < MOST_PIECES && i < atomic_load(&round_.next); i++) {
		free(round_.pieces[i].runs);
		round_.pieces[i].runs = NULL;
	}
}

/* Waits for the byte that requests another round; returns 0 at the end of standard input. */
static int asked_again(void)
{
	char go;
	ssize_t got;

	while ((got = read(STDIN_FILENO, &go, 1)) < 0)
		if (errno != EINTR)
			die("read standard input");
	return got > 0;
}

int pages_main(int argc, char **argv)
{
	struct held *held = &round_.held;

	if ((argc == 1 || argc == 3) && !strcmp(argv[0], "--kinds")) {
		round_.kinds = 1;
		if (argc == 3 && !strcmp(argv[1], "--patient"))
			round_.patient_seconds = parse_number(argv[2], "--patient");
		else if (argc == 3)
			usage("pages: unknown option %s", argv[1]);
		if (round_.patient_seconds > MOST_PATIENT_SECONDS)
			usage("pages: --patient takes up to %u seconds", MOST_PATIENT_SECONDS);
		argc = 0;
	}
	if (argc % 2)
		usage("pages: %s needs a value", argv[argc - 1]);
	for (int i = 0; i < argc; i += 2)
		if (strcmp(argv[i], "--held-by"))
			usage("pages: unknown option %s", argv[i]);
	/* The tool's own huge pages would disturb what it measures. */
	if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0))
		die("prctl(PR_SET_THP_DISABLE)");
	round_.kpageflags = open("/proc/kpageflags", O_RDONLY);
	if (round_.kpageflags < 0)
		die("open /proc/kpageflags");
	do {
		/* Whoever asks for kinds may be cut off without the end of standard input. */
		if (round_.kinds)
			alarm(LEFT_ALONE_SECONDS);
		if (held->pages)
			memset(held->bits, 0, held->pages / 8);
		for (int i = 0; i < argc; i += 2)
			hold_process(held, parse_number(argv[i + 1], "--held-by"));
		read_round();
	} while (asked_again());
	return STATUS_OK;
}
