/* arena backings of host memory and of addresses only. */
#define _GNU_SOURCE
#include "base/arena.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_BYTES ((size_t)2 << 20)

static size_t whole_pages(size_t bytes)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	return (bytes + page - 1) / page * page;
}

/* Maps 2 MiB too much and gives back the ends, so that the range starts on a huge page. */
static enum mt_status host_reserve(void *context, size_t bytes, void **base)
{
	(void)context;
	size_t size = whole_pages(bytes), mapped = size + HUGE_BYTES;
	char *low = mapped > bytes ? mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
				   : MAP_FAILED;
	if (low == MAP_FAILED)
		return mt_fail(MT_NOMEM, "cannot reserve %zu bytes of address space: %s; check ulimit -v and vm.overcommit_memory",
			       bytes, strerror(errno));
	char *aligned = (char *)(((uintptr_t)low + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES);
	if (aligned > low)
		munmap(low, (size_t)(aligned - low));
	size_t behind = (size_t)(low + mapped - (aligned + size));
	if (behind)
		munmap(aligned + size, behind);
	(void)madvise(aligned, size, MADV_HUGEPAGE); /* advice: a kernel without it is only slower */
	*base = aligned;
	return MT_OK;
}

static void host_release(void *context, void *base, size_t bytes)
{
	(void)context;
	munmap(base, whole_pages(bytes));
}

/* Dry addresses have the upper 16 bits 0x4d10..0x4def: not canonical on x86-64 (bits 63..56 differ), beyond every
 * user address on AArch64 (bits 55..52 are neither all 0 nor all 1, and the top byte may be ignored). Any access
 * faults. Ranges follow one another and start over after 62 PB, so live arenas of a process do not share addresses;
 * the cursor is the only state and no decision of an arena depends on it. */
#define DRY_FIRST ((uint64_t)0x4d10 << 48)
#define DRY_END   ((uint64_t)0x4df0 << 48)

static uint64_t dry_cursor = DRY_FIRST;

static enum mt_status dry_reserve(void *context, size_t bytes, void **base)
{
	uint64_t size = ((uint64_t)bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES, at, next;

	(void)context;
	if (size < bytes || size > DRY_END - DRY_FIRST)
		return mt_fail(MT_NOMEM, "cannot reserve %zu dry bytes: more than the 62 PB of dry addresses", bytes);
	uint64_t seen = __atomic_load_n(&dry_cursor, __ATOMIC_RELAXED);
	do {
		at = seen + size > DRY_END ? DRY_FIRST : seen;
		next = at + size;
	} while (!__atomic_compare_exchange_n(&dry_cursor, &seen, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	*base = (void *)(uintptr_t)at;
	return MT_OK;
}

static void dry_release(void *context, void *base, size_t bytes)
{
	(void)context;
	(void)base;
	(void)bytes;
}

const struct mt_arena_backing mt_arena_host = {.name = "host", .reserve = host_reserve, .release = host_release, .resident = true};
const struct mt_arena_backing mt_arena_dry = {.name = "dry", .reserve = dry_reserve, .release = dry_release};
