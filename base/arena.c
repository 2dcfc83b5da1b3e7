/* arena: a best-fit allocator of offsets in one address range.
 *
 * The range is cut into blocks, live or free, that tile it without gaps; neighbours in address order are linked, so a
 * freed block finds and joins its free neighbours at once and two free blocks never touch. Everything is counted in
 * units of MT_ARENA_ALIGN_BYTES. Nothing is ever written into the range itself: its addresses may be fake.
 *
 *   blocks     pool of block records, reached by index
 *   live       hash table, offset -> live block: what mt_arena_free looks up
 *   free       array of free blocks sorted by (size, offset): best fit is a binary search, and among equal sizes the
 *              lowest address is taken. Insertion moves the tail, a few KB with some hundred free blocks; a tree
 *              costs as much in cache misses at that size.
 *
 * The block behind the last live one is free and large, so best fit takes it last: the arena grows only when no hole fits.
 *
 * Best fit leaves holes where tensors of several sizes are exchanged for others of the same sizes, a few at a time: a small one
 * breaks a large hole, and the next large one finds none. For those there is mt_arena_keep_sizes. */
#include "base/arena.h"

#include "base/log.h"
#include "base/units.h"

#include <stdlib.h>
#include <string.h>

#define UNIT ((size_t)MT_ARENA_ALIGN_BYTES)
#define NONE UINT32_MAX

struct block {
	uint64_t offset, size;   /* in units */
	uint32_t before, behind; /* neighbours by address; NONE at the ends. Unused records are chained by `behind` */
	bool live;
};

struct free_entry {
	uint64_t size;
	uint32_t block;
};

struct mt_arena {
	char *name; /* owned */
	struct mt_arena_backing backing;
	char *base;             /* owned through the backing */
	size_t backed_bytes;    /* reserved at the backing */
	size_t committed_bytes; /* usable, where the backing commits */
	struct mt_arena_stats stats;
	bool keeps_sizes;         /* free blocks are not joined, nor split but for the one that was never used */
	mt_arena_watcher watcher; /* NULL: none */
	void *watcher_context;

	struct block *blocks; /* owned */
	uint32_t block_room, block_spare;
	uint32_t *live; /* owned; slot -> block or NONE, linear probing, at most half full */
	uint32_t live_mask, live_count;
	struct free_entry *free; /* owned */
	uint32_t free_count, free_room;
};

/* --- block records --- */

static bool grow_blocks(struct mt_arena *arena)
{
	uint32_t room = arena->block_room ? arena->block_room * 2 : 64;
	struct block *blocks = room > arena->block_room ? realloc(arena->blocks, room * sizeof *blocks) : NULL;
	if (!blocks)
		return false;
	for (uint32_t i = arena->block_room; i < room; i++)
		blocks[i].behind = i + 1 < room ? i + 1 : NONE;
	arena->blocks = blocks;
	arena->block_spare = arena->block_room;
	arena->block_room = room;
	return true;
}

static uint32_t take_block(struct mt_arena *arena)
{
	uint32_t index = arena->block_spare;
	arena->block_spare = arena->blocks[index].behind;
	return index;
}

static void drop_block(struct mt_arena *arena, uint32_t index)
{
	arena->blocks[index].size = 0;
	arena->blocks[index].behind = arena->block_spare;
	arena->block_spare = index;
}

/* --- live blocks by offset --- */

static uint32_t home_slot(const struct mt_arena *arena, uint64_t offset)
{
	return (uint32_t)(offset * 0x9e3779b97f4a7c15u >> 32) & arena->live_mask;
}

static void put_live(struct mt_arena *arena, uint32_t block)
{
	uint32_t slot = home_slot(arena, arena->blocks[block].offset);
	while (arena->live[slot] != NONE)
		slot = (slot + 1) & arena->live_mask;
	arena->live[slot] = block;
	arena->live_count++;
}

static uint32_t find_live(const struct mt_arena *arena, uint64_t offset)
{
	uint32_t slot = home_slot(arena, offset);
	while (arena->live[slot] != NONE && arena->blocks[arena->live[slot]].offset != offset)
		slot = (slot + 1) & arena->live_mask;
	return arena->live[slot] == NONE ? NONE : slot;
}

/* Closes the gap by moving later entries of the run back, so no tombstones gather. */
static void remove_live(struct mt_arena *arena, uint32_t slot)
{
	uint32_t gap = slot, at = slot;
	for (;;) {
		at = (at + 1) & arena->live_mask;
		uint32_t block = arena->live[at];
		if (block == NONE)
			break;
		uint32_t home = home_slot(arena, arena->blocks[block].offset);
		if (((at - home) & arena->live_mask) >= ((at - gap) & arena->live_mask)) {
			arena->live[gap] = block;
			gap = at;
		}
	}
	arena->live[gap] = NONE;
	arena->live_count--;
}

static bool grow_live(struct mt_arena *arena)
{
	uint32_t slots = arena->live ? (arena->live_mask + 1) * 2 : 128;
	uint32_t *old = arena->live, old_slots = old ? arena->live_mask + 1 : 0;
	uint32_t *live = slots > old_slots ? malloc(slots * sizeof *live) : NULL;
	if (!live)
		return false;
	memset(live, 0xff, slots * sizeof *live);
	arena->live = live;
	arena->live_mask = slots - 1;
	arena->live_count = 0;
	for (uint32_t i = 0; i < old_slots; i++)
		if (old[i] != NONE)
			put_live(arena, old[i]);
	free(old);
	return true;
}

/* --- free blocks by size --- */

/* The first entry not below (size, offset). */
static uint32_t search_free(const struct mt_arena *arena, uint64_t size, uint64_t offset)
{
	uint32_t low = 0, count = arena->free_count;
	while (count > 0) {
		uint32_t half = count / 2;
		const struct free_entry *entry = &arena->free[low + half];
		bool below = entry->size < size || (entry->size == size && arena->blocks[entry->block].offset < offset);
		low = below ? low + half + 1 : low;
		count = below ? count - half - 1 : half;
	}
	return low;
}

static void insert_free(struct mt_arena *arena, uint32_t block)
{
	uint64_t size = arena->blocks[block].size;
	uint32_t at = search_free(arena, size, arena->blocks[block].offset);
	memmove(&arena->free[at + 1], &arena->free[at], (arena->free_count - at) * sizeof *arena->free);
	arena->free[at] = (struct free_entry){size, block};
	arena->free_count++;
}

static void remove_free_at(struct mt_arena *arena, uint32_t at)
{
	arena->free_count--;
	memmove(&arena->free[at], &arena->free[at + 1], (arena->free_count - at) * sizeof *arena->free);
}

static bool is_free(const struct mt_arena *arena, uint32_t block)
{
	return block != NONE && !arena->blocks[block].live;
}

static void remove_free(struct mt_arena *arena, uint32_t block)
{
	remove_free_at(arena, search_free(arena, arena->blocks[block].size, arena->blocks[block].offset));
}

/* --- the public functions --- */

/* One call splits at most one block, makes at most one live and one free: room for that first, so nothing fails half done. */
static bool make_room(struct mt_arena *arena)
{
	if (arena->block_spare == NONE && !grow_blocks(arena))
		return false;
	if ((!arena->live || 2 * (arena->live_count + 1) > arena->live_mask + 1) && !grow_live(arena))
		return false;
	/* every second block at most is free, and a free entry appears only where a block record does */
	if (arena->free_room < arena->block_room) {
		struct free_entry *entries = realloc(arena->free, arena->block_room * sizeof *entries);
		if (!entries)
			return false;
		arena->free = entries;
		arena->free_room = arena->block_room;
	}
	return true;
}

enum mt_status mt_arena_create(struct mt_arena **arena, const char *name, const struct mt_arena_backing *backing,
			       size_t reserve_bytes)
{
	enum mt_status st = MT_OK;
	struct mt_arena *made = calloc(1, sizeof *made);

	*arena = NULL;
	if (!made || !(made->name = strdup(name)))
		MT_GOTO(fail, mt_fail(MT_NOMEM, "out of memory creating arena %s", name));
	made->backing = *backing;
	made->block_spare = NONE;
	made->stats = (struct mt_arena_stats){.name = made->name, .reserve_bytes = reserve_bytes, .resident = backing->resident};
	if (!make_room(made))
		MT_GOTO(fail, mt_fail(MT_NOMEM, "out of memory creating arena %s", name));
	if (reserve_bytes >= UNIT) {
		void *base;
		MT_GOTO(fail, backing->reserve(backing->context, reserve_bytes, &base));
		made->base = base;
		made->stats.base = base;
		made->backed_bytes = reserve_bytes;
		uint32_t whole = take_block(made);
		made->blocks[whole] = (struct block){.size = reserve_bytes / UNIT, .before = NONE, .behind = NONE};
		insert_free(made, whole);
	}
	*arena = made;
	return MT_OK;
fail:
	mt_arena_destroy(made);
	return st;
}

void mt_arena_destroy(struct mt_arena *arena)
{
	if (!arena)
		return;
	if (arena->backed_bytes && arena->backing.release)
		arena->backing.release(arena->backing.context, arena->base, arena->backed_bytes);
	free(arena->free);
	free(arena->live);
	free(arena->blocks);
	free(arena->name);
	free(arena);
}

void mt_arena_keep_sizes(struct mt_arena *arena)
{
	arena->keeps_sizes = true;
}

static enum mt_status exhausted(const struct mt_arena *arena, size_t bytes)
{
	char asked[MT_UNITS_TEXT], live[MT_UNITS_TEXT], reserve[MT_UNITS_TEXT], largest[MT_UNITS_TEXT];
	uint64_t hole = arena->free_count ? arena->free[arena->free_count - 1].size : 0;
	return mt_fail(
		MT_NOMEM, "arena %s: no room for %s: %s of %s are live, the largest free range is %s; use less or a larger arena",
		arena->stats.name, mt_units_bytes(asked, (double)bytes), mt_units_bytes(live, (double)arena->stats.live_bytes),
		mt_units_bytes(reserve, (double)arena->stats.reserve_bytes), mt_units_bytes(largest, (double)(hole * UNIT)));
}

/* Makes the range usable up to `end_bytes`. */
static enum mt_status commit(struct mt_arena *arena, size_t end_bytes, size_t bytes)
{
	size_t to = (end_bytes + MT_ARENA_COMMIT_BYTES - 1) / MT_ARENA_COMMIT_BYTES * MT_ARENA_COMMIT_BYTES;
	char asked[MT_UNITS_TEXT], live[MT_UNITS_TEXT], why[160] = "";

	if (!arena->backing.commit || end_bytes <= arena->committed_bytes)
		return MT_OK;
	if (arena->backing.commit(arena->backing.context, arena->base, arena->committed_bytes, to, why) != MT_OK)
		return mt_fail(MT_NOMEM,
			       "arena %s: no %s memory for %s more, %s are live: %s; use a smaller micro-batch, more "
			       "recompute, or split the model further",
			       arena->stats.name, arena->backing.name, mt_units_bytes(asked, (double)bytes),
			       mt_units_bytes(live, (double)arena->stats.live_bytes), why);
	arena->committed_bytes = to;
	return MT_OK;
}

/* Cuts `block` to `size` units; the rest becomes a free block behind it. */
static void split(struct mt_arena *arena, uint32_t block, uint64_t size)
{
	uint32_t rest = take_block(arena);
	struct block *b = &arena->blocks[block], *r = &arena->blocks[rest];

	*r = (struct block){.offset = b->offset + size, .size = b->size - size, .before = block, .behind = b->behind};
	if (r->behind != NONE)
		arena->blocks[r->behind].before = rest;
	b->size = size;
	b->behind = rest;
	insert_free(arena, rest);
}

enum mt_status mt_arena_alloc(struct mt_arena *arena, size_t bytes, void **pointer)
{
	uint64_t size = bytes == 0 ? 1 : bytes / UNIT + (bytes % UNIT != 0);

	*pointer = NULL;
	if (!make_room(arena))
		return mt_fail(MT_NOMEM, "arena %s: out of host memory for its records", arena->stats.name);
	uint32_t at = search_free(arena, size, 0);
	if (at == arena->free_count)
		return exhausted(arena, bytes);
	if (arena->keeps_sizes && arena->free[at].size > size)
		at = arena->free_count - 1; /* the largest: what was never used, as long as there is enough of it */
	uint32_t block = arena->free[at].block;
	MT_TRY(commit(arena, (size_t)(arena->blocks[block].offset + size) * UNIT, bytes));
	remove_free_at(arena, at);
	if (arena->blocks[block].size > size)
		split(arena, block, size);
	arena->blocks[block].live = true;
	put_live(arena, block);

	uint64_t offset = arena->blocks[block].offset;
	size_t end_bytes = (size_t)(offset + size) * UNIT;
	arena->stats.allocations++;
	arena->stats.live_bytes += (size_t)size * UNIT;
	if (end_bytes > arena->stats.peak_bytes)
		arena->stats.peak_bytes = end_bytes;
	*pointer = (void *)((uintptr_t)arena->base + (size_t)offset * UNIT);
	if (arena->watcher)
		arena->watcher(arena->watcher_context, *pointer, (size_t)size * UNIT);
	return MT_OK;
}

/* Joins `behind` to `block`, its neighbour at the lower address. */
static void join(struct mt_arena *arena, uint32_t block, uint32_t behind)
{
	struct block *b = &arena->blocks[block];
	b->size += arena->blocks[behind].size;
	b->behind = arena->blocks[behind].behind;
	if (b->behind != NONE)
		arena->blocks[b->behind].before = block;
	drop_block(arena, behind);
}

/* Slot of a live pointer; what else it may be is a mistake of the program. */
static uint32_t slot_of(const struct mt_arena *arena, const void *pointer, const char *use)
{
	uintptr_t distance = (uintptr_t)pointer - (uintptr_t)arena->base;
	uint32_t slot = distance % UNIT == 0 ? find_live(arena, distance / UNIT) : NONE;
	if (slot == NONE) {
		mt_error("arena %s: %p is %s but not live: freed twice, or of another arena", arena->stats.name, pointer, use);
		abort();
	}
	return slot;
}

size_t mt_arena_bytes(const struct mt_arena *arena, const void *pointer)
{
	return (size_t)arena->blocks[arena->live[slot_of(arena, pointer, "measured")]].size * UNIT;
}

void mt_arena_free(struct mt_arena *arena, void *pointer)
{
	if (!pointer)
		return;
	uint32_t slot = slot_of(arena, pointer, "freed");
	if (arena->watcher)
		arena->watcher(arena->watcher_context, pointer, 0);
	uint32_t block = arena->live[slot];
	remove_live(arena, slot);
	arena->stats.live_bytes -= (size_t)arena->blocks[block].size * UNIT;

	arena->blocks[block].live = false;
	uint32_t before = arena->blocks[block].before, behind = arena->blocks[block].behind;
	if (!arena->keeps_sizes && is_free(arena, behind)) {
		remove_free(arena, behind);
		join(arena, block, behind);
	}
	if (!arena->keeps_sizes && is_free(arena, before)) {
		remove_free(arena, before);
		join(arena, before, block);
		block = before;
	}
	insert_free(arena, block);
}

void mt_arena_watch(struct mt_arena *arena, mt_arena_watcher watcher, void *context)
{
	arena->watcher = watcher;
	arena->watcher_context = context;
}

void mt_arena_stats(const struct mt_arena *arena, struct mt_arena_stats *stats)
{
	*stats = arena->stats;
}
