/* arena: named memory with byte counts, the only source of tensors.
 *
 * An arena is one address range taken from a backing (host memory, device memory, or addresses that must never be
 * touched) and a best-fit allocator of offsets in it. The allocator's decisions depend only on the sequence of calls,
 * so a dry run with the same calls has the same peak, to the byte. Freed ranges are reused, never returned before
 * mt_arena_destroy; what was ever touched is peak_bytes. Not thread-safe: one arena belongs to one rank. */
#ifndef MT_BASE_ARENA_H
#define MT_BASE_ARENA_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where an arena's range comes from. `reserve` gives a range of `bytes` aligned to 2 MiB, paid for when touched
 * where the system can (host memory), else as the arena grows: `commit`, NULL where there is nothing to do, makes [from, to)
 * usable, whole MT_ARENA_COMMIT_BYTES from where the last call ended; when it cannot, it says in `why` what there is. */
struct mt_arena_backing {
	const char *name;
	enum mt_status (*reserve)(void *context, size_t bytes, void **base);
	void (*release)(void *context, void *base, size_t bytes);
	void *context;
	enum mt_status (*commit)(void *context, void *base, size_t from_bytes, size_t to_bytes, char why[160]);
	bool resident; /* it is memory of the process: what is used counts as its resident size */
};

/* Host memory: mmap without reservation, huge pages advised. */
extern const struct mt_arena_backing mt_arena_host;
/* Addresses only: any access faults. */
extern const struct mt_arena_backing mt_arena_dry;

struct mt_arena;

struct mt_arena_stats {
	const char *name;     /* borrowed from the arena */
	void *base;           /* where its range begins; NULL: it has none */
	size_t live_bytes;    /* allocated now */
	size_t peak_bytes;    /* highest end of any allocation so far, so fragmentation is counted */
	size_t reserve_bytes; /* what the arena may grow to */
	uint64_t allocations; /* calls of mt_arena_alloc so far */
	bool resident;        /* as its backing is */
};

#define MT_ARENA_ALIGN_BYTES  256
#define MT_ARENA_COMMIT_BYTES ((size_t)2 << 20)

/* `name` is copied. */
enum mt_status mt_arena_create(struct mt_arena **arena, const char *name, const struct mt_arena_backing *backing,
			       size_t reserve_bytes);
void mt_arena_destroy(struct mt_arena *arena);

/* From here on a freed range is only given to allocations of its own size; any other takes a range that was never used. So the peak
 * is the sum, over the sizes, of the most that are live of each: no holes, where many tensors of few sizes come and go. Not for
 * sizes that differ from call to call. To be called before the first allocation. */
void mt_arena_keep_sizes(struct mt_arena *arena);

/* Contents are undefined. Aligned to MT_ARENA_ALIGN_BYTES. bytes == 0 gives a valid, distinct pointer.
 * MT_NOMEM when the range or what backs it is exhausted: the message names the arena, what was asked and what is live. */
enum mt_status mt_arena_alloc(struct mt_arena *arena, size_t bytes, void **pointer);
/* NULL is fine. A pointer that is not live in this arena is a programming error: it aborts in every build. */
void mt_arena_free(struct mt_arena *arena, void *pointer);

/* The bytes of a live allocation, rounded up to MT_ARENA_ALIGN_BYTES. Aborts as mt_arena_free does. */
size_t mt_arena_bytes(const struct mt_arena *arena, const void *pointer);

/* Told of each range that is allocated and, with bytes 0, of each that is freed. `bytes` as rounded up. */
typedef void (*mt_arena_watcher)(void *context, const void *pointer, size_t bytes);
void mt_arena_watch(struct mt_arena *arena, mt_arena_watcher watcher, void *context); /* NULL: no more */

void mt_arena_stats(const struct mt_arena *arena, struct mt_arena_stats *stats);

#endif
