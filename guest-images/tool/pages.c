/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pages: the state of every page frame, run-length encoded.
 *
 * A round is, in little endian:
 *   header   "FPRPAGES", u32 version, u32 bytes in a page
 *   runs     u32 each: state in bits 0-2, length in pages in bits 3-31
 *   trailer  u32 0xffffffff, u32 number of runs, u64 number of pages,
 *            u64 monotonic ns at the start of the reading, u64 at its end
 *
 * The states are those of GuestState in harness/ledger/facts.py. Before every round but the first
 * the tool waits for a byte on standard input; its end ends the tool.
 */
#include "util.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSION 1
#define END_OF_RUNS 0xffffffffU
#define LONGEST_RUN ((1U << 29) - 2)
#define READ_PAGES 65536UL
#define OUT_RUNS 8192U

/* include/uapi/linux/kernel-page-flags.h */
#define KPF_UPTODATE (1ULL << 3)
#define KPF_BUDDY (1ULL << 10)
#define KPF_HWPOISON (1ULL << 19)
#define KPF_NOPAGE (1ULL << 20)

enum state { USED = 0, FREE = 1, REPORTED_HEAD = 2, NO_PAGE = 3, HELD = 4 };

/* A bit for each page frame that one of the named processes maps. */
struct held {
	uint64_t *bits;
	uint64_t pages;
};

struct output {
	uint32_t runs[OUT_RUNS];
	unsigned int waiting;
	uint32_t total;
	uint32_t state;
	uint64_t length;
};

static void flush_runs(struct output *out)
{
	write_all(out->runs, out->waiting * sizeof(out->runs[0]));
	out->waiting = 0;
}

static void end_run(struct output *out)
{
	while (out->length) {
		uint32_t length = out->length > LONGEST_RUN ? LONGEST_RUN : (uint32_t)out->length;

		if (out->waiting == OUT_RUNS)
			flush_runs(out);
		out->runs[out->waiting++] = length << 3 | out->state;
		out->total++;
		out->length -= length;
	}
}

static inline void put(struct output *out, uint32_t state)
{
	if (state != out->state) {
		end_run(out);
		out->state = state;
	}
	out->length++;
}

static int is_held(const struct held *held, uint64_t pfn)
{
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

/* Adds the pages that a mapping of the process has now. */
static void hold_range(struct held *held, int pagemap, uint64_t start, uint64_t end)
{
	static uint64_t entries[8192];

	while (start < end) {
		uint64_t count = (end - start) / PAGE_BYTES;
		ssize_t got;

		if (count > 8192)
			count = 8192;
		got = pread(pagemap, entries, count * 8, (off_t)(start / PAGE_BYTES * 8));
		if (got < 0)
			die("read pagemap");
		if (!got)
			return; /* the vsyscall page lies beyond pagemap's end */
		for (ssize_t i = 0; i < got / 8; i++)
			if (entries[i] & PAGEMAP_PRESENT)
				hold(held, entries[i] & PAGEMAP_PFN);
		start += (uint64_t)got / 8 * PAGE_BYTES;
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
	fclose(maps);
	close(pagemap);
}

static uint32_t state_of(uint64_t flags, const struct held *held, uint64_t pfn)
{
	if (flags & KPF_NOPAGE)
		return NO_PAGE;
	if (flags & KPF_BUDDY)
		return flags & KPF_UPTODATE ? REPORTED_HEAD : FREE;
	/* A poisoned page is out of the kernel's hands for good: used, whoever mapped it. */
	return is_held(held, pfn) && !(flags & KPF_HWPOISON) ? HELD : USED;
}

static void put_header(void)
{
	struct {
		char magic[8];
		uint32_t version, page_bytes;
	} header = { .version = VERSION, .page_bytes = PAGE_BYTES };

	memcpy(header.magic, "FPRPAGES", 8);
	write_all(&header, sizeof(header));
}

static void put_trailer(const struct output *out, uint64_t pages, uint64_t start, uint64_t end)
{
	struct {
		uint32_t mark, runs;
		uint64_t pages, start, end;
	} trailer = { END_OF_RUNS, out->total, pages, start, end };

	write_all(&trailer, sizeof(trailer));
}

static void read_round(int kpageflags, uint64_t *flags, const struct held *held)
{
	static struct output out;
	uint64_t pfn = 0, start = monotonic_ns();
	size_t got;

	memset(&out, 0, sizeof(out));
	put_header();
	if (lseek(kpageflags, 0, SEEK_SET) < 0)
		die("rewind /proc/kpageflags");
	do {
		got = read_fully(kpageflags, flags, READ_PAGES * 8, "/proc/kpageflags") / 8;
		for (size_t i = 0; i < got; i++, pfn++)
			put(&out, state_of(flags[i], held, pfn));
	} while (got == READ_PAGES);
	end_run(&out);
	flush_runs(&out);
	put_trailer(&out, pfn, start, monotonic_ns());
}

int pages_main(int argc, char **argv)
{
	uint64_t *flags = allocate(READ_PAGES * 8);
	struct held held = { NULL, 0 };
	int kpageflags = open("/proc/kpageflags", O_RDONLY);
	char go;

	if (kpageflags < 0)
		die("open /proc/kpageflags");
	if (argc % 2)
		usage("pages: --held-by needs a process id");
	for (int i = 0; i < argc; i += 2)
		if (strcmp(argv[i], "--held-by"))
			usage("pages: unknown option %s", argv[i]);
	do {
		if (held.pages)
			memset(held.bits, 0, held.pages / 8);
		for (int i = 0; i < argc; i += 2)
			hold_process(&held, parse_number(argv[i + 1], "--held-by"));
		read_round(kpageflags, flags, &held);
	} while (read_fully(STDIN_FILENO, &go, 1, "standard input") == 1);
	return STATUS_OK;
}
