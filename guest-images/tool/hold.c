/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "hold.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#define PROGRESS_NS 500000000ULL
#define TOLD_MISMATCHES 16
/* What a thread works on at a time: two huge pages. */
#define PIECE_PAGES 1024U

/* What the threads of a fill share. */
struct filling {
	struct hold *hold;
	uint64_t seed;
	atomic_ullong next, held, told;
};

/* What the threads of a verification share. */
struct checking {
	const struct hold *hold;
	struct findings *findings;
	atomic_ullong next, told;
};

static int add_segments(struct dl_phdr_info *program, size_t size, void *sum)
{
	(void)size;
	for (unsigned int i = 0; i < program->dlpi_phnum; i++) {
		const ElfW(Phdr) *segment = &program->dlpi_phdr[i];
		const uint64_t *words = (const void *)(program->dlpi_addr + segment->p_vaddr);

		if (segment->p_type != PT_LOAD || segment->p_flags & PF_W)
			continue;
		for (size_t word = 0; word < segment->p_filesz / sizeof(*words); word++)
			*(uint64_t *)sum += mix(words[word] + word);
	}
	return 1; /* stop after the program itself, which comes first */
}

/* Returns a checksum of the program's own code and constants. */
static uint64_t sum_text(void)
{
	uint64_t sum = 0;

	dl_iterate_phdr(add_segments, &sum);
	return sum;
}

void *map_aligned(uint64_t bytes, int advice)
{
	size_t before;
	char *room = mmap(NULL, bytes + HUGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (room == MAP_FAILED)
		die("map %" PRIu64 " bytes", bytes);
	/* Unmap the rest: huge pages would fill it too. */
	before = -(uintptr_t)room % HUGE_BYTES;
	if ((before && munmap(room, before)) ||
	    munmap(room + before + bytes, HUGE_BYTES - before))
		die("unmap the space left for alignment");
	if (advice != MADV_NORMAL && madvise(room + before, bytes, advice))
		die("madvise huge pages");
	return room + before;
}

void hold_open(struct hold *hold, uint64_t bytes, int advice)
{
	*hold = (struct hold){ .pages = bytes / PAGE_BYTES, .text_sum = sum_text() };
	hold->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (hold->pagemap < 0)
		die("open /proc/self/pagemap");
	ledger_open(&hold->ledger, hold->pages);
	hold->memory = map_aligned(bytes, advice);
}

int hold_has(const struct hold *hold, uint64_t page)
{
	uint64_t seed;

	return ledger_get(&hold->ledger, page, &seed) == LEDGER_COPIES || seed;
}

/* Returns whether progress is due; true in only one of the threads. */
static int time_to_tell(atomic_ullong *told)
{
	unsigned long long last = atomic_load(told), now = monotonic_ns();

	return now - last >= PROGRESS_NS && atomic_compare_exchange_strong(told, &last, now);
}

/* Takes the next piece: stores its first page and returns its length; 0 if none is left. */
static uint64_t next_piece(const struct hold *hold, atomic_ullong *next, uint64_t *page)
{
	*page = atomic_fetch_add(next, PIECE_PAGES);
	if (*page >= hold->pages)
		return 0;
	return hold->pages - *page < PIECE_PAGES ? hold->pages - *page : PIECE_PAGES;
}

static void *fill_pieces(void *shared)
{
	struct filling *filling = shared;
	struct hold *hold = filling->hold;
	uint64_t page, count;

	while ((count = next_piece(hold, &filling->next, &page))) {
		uint64_t filled = 0;

		for (uint64_t end = page + count; page < end; page++) {
			if (hold_has(hold, page))
				continue;
			fill_page(hold_words(hold, page), filling->seed, page);
			ledger_set(&hold->ledger, page, filling->seed);
			filled++;
		}
		atomic_fetch_add(&filling->held, filled);
		if (time_to_tell(&filling->told))
			say("filling bytes=%llu", atomic_load(&filling->held) * PAGE_BYTES);
	}
	return NULL;
}

void hold_fill(struct hold *hold, uint64_t seed)
{
	uint64_t start = monotonic_ns();
	struct filling filling = { .hold = hold, .seed = seed, .held = hold->held, .told = start };

	on_every_cpu(fill_pieces, &filling);
	hold->held = atomic_load(&filling.held);
	say("filled bytes=%" PRIu64 " pid=%d seconds=%.3f", hold->held * PAGE_BYTES, getpid(),
	    (double)(monotonic_ns() - start) / 1e9);
}

static void say_mismatch(const struct hold *hold, uint64_t page, uint64_t seed, size_t wrong)
{
	uint64_t pfn, found = hold_words(hold, page)[wrong];

	hold_pfns(hold, page, 1, &pfn);
	say("mismatch page=%" PRIu64 " pfn=0x%" PRIx64 " offset=%zu expected=0x%016" PRIx64
	    " found=0x%016" PRIx64,
	    page, pfn, wrong * 8, pattern_word(seed, page, wrong), found);
}

void hold_check(const struct hold *hold, uint64_t page, uint64_t count, struct findings *findings)
{
	uint64_t checked = 0;

	for (uint64_t end = page + count; page < end; page++) {
		uint64_t seed;
		int damaged = ledger_get(&hold->ledger, page, &seed);
		size_t wrong;

		if (damaged)
			atomic_fetch_add(&findings->damaged, 1);
		if (damaged == LEDGER_COPIES)
			atomic_fetch_add(&findings->unproven, 1);
		if (damaged == LEDGER_COPIES || !seed)
			continue;
		checked++;
		wrong = check_page(hold_words(hold, page), seed, page);
		if (wrong < WORDS && atomic_fetch_add(&findings->mismatched, 1) < TOLD_MISMATCHES)
			say_mismatch(hold, page, seed, wrong);
	}
	atomic_fetch_add(&findings->checked, checked);
}

static void *check_pieces(void *shared)
{
	struct checking *checking = shared;
	uint64_t page, count;

	while ((count = next_piece(checking->hold, &checking->next, &page))) {
		hold_check(checking->hold, page, count, checking->findings);
		if (time_to_tell(&checking->told))
			say("verifying bytes=%" PRIu64, page * PAGE_BYTES);
	}
	return NULL;
}

void hold_verify(const struct hold *hold, struct findings *findings)
{
	struct checking checking = { .hold = hold, .findings = findings, .told = monotonic_ns() };

	on_every_cpu(check_pieces, &checking);
	if (sum_text() != hold->text_sum)
		atomic_store(&findings->text_changed, 1);
	say("verified bytes=%llu held_bytes=%" PRIu64 " mismatched_pages=%llu damaged_entries=%llu"
	    " unproven_pages=%llu text_changed=%d",
	    atomic_load(&findings->checked) * PAGE_BYTES, hold->held * PAGE_BYTES,
	    atomic_load(&findings->mismatched), atomic_load(&findings->damaged),
	    atomic_load(&findings->unproven), atomic_load(&findings->text_changed));
}

int findings_bad(const struct findings *findings)
{
	return atomic_load(&findings->mismatched) || atomic_load(&findings->damaged) ||
	       atomic_load(&findings->text_changed);
}

void hold_drop(struct hold *hold, uint64_t page, uint64_t count)
{
	if (madvise(hold_words(hold, page), count * PAGE_BYTES, MADV_DONTNEED))
		die("madvise(MADV_DONTNEED) of %" PRIu64 " pages", count);
	for (uint64_t end = page + count; page < end; page++) {
		hold->held -= hold_has(hold, page);
		ledger_set(&hold->ledger, page, 0);
	}
}

void hold_pfns(const struct hold *hold, uint64_t page, uint64_t count, uint64_t *pfns)
{
	uint64_t index = (uint64_t)(uintptr_t)hold->memory / PAGE_BYTES + page;
	const char *name = "/proc/self/pagemap";

	if (read_at(hold->pagemap, pfns, count * 8, index * 8, name) != count * 8) {
		errno = EIO;
		die("read %s to its end", name);
	}
	for (uint64_t i = 0; i < count; i++)
		pfns[i] = pfns[i] & PAGEMAP_PRESENT ? pfns[i] & PAGEMAP_PFN : 0;
}
