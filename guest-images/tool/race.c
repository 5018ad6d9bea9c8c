/* SPDX-License-Identifier: Apache-2.0 */
/*
 * race: allocates blocks again as soon as they have been reported, and verifies that what it writes
 * to them stays.
 *
 * It fills nearly all free memory with a pattern and holds it. In each round it frees one window of
 * it, waits until the kernel has reported blocks of the window, and at once allocates as much
 * again. Little else is free then, so it gets the blocks just reported, a huge page at a time. It writes
 * the first word of each page at once, and the rest when it has all pages. A host that discards
 * late, or a guest that reuses blocks before it has told the host, loses pages in use. The window
 * stays held until its next round or the end, and is verified then.
 *
 * Two signs show that blocks are reported: a block of the window has the mark of a reported block
 * (/proc/kpageflags), or free memory fell while blocks were isolated for reporting and rose again.
 *
 * A guest that gives blocks back too early may do so while the host is still at them. Where the host
 * takes its time (--slow-ms), the tool therefore watches the blocks: in an honest guest a block is off
 * the free lists for at least that time before it bears the mark. It neither sleeps nor reads the
 * clock meanwhile: the devices of an emulated machine, its timers among them, stand still while QEMU
 * discards, and so does a CPU that asks one. The kernel makes its pass on the CPU on which memory was
 * freed (queue_delayed_work(), kernel/workqueue.c), so the tool frees on one CPU and watches on
 * another.
 *
 *   race --cushion N --window N --rounds N --wait-ms N --hold-ms N --seed N [--pass-ms N --slow-ms N]
 *
 * Prints `filled ...` (see churn.c), then for each round `raced round=N waited_ns=N
 * reported_bytes=N reused_bytes=N taken_ns=N early_bytes=N`: the bytes of the window seen reported,
 * the part of them that it allocated again, the time that this took, and the bytes in blocks marked
 * too early to have been discarded; `mismatch ...` for wrong pages; and
 * `verified ...`, as churn does, for all checks together. --hold-ms: time from the last round to
 * the last check.
 */
#define _GNU_SOURCE
#include "buddy.h"
#include "cpus.h"
#include "hold.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* include/uapi/linux/kernel-page-flags.h; pages.c explains the mark of a reported block. */
#define KPF_UPTODATE (1ULL << 3)
#define KPF_BUDDY (1ULL << 10)

/* Free blocks to leave, so that the kernel need not compact memory for the last allocation. */
#define SPARE_BLOCKS 3U
#define POLL_NS 100000L
/* How long to wait for isolated blocks to come back. */
#define AWAY_NS 200000000ULL
/* Huge pages to allocate before looking at anything else. */
#define TAKEN_BLINDLY 2U

struct race {
	struct hold hold;
	struct findings findings;
	uint64_t window_pages, wait_ns, pass_ms, slow_ms;
	int kpageflags;
	/* The window's blocks of a huge page's size: their first PFNs, and which were reported. */
	uint64_t *blocks;
	char *reported;
	size_t block_count;
};

static void sleep_ns(long nanoseconds)
{
	struct timespec left = { nanoseconds / 1000000000, nanoseconds % 1000000000 };

	while (nanosleep(&left, &left))
		if (errno != EINTR)
			die("sleep");
}

/*
 * Makes `bytes` of free memory useless for huge pages by keeping one page of each block. The free
 * memory that the watermarks require lies there, so that every whole block can be allocated.
 */
static void make_cushion(uint64_t bytes)
{
	char *memory = map_aligned(bytes, MADV_HUGEPAGE);

	for (size_t at = 0; at < bytes; at += HUGE_BYTES) {
		char *rest = memory + at + PAGE_BYTES;

		memory[at] = 1;
		/* Part of a huge page is freed at once only if the huge page is split first. */
		if (madvise(rest, HUGE_BYTES - PAGE_BYTES, MADV_COLD) ||
		    madvise(rest, HUGE_BYTES - PAGE_BYTES, MADV_DONTNEED))
			die("free parts of huge pages");
	}
	/* khugepaged would fill them again, and leave nothing free. */
	if (madvise(memory, bytes, MADV_NOHUGEPAGE))
		die("keep khugepaged away");
}

static uint64_t page_flags(const struct race *race, uint64_t pfn)
{
	uint64_t flags = 0;

	read_at(race->kpageflags, &flags, sizeof(flags), pfn * 8, "/proc/kpageflags");
	return flags;
}

static int is_marked(const struct race *race, uint64_t pfn)
{
	uint64_t marked = KPF_BUDDY | KPF_UPTODATE;

	return (page_flags(race, pfn) & marked) == marked;
}

/* Returns whether the block, or the block of twice its size around it, has the mark. */
static int is_reported(const struct race *race, uint64_t pfn)
{
	return is_marked(race, pfn) ||
	       (pfn / HUGE_PAGES % 2 && is_marked(race, pfn - HUGE_PAGES));
}

/* Lists the whole blocks of the window; memory in partial blocks cannot be seen reported. */
static void note_blocks(struct race *race, uint64_t page)
{
	uint64_t *pfns = allocate(race->window_pages * 8);

	hold_pfns(&race->hold, page, race->window_pages, pfns);
	race->block_count = 0;
	for (uint64_t i = 0; i + HUGE_PAGES <= race->window_pages; i++)
		if (pfns[i] && pfns[i] % HUGE_PAGES == 0 &&
		    pfns[i + HUGE_PAGES - 1] == pfns[i] + HUGE_PAGES - 1)
			race->blocks[race->block_count++] = pfns[i];
	memset(race->reported, 0, race->block_count);
	free(pfns);
}

/* Waits until isolated blocks have come back to free memory, up to AWAY_NS. */
static void await_return(uint64_t before)
{
	uint64_t start = monotonic_ns(), low = free_bytes(), now = low;

	while (monotonic_ns() - start < AWAY_NS && now < low + (before - low) / 2) {
		now = free_bytes();
		if (now < low)
			low = now;
	}
}

/* Waits for a report; returns whether one was seen. */
static int await_report(const struct race *race)
{
	uint64_t start = monotonic_ns(), most = free_bytes(), window = race->window_pages * PAGE_BYTES;
	size_t next = 0;

	while (monotonic_ns() - start < race->wait_ns) {
		uint64_t now = free_bytes();

		if (now > most)
			most = now; /* freed pages arrive slowly, from the per-CPU lists */
		if (most - now > window / 4) {
			await_return(most);
			return 1;
		}
		/* A few per turn are enough: many blocks come back at once. */
		for (int i = 0; i < 4 && race->block_count; i++, next++)
			if (is_reported(race, race->blocks[next % race->block_count]))
				return 1;
		sleep_ns(POLL_NS);
	}
	return 0;
}

static uint64_t note_reported(struct race *race)
{
	uint64_t count = 0;

	for (size_t i = 0; i < race->block_count; i++)
		count += race->reported[i] = (char)is_reported(race, race->blocks[i]);
	return count * HUGE_BYTES;
}

/* Writes the first word of each page, which faults in a huge page at a time. */
static void stamp(struct race *race, uint64_t page, uint64_t count, uint64_t seed)
{
	for (uint64_t end = page + count; page < end; page++) {
		stamp_page(hold_words(&race->hold, page), seed, page);
		ledger_set(&race->hold.ledger, page, seed);
	}
	race->hold.held += count;
}

/*
 * How a block of the window was seen: free without the mark, from and until when, and the longest
 * time in between during which it may have been off the free lists.
 */
struct sight {
	uint64_t since_ms, until_ms, longest_ms;
};

/* Takes in a look, which was made between the two times. */
static void see_free(struct sight *sight, uint64_t after_ms, uint64_t before_ms)
{
	if (!sight->since_ms)
		sight->since_ms = before_ms;
	else if (before_ms - sight->until_ms > sight->longest_ms)
		sight->longest_ms = before_ms - sight->until_ms;
	sight->until_ms = after_ms;
}

/*
 * Whether a block that bears the mark was never off the free lists for as long as the host takes for
 * one, less a tenth. An honest block was: the mark comes when it is put back (page_reporting_drain(),
 * mm/page_reporting.c), and does not survive a merge or a split. For an instant it is back without
 * the mark, so it must have been seen free for longer than that.
 */
static int is_early(const struct race *race, const struct sight *sight)
{
	uint64_t long_ms = race->pass_ms / 4 > race->slow_ms ? race->pass_ms / 4 : race->slow_ms;

	return sight->since_ms && sight->until_ms > sight->since_ms + long_ms &&
	       sight->longest_ms < race->slow_ms / 10 * 9;
}

/*
 * Waits until blocks bear the mark, and stores the bytes of those that bear it too early. Blocks in
 * the middle of larger ones show no mark of theirs. Returns whether any did.
 */
static int watch(struct race *race, uint64_t *early)
{
	struct sight *sights = allocate(race->block_count * sizeof(*sights));
	uint64_t start = ticks_ms();
	int seen = 0, after = 0;

	memset(sights, 0, race->block_count * sizeof(*sights));
	/* All blocks of a report get their marks together: one more look sees the last. */
	while (after < 2 && ticks_ms() - start < race->wait_ns / 1000000) {
		after += seen;
		for (size_t i = 0; i < race->block_count; i++) {
			uint64_t at = ticks_ms(), flags = page_flags(race, race->blocks[i]);

			if (race->reported[i] || !(flags & KPF_BUDDY))
				continue;
			see_free(&sights[i], at, ticks_ms());
			if (!(flags & KPF_UPTODATE))
				continue;
			seen = race->reported[i] = 1;
			if (is_early(race, &sights[i]))
				*early += HUGE_BYTES;
		}
	}
	free(sights);
	return seen;
}

/* Writes the rest of each page, unless its first word is already lost: the check must find that. */
static void complete(struct race *race, uint64_t page, uint64_t count, uint64_t seed)
{
	for (uint64_t end = page + count; page < end; page++) {
		uint64_t *words = hold_words(&race->hold, page);

		if (words[0] == pattern_word(seed, page, 0))
			fill_page(words, seed, page);
	}
}

static int compare(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return (a > b) - (a < b);
}

/* Counts the allocated bytes that lie in blocks seen reported. */
static uint64_t reused_bytes(struct race *race, uint64_t page)
{
	uint64_t *pfns = allocate(race->window_pages * 8), reused = 0;

	hold_pfns(&race->hold, page, race->window_pages, pfns);
	qsort(pfns, race->window_pages, sizeof(*pfns), compare);
	for (size_t i = 0; i < race->block_count; i++)
		for (uint64_t pfn = race->blocks[i];
		     race->reported[i] && pfn < race->blocks[i] + HUGE_PAGES; pfn++)
			reused += !!bsearch(&pfn, pfns, race->window_pages, sizeof(*pfns), compare);
	free(pfns);
	return reused * PAGE_BYTES;
}

static void run_round(struct race *race, uint64_t round, uint64_t page, uint64_t seed)
{
	uint64_t count = race->window_pages, start, seen, reported, early = 0, next;
	int came;

	note_blocks(race, page);
	hold_check(&race->hold, page, count, &race->findings);
	start = monotonic_ns();
	hold_drop(&race->hold, page, count);
	run_on(1);
	came = race->slow_ms ? watch(race, &early) : await_report(race);
	seen = monotonic_ns();
	next = TAKEN_BLINDLY * HUGE_PAGES < count ? TAKEN_BLINDLY * HUGE_PAGES : count;
	stamp(race, page, next, seed);
	reported = note_reported(race);
	stamp(race, page + next, count - next, seed);
	run_on(0);
	complete(race, page, count, seed);
	say("raced round=%" PRIu64 " waited_ns=%" PRIu64 " reported_bytes=%" PRIu64
	    " reused_bytes=%" PRIu64 " taken_ns=%" PRIu64 " early_bytes=%" PRIu64,
	    round, seen - start, came ? reported : 0, came ? reused_bytes(race, page) : 0,
	    monotonic_ns() - seen, early);
}

int race_main(int argc, char **argv)
{
	uint64_t blocks, cushion = 0, window = 0, rounds = 0, wait_ms = 0, hold_ms = 0, seed = 0, at = 0;
	uint64_t pass_ms = 0, slow_ms = 0;
	struct {
		const char *name;
		uint64_t *number;
	} options[] = {
		{ "--cushion", &cushion }, { "--window", &window },   { "--rounds", &rounds },
		{ "--wait-ms", &wait_ms }, { "--hold-ms", &hold_ms }, { "--seed", &seed },
		{ "--pass-ms", &pass_ms }, { "--slow-ms", &slow_ms },
	};
	static struct race race;
	char lists[32], unused[32];
	int had_lists;

	if (argc % 2)
		usage("race: %s needs a value", argv[argc - 1]);
	for (int i = 0; i < argc; i += 2) {
		size_t option = 0, known = sizeof(options) / sizeof(options[0]);

		while (option < known && strcmp(argv[i], options[option].name))
			option++;
		if (option == known)
			usage("race: unknown option %s", argv[i]);
		*options[option].number = parse_number(argv[i + 1], argv[i]);
	}
	if (!seed || !rounds || !window || window % HUGE_BYTES || cushion % HUGE_BYTES)
		usage("race: --cushion and --window take whole huge pages, --window, --rounds and --seed "
		      "a number other than 0");
	work_in_a_child("race");
	race.window_pages = window / PAGE_BYTES;
	race.wait_ns = wait_ms * 1000000;
	race.pass_ms = pass_ms;
	race.slow_ms = slow_ms;
	calibrate_ticks();
	race.kpageflags = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	if (race.kpageflags < 0)
		die("open /proc/kpageflags");
	race.blocks = allocate(race.window_pages / HUGE_PAGES * sizeof(*race.blocks));
	race.reported = allocate(race.window_pages / HUGE_PAGES);
	run_on(0);
	had_lists = set_lists(SHORTEST_LISTS, lists, sizeof(lists));
	make_cushion(cushion);
	blocks = free_blocks();
	if (blocks < SPARE_BLOCKS + window / HUGE_BYTES) {
		errno = ENOMEM;
		die("find %" PRIu64 " free huge pages (there are %" PRIu64 ")",
		    SPARE_BLOCKS + window / HUGE_BYTES, blocks);
	}
	hold_open(&race.hold, (blocks - SPARE_BLOCKS) * HUGE_BYTES, MADV_HUGEPAGE);
	hold_fill(&race.hold, seed);
	for (uint64_t round = 1; round <= rounds; round++) {
		run_round(&race, round, at, seed + round);
		at += race.window_pages;
		if (at + race.window_pages > race.hold.pages)
			at = 0;
	}
	run_anywhere();
	sleep_ns((long)(hold_ms * 1000000));
	if (had_lists)
		set_lists(lists, unused, sizeof(unused));
	atomic_store(&race.findings.checked, 0);
	hold_verify(&race.hold, &race.findings);
	return findings_bad(&race.findings) ? STATUS_MISMATCH : STATUS_OK;
}
