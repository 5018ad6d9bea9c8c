/* SPDX-License-Identifier: Apache-2.0 */
/*
 * witness: detects the loss of used memory that nothing else verifies.
 *
 *   canary  its own pages, with churn's pattern, allocated singly among other used pages
 *   text    the kernel's code and constants, read through /proc/kcore. The kernel patches its code
 *           (static keys, tracing), but never turns a page of it to zeros, as a loss does.
 *   files   the files listed in FILE, one a line: CRC-32 (8 hexadecimal digits), size, path. The
 *           page cache holds the only copy of an initramfs's files.
 *
 *   witness --bytes N --seed N [--files FILE]
 *
 * Prints `filled ...` (see churn.c), `without what=text|files why=...` for what it cannot read, and
 * `witness text_pages=N files=N`. The answer to `verify` on standard input is `mismatch ...`, `lost
 * what=text address=0xN`, `lost what=file path=...`, churn's `verified ...` for the canary, and
 * `witnessed text_pages=N text_lost=N text_patched=N files=N files_lost=N`. The end of standard
 * input ends the tool.
 */
#include "hold.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KCORE "/proc/kcore"
#define RANGES 2
#define MOST_SEGMENTS 512

/* A range of physical addresses, with a checksum of each page from the first reading. */
struct range {
	uint64_t start, pages, offset;
	uint64_t *sums;
};

struct witness {
	struct hold hold;
	struct range text[RANGES];
	int kcore;
	const char *files;
	uint64_t text_pages, file_count;
};

struct seen {
	uint64_t text_pages, text_lost, text_patched, files, files_lost;
};

static uint64_t sum_page(const uint64_t *words)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < WORDS; i++)
		sum = (sum ^ words[i]) * UINT64_C(0x9e3779b97f4a7c15) + i;
	return sum;
}

static int is_zero(const uint64_t *words)
{
	uint64_t any = 0;

	for (size_t i = 0; i < WORDS; i++)
		any |= words[i];
	return !any;
}

/*
 * Reads where an entry of /proc/iomem lies: its whole pages [*start, *end). /proc/kallsyms would
 * tell the same, and takes half a second to read under TCG.
 */
static int find_resource(const char *name, uint64_t *start, uint64_t *end)
{
	FILE *file = fopen("/proc/iomem", "re");
	char line[256];
	uint64_t first, last;
	int found = 0;

	if (!file)
		return 0;
	while (!found && fgets(line, sizeof(line), file)) {
		const char *title = strstr(line, " : ");

		line[strcspn(line, "\n")] = 0;
		if (!title || strcmp(title + 3, name) ||
		    sscanf(line, "%" SCNx64 "-%" SCNx64, &first, &last) != 2)
			continue;
		*start = (first + PAGE_BYTES - 1) & -PAGE_BYTES;
		*end = (last + 1) & -PAGE_BYTES;
		found = first && *start < *end; /* without root, all addresses read 0 */
	}
	fclose(file);
	return found;
}

/* Returns the offset of a range of physical addresses in /proc/kcore; 0 if it is not there. */
static uint64_t find_offset(int kcore, uint64_t start, uint64_t end)
{
	static Elf64_Phdr segments[MOST_SEGMENTS];
	Elf64_Ehdr header;
	size_t count;

	if (pread(kcore, &header, sizeof(header), 0) != sizeof(header))
		return 0;
	count = header.e_phnum < MOST_SEGMENTS ? header.e_phnum : MOST_SEGMENTS;
	if (pread(kcore, segments, count * sizeof(*segments), (off_t)header.e_phoff) !=
	    (ssize_t)(count * sizeof(*segments)))
		return 0;
	for (size_t i = 0; i < count; i++)
		if (segments[i].p_type == PT_LOAD && start >= segments[i].p_paddr &&
		    end - segments[i].p_paddr <= segments[i].p_memsz)
			return segments[i].p_offset + (start - segments[i].p_paddr);
	return 0;
}

/* Reads the kernel's text a first time; returns why it cannot be read, or NULL. */
static const char *open_text(struct witness *witness)
{
	static const char *const names[RANGES] = { "Kernel code", "Kernel rodata" };
	uint64_t words[WORDS], end;

	witness->kcore = open(KCORE, O_RDONLY | O_CLOEXEC);
	if (witness->kcore < 0)
		return strerror(errno);
	for (size_t i = 0; i < RANGES; i++) {
		struct range *range = &witness->text[i];

		if (!find_resource(names[i], &range->start, &end))
			return "/proc/iomem shows no kernel code";
		range->offset = find_offset(witness->kcore, range->start, end);
		if (!range->offset)
			return "/proc/kcore does not contain the kernel's text";
		range->pages = (end - range->start) / PAGE_BYTES;
		range->sums = allocate(range->pages * sizeof(*range->sums));
		for (uint64_t page = 0; page < range->pages; page++) {
			if (read_at(witness->kcore, words, PAGE_BYTES,
				    range->offset + page * PAGE_BYTES, KCORE) != PAGE_BYTES)
				return "/proc/kcore ends early";
			/* A page that is all zeros from the start (padding) cannot show a loss. */
			range->sums[page] = is_zero(words) ? 0 : sum_page(words);
			witness->text_pages += range->sums[page] != 0;
		}
	}
	return NULL;
}

static void check_text(const struct witness *witness, struct seen *seen)
{
	uint64_t words[WORDS];

	for (size_t i = 0; i < RANGES && witness->text_pages; i++) {
		const struct range *range = &witness->text[i];

		for (uint64_t page = 0; page < range->pages; page++) {
			if (!range->sums[page])
				continue;
			if (read_at(witness->kcore, words, PAGE_BYTES,
				    range->offset + page * PAGE_BYTES, KCORE) != PAGE_BYTES)
				continue; /* not counted as read */
			seen->text_pages++;
			if (is_zero(words)) {
				seen->text_lost++;
				say("lost what=text address=0x%" PRIx64,
				    range->start + page * PAGE_BYTES);
			} else if (sum_page(words) != range->sums[page]) {
				seen->text_patched++;
			}
		}
	}
}

/* CRC-32 as in zlib (IEEE 802.3, reflected). */
static uint32_t crc32(uint32_t crc, const unsigned char *data, size_t size)
{
	static uint32_t table[256];

	for (uint32_t i = 0; i < 256 && !table[255]; i++) {
		uint32_t value = i;

		for (int bit = 0; bit < 8; bit++)
			value = value >> 1 ^ (value & 1 ? UINT32_C(0xedb88320) : 0);
		table[i] = value;
	}
	crc = ~crc;
	for (size_t i = 0; i < size; i++)
		crc = table[(crc ^ data[i]) & 0xff] ^ crc >> 8;
	return ~crc;
}

/* Returns whether the file has the listed size and checksum. */
static int is_whole(const char *path, uint32_t wanted, uint64_t size)
{
	static unsigned char data[1 << 16];
	int file = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t done = 0;
	uint32_t crc = 0;
	ssize_t got = 0;

	if (file < 0)
		return 0;
	while ((got = read(file, data, sizeof(data))) > 0) {
		crc = crc32(crc, data, (size_t)got);
		done += (uint64_t)got;
	}
	close(file);
	return !got && done == size && crc == wanted;
}

static void check_files(const struct witness *witness, struct seen *seen)
{
	FILE *list = witness->files ? fopen(witness->files, "re") : NULL;
	char path[256];
	uint32_t crc;
	uint64_t size;

	if (!list)
		return;
	while (fscanf(list, "%8" SCNx32 " %" SCNu64 " %255[^\n]\n", &crc, &size, path) == 3) {
		seen->files++;
		if (is_whole(path, crc, size))
			continue;
		seen->files_lost++;
		say("lost what=file path=%s", path);
	}
	fclose(list);
}

static void look(const struct witness *witness, struct seen *seen)
{
	*seen = (struct seen){ 0 };
	check_text(witness, seen);
	check_files(witness, seen);
}

static int obey(const struct witness *witness)
{
	char line[64];
	int status = STATUS_OK;

	while (fgets(line, sizeof(line), stdin)) {
		struct findings findings = { 0 };
		struct seen seen;

		if (strcmp(line, "verify\n"))
			usage("witness: unknown command %.*s", (int)strcspn(line, "\n"), line);
		look(witness, &seen);
		hold_verify(&witness->hold, &findings);
		say("witnessed text_pages=%" PRIu64 " text_lost=%" PRIu64 " text_patched=%" PRIu64
		    " files=%" PRIu64 " files_lost=%" PRIu64,
		    seen.text_pages, seen.text_lost, seen.text_patched, seen.files,
		    seen.files_lost);
		if (findings_bad(&findings) || seen.text_lost || seen.files_lost)
			status = STATUS_MISMATCH;
	}
	return status;
}

int witness_main(int argc, char **argv)
{
	static struct witness witness;
	uint64_t bytes = 0, seed = 0;
	struct seen seen;
	const char *why;

	if (argc % 2)
		usage("witness: %s needs a value", argv[argc - 1]);
	for (int i = 0; i < argc; i += 2) {
		if (!strcmp(argv[i], "--bytes"))
			bytes = parse_number(argv[i + 1], "--bytes");
		else if (!strcmp(argv[i], "--seed"))
			seed = parse_number(argv[i + 1], "--seed");
		else if (!strcmp(argv[i], "--files"))
			witness.files = argv[i + 1];
		else
			usage("witness: unknown option %s", argv[i]);
	}
	if (!bytes || bytes % PAGE_BYTES || !seed)
		usage("witness: --bytes takes whole pages, --seed a number other than 0");
	hold_open(&witness.hold, bytes, MADV_NOHUGEPAGE);
	hold_fill(&witness.hold, seed);
	why = open_text(&witness);
	if (why) {
		witness.text_pages = 0;
		say("without what=text why=%s", why);
	}
	look(&witness, &seen);
	if (!seen.files)
		say("without what=files why=%s",
		    witness.files ? "the list is empty or cannot be read" : "no list");
	say("witness text_pages=%" PRIu64 " files=%" PRIu64, seen.text_pages, seen.files);
	return obey(&witness);
}
