/* SPDX-License-Identifier: Apache-2.0 */
/*
 * churn: fills memory with a seeded pattern, holds it, verifies every word, frees all or a part.
 *
 * Answers are lines `word key=value ...`; commands come on standard input, one a line:
 *   verify                          every held word against its pattern
 *   free all                        everything that is held
 *   free blocks ORDER STRIDE OFFSET the physical blocks of 2^ORDER pages that are held wholly and
 *                                   whose number modulo STRIDE is OFFSET
 *   free tails                      all but the first page of every huge page, splitting none
 *   refill SEED                     writes what was freed again, with another seed
 *   exit                            as does the end of standard input
 */
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORDS (PAGE_BYTES / 8)
#define PROGRESS_NS 500000000ULL
#define TOLD_MISMATCHES 16
/* What a thread fills at a time: two huge pages. */
#define PIECE_PAGES 1024U
#define HUGE_PAGES 512U
/* Well above the kernel's highest, MAX_ORDER. */
#define MOST_ORDER 20U

struct churn {
	uint64_t *memory;
	uint64_t pages;
	uint64_t held;
	/* Of each page: the seed it was written with, 0 when it is freed. */
	uint64_t *seeds;
	int pagemap;
	int mismatched;
};

/* What the threads of one filling share. */
struct filling {
	struct churn *churn;
	uint64_t seed;
	atomic_ullong next, held, told;
};

/* The finalizer of splitmix64: neighbouring pages and seeds get unrelated words. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ULL;
	x = (x ^ x >> 27) * 0x94d049bb133111ebULL;
	return x ^ x >> 31;
}

static uint64_t first_word(uint64_t seed, uint64_t page)
{
	return mix(seed * 0x9e3779b97f4a7c15ULL + page);
}

/* Words of a page differ by an odd step, cheap under emulation. */
#define STEP UINT64_C(0x9e3779b97f4a7c15)

static void fill_page(uint64_t *words, uint64_t seed, uint64_t page)
{
	uint64_t word = first_word(seed, page);

	for (size_t i = 0; i < WORDS; i++, word += STEP)
		words[i] = word;
}

/* The index of the first wrong word, or WORDS. */
static size_t check_page(const uint64_t *words, uint64_t seed, uint64_t page)
{
	uint64_t word = first_word(seed, page);

	for (size_t i = 0; i < WORDS; i++, word += STEP)
		if (words[i] != word)
			return i;
	return WORDS;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf(" mono_ns=%" PRIu64 "\n", monotonic_ns());
	if (fflush(stdout))
		die("write to standard output");
}

/* Reads the page frame numbers of `count` pages from `page` on; 0 where there is none. */
static void read_pfns(const struct churn *churn, uint64_t page, uint64_t count, uint64_t *pfns)
{
	uint64_t index = (uint64_t)(uintptr_t)churn->memory / PAGE_BYTES + page;
	const char *name = "/proc/self/pagemap";

	if (read_at(churn->pagemap, pfns, count * 8, index * 8, name) != count * 8) {
		errno = EIO;
		die("read %s to its end", name);
	}
	for (uint64_t i = 0; i < count; i++)
		pfns[i] = pfns[i] & PAGEMAP_PRESENT ? pfns[i] & PAGEMAP_PFN : 0;
}

/* Fills the pages that are not held, piece by piece as the threads come. */
static void *fill_pieces(void *shared)
{
	struct filling *filling = shared;
	const struct churn *churn = filling->churn;
	unsigned long long start;

	while ((start = atomic_fetch_add(&filling->next, PIECE_PAGES)) < churn->pages) {
		uint64_t end = start + PIECE_PAGES < churn->pages ? start + PIECE_PAGES
								  : churn->pages;
		unsigned long long told = atomic_load(&filling->told), now;

		for (uint64_t page = start; page < end; page++) {
			if (churn->seeds[page])
				continue;
			fill_page(churn->memory + page * WORDS, filling->seed, page);
			churn->seeds[page] = filling->seed;
			atomic_fetch_add(&filling->held, 1);
		}
		now = monotonic_ns();
		if (now - told >= PROGRESS_NS &&
		    atomic_compare_exchange_strong(&filling->told, &told, now))
			say("filling bytes=%llu", atomic_load(&filling->held) * PAGE_BYTES);
	}
	return NULL;
}

/* Writes every page that is not held, with the seed. */
static void fill(struct churn *churn, uint64_t seed)
{
	uint64_t start = monotonic_ns();
	struct filling filling = { .churn = churn, .seed = seed, .held = churn->held,
				   .told = start };

	on_every_cpu(fill_pieces, &filling);
	churn->held = atomic_load(&filling.held);
	say("filled bytes=%" PRIu64 " pid=%d seconds=%.3f", churn->held * PAGE_BYTES, getpid(),
	    (double)(monotonic_ns() - start) / 1e9);
}

static void verify(struct churn *churn)
{
	uint64_t bad = 0, told = monotonic_ns();

	for (uint64_t page = 0; page < churn->pages; page++) {
		const uint64_t *words = churn->memory + page * WORDS;
		uint64_t seed = churn->seeds[page];
		size_t wrong;

		if (page % 1024 == 0 && monotonic_ns() - told >= PROGRESS_NS) {
			told = monotonic_ns();
			say("verifying bytes=%" PRIu64, page * PAGE_BYTES);
		}
		if (!seed)
			continue;
		wrong = check_page(words, seed, page);
		if (wrong == WORDS)
			continue;
		if (bad++ < TOLD_MISMATCHES) {
			uint64_t pfn, found = words[wrong];

			read_pfns(churn, page, 1, &pfn);
			say("mismatch page=%" PRIu64 " pfn=0x%" PRIx64 " offset=%zu"
			    " expected=0x%016" PRIx64 " found=0x%016" PRIx64,
			    page, pfn, wrong * 8,
			    (uint64_t)(first_word(seed, page) + wrong * STEP), found);
		}
	}
	churn->mismatched |= bad > 0;
	say("verified bytes=%" PRIu64 " mismatched_pages=%" PRIu64, churn->held * PAGE_BYTES, bad);
}

/*
 * Splits the huge page that a range begins or ends within: dropping a part of one gives nothing
 * back until the kernel splits it, some day. MADV_COLD on a part splits at once (mm/madvise.c,
 * madvise_cold_or_pageout_pte_range, 5.4 to 7.x).
 */
static void split_huge_page(const struct churn *churn, uint64_t page, uint64_t count)
{
	if (count && madvise(churn->memory + page * WORDS, count * PAGE_BYTES, MADV_COLD))
		die("madvise(MADV_COLD) of %" PRIu64 " pages", count);
}

static void split_edges(const struct churn *churn, uint64_t page, uint64_t count)
{
	uint64_t address = (uint64_t)(uintptr_t)churn->memory / PAGE_BYTES + page;
	uint64_t head = -address % HUGE_PAGES, tail = (address + count) % HUGE_PAGES;

	if (head > count) {
		split_huge_page(churn, page, count);
		return;
	}
	split_huge_page(churn, page, head);
	split_huge_page(churn, page + count - tail, tail);
}

/* Gives back `count` pages from `page` on, and leaves huge pages as they are. */
static void drop_unsplit(struct churn *churn, uint64_t page, uint64_t count)
{
	if (madvise(churn->memory + page * WORDS, count * PAGE_BYTES, MADV_DONTNEED))
		die("madvise(MADV_DONTNEED) of %" PRIu64 " pages", count);
	memset(churn->seeds + page, 0, count * sizeof(churn->seeds[0]));
	churn->held -= count;
}

static void drop(struct churn *churn, uint64_t page, uint64_t count)
{
	if (!count)
		return;
	split_edges(churn, page, count);
	drop_unsplit(churn, page, count);
}

static void say_freed(const struct churn *churn, uint64_t freed, uint64_t blocks)
{
	say("freed bytes=%" PRIu64 " blocks=%" PRIu64 " held_bytes=%" PRIu64, freed * PAGE_BYTES,
	    blocks, churn->held * PAGE_BYTES);
}

static void free_all(struct churn *churn)
{
	uint64_t freed = churn->held;

	if (madvise(churn->memory, churn->pages * PAGE_BYTES, MADV_DONTNEED))
		die("madvise(MADV_DONTNEED) of all memory");
	memset(churn->seeds, 0, churn->pages * sizeof(churn->seeds[0]));
	churn->held = 0;
	say_freed(churn, freed, 0);
}

static void free_blocks(struct churn *churn, unsigned int order, uint64_t stride, uint64_t offset)
{
	uint64_t *pfns = allocate(churn->pages * 8), highest = 0, freed = 0, run = 0;
	uint32_t *owned;

	read_pfns(churn, 0, churn->pages, pfns);
	for (uint64_t page = 0; page < churn->pages; page++) {
		if (!churn->seeds[page])
			pfns[page] = 0;
		if (pfns[page] > highest)
			highest = pfns[page];
	}
	owned = calloc((highest >> order) + 1, sizeof(*owned));
	if (!owned)
		die("allocate %" PRIu64 " block counters", (highest >> order) + 1);
	for (uint64_t page = 0; page < churn->pages; page++)
		if (pfns[page])
			owned[pfns[page] >> order]++;
	for (uint64_t page = 0; page < churn->pages; page++) {
		uint64_t block = pfns[page] >> order;

		if (pfns[page] && owned[block] == 1U << order && block % stride == offset) {
			run++;
			continue;
		}
		drop(churn, page - run, run);
		freed += run;
		run = 0;
	}
	drop(churn, churn->pages - run, run);
	freed += run;
	free(owned);
	free(pfns);
	say_freed(churn, freed, freed >> order);
}

static void free_tails(struct churn *churn)
{
	uint64_t held = churn->held;
	uint64_t page = -((uint64_t)(uintptr_t)churn->memory / PAGE_BYTES) % HUGE_PAGES;

	for (; page + HUGE_PAGES <= churn->pages; page += HUGE_PAGES)
		if (churn->seeds[page + 1])
			drop_unsplit(churn, page + 1, HUGE_PAGES - 1);
	say_freed(churn, held - churn->held, 0);
}

/* Whether the line is the command with so many whole numbers, and nothing else; and which. */
static int is_command(const char *line, const char *command, int count, uint64_t *numbers)
{
	size_t length = strlen(command);

	if (strncmp(line, command, length))
		return 0;
	line += length;
	for (int i = 0; i < count; i++) {
		char *end;

		/* strtoull alone takes signs, and makes -1 the highest number. */
		if (line[0] != ' ' || line[1] < '0' || line[1] > '9')
			return 0;
		errno = 0;
		numbers[i] = strtoull(line + 1, &end, 10);
		if (errno)
			return 0;
		line = end;
	}
	return !strcmp(line, "\n");
}

static void obey(struct churn *churn)
{
	char line[128];
	/* ORDER STRIDE OFFSET, or SEED. */
	uint64_t numbers[3];

	while (fgets(line, sizeof(line), stdin)) {
		if (is_command(line, "verify", 0, numbers))
			verify(churn);
		else if (is_command(line, "free all", 0, numbers))
			free_all(churn);
		else if (is_command(line, "free tails", 0, numbers))
			free_tails(churn);
		else if (is_command(line, "free blocks", 3, numbers) && numbers[0] <= MOST_ORDER &&
			 numbers[2] < numbers[1])
			free_blocks(churn, (unsigned int)numbers[0], numbers[1], numbers[2]);
		else if (is_command(line, "refill", 1, numbers) && numbers[0])
			fill(churn, numbers[0]);
		else if (is_command(line, "exit", 0, numbers))
			return;
		else
			usage("churn: unknown command %.*s", (int)strcspn(line, "\n"), line);
	}
}

/* Under memory pressure this process shall be the first to go, not the guest's services. */
static void volunteer_for_oom(void)
{
	int file = open("/proc/self/oom_score_adj", O_WRONLY);

	if (file < 0 || write(file, "1000", 4) != 4)
		die("write /proc/self/oom_score_adj");
	close(file);
}

/*
 * Returns in a child that does the work, so that somebody is left to say how it was killed; a
 * login shell may become the tool, and then an SSH server tells nothing but the channel's end.
 */
static void work_in_a_child(void)
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
		return;
	}
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR)
			die("wait for the child %d", child);
	if (WIFSIGNALED(status)) {
		fprintf(stderr, "fpr-guest: churn (pid %d) was killed by signal %d (%s)%s\n", child,
			WTERMSIG(status), strsignal(WTERMSIG(status)),
			WTERMSIG(status) == SIGKILL ? ": out of memory?" : "");
		exit(STATUS_BROKEN);
	}
	exit(WEXITSTATUS(status));
}

int churn_main(int argc, char **argv)
{
	struct churn churn = { .held = 0 };
	uint64_t bytes = 0, seed = 0;
	int advice = MADV_NORMAL;

	if (argc % 2)
		usage("churn: %s needs a value", argv[argc - 1]);
	for (int i = 0; i < argc; i += 2) {
		if (!strcmp(argv[i], "--bytes"))
			bytes = parse_number(argv[i + 1], "--bytes");
		else if (!strcmp(argv[i], "--seed"))
			seed = parse_number(argv[i + 1], "--seed");
		else if (!strcmp(argv[i], "--hugepages") && !strcmp(argv[i + 1], "always"))
			advice = MADV_HUGEPAGE;
		else if (!strcmp(argv[i], "--hugepages") && !strcmp(argv[i + 1], "never"))
			advice = MADV_NOHUGEPAGE;
		else if (strcmp(argv[i], "--hugepages") || strcmp(argv[i + 1], "default"))
			usage("churn: unknown option %s %s", argv[i], argv[i + 1]);
	}
	if (!bytes || bytes % PAGE_BYTES || !seed)
		usage("churn: --bytes takes whole pages, --seed a number other than 0");
	work_in_a_child();
	volunteer_for_oom();
	churn.pages = bytes / PAGE_BYTES;
	churn.pagemap = open("/proc/self/pagemap", O_RDONLY);
	if (churn.pagemap < 0)
		die("open /proc/self/pagemap");
	churn.seeds = calloc(churn.pages, sizeof(churn.seeds[0]));
	if (!churn.seeds)
		die("allocate %" PRIu64 " page seeds", churn.pages);
	churn.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			    0);
	if (churn.memory == MAP_FAILED)
		die("map %" PRIu64 " bytes", bytes);
	if (advice != MADV_NORMAL && madvise(churn.memory, bytes, advice))
		die("madvise huge pages");
	fill(&churn, seed);
	obey(&churn);
	return churn.mismatched ? STATUS_MISMATCH : STATUS_OK;
}
