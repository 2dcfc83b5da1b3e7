/* base/arena: what the allocator promises, on random sequences of calls. */
#define _GNU_SOURCE
#include "base/arena.h"
#include "base/random.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#define SLOTS 200

struct range {
	char *pointer;
	size_t bytes;
};

static uint64_t draw(uint64_t seed, uint64_t *at, uint64_t bound)
{
	return mt_random_integer(seed, 7, (*at)++, bound);
}

static size_t draw_bytes(uint64_t seed, uint64_t *at)
{
	uint64_t magnitude = draw(seed, at, 20);
	return (size_t)draw(seed, at, (uint64_t)1 << (magnitude + 1));
}

/* One random alloc or free on slot `slot`. */
static void step(struct mt_arena *arena, struct range *slot, uint64_t seed, uint64_t *at)
{
	if (slot->pointer) {
		mt_arena_free(arena, slot->pointer);
		slot->pointer = NULL;
		return;
	}
	void *pointer;
	slot->bytes = draw_bytes(seed, at);
	assert_int_equal(mt_arena_alloc(arena, slot->bytes, &pointer), MT_OK);
	slot->pointer = pointer;
}

static void live_ranges_never_overlap(void **state)
{
	struct mt_arena *arena;
	struct range slots[SLOTS] = {0};
	uint64_t at = 0;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "test", &mt_arena_dry, (size_t)1 << 32), MT_OK);
	for (int i = 0; i < 20000; i++) {
		struct range *slot = &slots[draw(1, &at, SLOTS)];
		step(arena, slot, 1, &at);
		if (!slot->pointer)
			continue;
		assert_int_equal((uintptr_t)slot->pointer % MT_ARENA_ALIGN_BYTES, 0);
		for (int j = 0; j < SLOTS; j++) {
			const struct range *other = &slots[j];
			if (other == slot || !other->pointer)
				continue;
			assert_ptr_not_equal(slot->pointer, other->pointer);
			assert_true(slot->pointer + slot->bytes <= other->pointer ||
				    other->pointer + other->bytes <= slot->pointer);
		}
	}
	mt_arena_destroy(arena);
}

static void live_bytes_are_the_rounded_sum(void **state)
{
	struct mt_arena *arena;
	struct mt_arena_stats stats;
	struct range slots[SLOTS] = {0};
	uint64_t at = 0;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "sums", &mt_arena_dry, (size_t)1 << 32), MT_OK);
	for (int i = 0; i < 5000; i++) {
		size_t sum = 0;
		step(arena, &slots[draw(2, &at, SLOTS)], 2, &at);
		for (int j = 0; j < SLOTS; j++)
			if (slots[j].pointer)
				sum += slots[j].bytes ? (slots[j].bytes + 255) / 256 * 256 : 256;
		mt_arena_stats(arena, &stats);
		assert_int_equal(stats.live_bytes, sum);
		assert_true(stats.peak_bytes >= sum);
	}
	assert_string_equal(stats.name, "sums");
	assert_int_equal(stats.reserve_bytes, (size_t)1 << 32);
	mt_arena_destroy(arena);
}

static void same_calls_have_the_same_peak_on_host_and_dry(void **state)
{
	const struct mt_arena_backing *backings[2] = {&mt_arena_host, &mt_arena_dry};

	(void)state;
	for (uint64_t seed = 10; seed < 20; seed++) {
		struct mt_arena *arenas[2];
		struct mt_arena_stats stats[2];
		char *first[2] = {0};
		struct range slots[2][SLOTS] = {0};
		for (int b = 0; b < 2; b++) {
			assert_int_equal(mt_arena_create(&arenas[b], "a", backings[b], (size_t)1 << 30), MT_OK);
			uint64_t at = 0;
			for (int i = 0; i < 3000; i++) {
				struct range *slot = &slots[b][draw(seed, &at, SLOTS)];
				step(arenas[b], slot, seed, &at);
				if (i == 0)
					first[b] = slot->pointer;
			}
			mt_arena_stats(arenas[b], &stats[b]);
		}
		assert_int_equal(stats[0].peak_bytes, stats[1].peak_bytes);
		assert_int_equal(stats[0].live_bytes, stats[1].live_bytes);
		assert_int_equal(stats[0].allocations, stats[1].allocations);
		for (int j = 0; j < SLOTS; j++) {
			assert_int_equal(slots[0][j].pointer != NULL, slots[1][j].pointer != NULL);
			if (slots[0][j].pointer)
				assert_int_equal(slots[0][j].pointer - first[0], slots[1][j].pointer - first[1]);
		}
		mt_arena_destroy(arenas[0]);
		mt_arena_destroy(arenas[1]);
	}
}

static void freed_neighbours_coalesce(void **state)
{
	struct mt_arena *arena;
	struct mt_arena_stats stats;
	void *pointers[64], *whole;

	(void)state;
	for (uint64_t seed = 0; seed < 20; seed++) {
		assert_int_equal(mt_arena_create(&arena, "c", &mt_arena_dry, 64 * 4096), MT_OK);
		for (int i = 0; i < 64; i++)
			assert_int_equal(mt_arena_alloc(arena, 4096, &pointers[i]), MT_OK);
		for (uint64_t i = 0; i < 64; i++)
			mt_arena_free(arena, pointers[mt_random_permute(seed, 0, i, 64)]);
		mt_arena_stats(arena, &stats);
		assert_int_equal(stats.live_bytes, 0);
		assert_int_equal(mt_arena_alloc(arena, 64 * 4096, &whole), MT_OK);
		mt_arena_destroy(arena);
	}
}

static void best_fit_takes_the_smallest_hole(void **state)
{
	struct mt_arena *arena;
	void *p[6], *taken;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "b", &mt_arena_dry, 1 << 20), MT_OK);
	const size_t bytes[6] = {8192, 256, 2048, 256, 4096, 256};
	for (int i = 0; i < 6; i++)
		assert_int_equal(mt_arena_alloc(arena, bytes[i], &p[i]), MT_OK);
	mt_arena_free(arena, p[0]);
	mt_arena_free(arena, p[2]);
	mt_arena_free(arena, p[4]);
	assert_int_equal(mt_arena_alloc(arena, 3000, &taken), MT_OK);
	assert_ptr_equal(taken, p[4]);
	assert_int_equal(mt_arena_alloc(arena, 2048, &taken), MT_OK);
	assert_ptr_equal(taken, p[2]);
	mt_arena_destroy(arena);
}

/* Five sizes come and go: the peak is the sum of the most that were live of each, and no range is given twice. */
static void kept_sizes_leave_no_holes(void **state)
{
	enum { SIZES = 5 };
	static const size_t units[SIZES] = {1, 3, 4, 16, 11};
	struct mt_arena *arena;
	struct mt_arena_stats stats;
	struct range slots[SLOTS] = {0};
	int size_of[SLOTS] = {0}, live[SIZES] = {0}, most[SIZES] = {0};
	size_t sum = 0;
	uint64_t at = 0;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "k", &mt_arena_dry, (size_t)1 << 30), MT_OK);
	mt_arena_keep_sizes(arena);
	for (int i = 0; i < 20000; i++) {
		int slot = (int)draw(5, &at, SLOTS), size = (int)draw(5, &at, SIZES);

		if (slots[slot].pointer) {
			mt_arena_free(arena, slots[slot].pointer);
			slots[slot].pointer = NULL;
			live[size_of[slot]]--;
			continue;
		}
		slots[slot].bytes = units[size] * MT_ARENA_ALIGN_BYTES;
		assert_int_equal(mt_arena_alloc(arena, slots[slot].bytes, (void **)&slots[slot].pointer), MT_OK);
		size_of[slot] = size;
		most[size] = ++live[size] > most[size] ? live[size] : most[size];
		for (int k = 0; k < SLOTS; k++)
			assert_true(k == slot || !slots[k].pointer || slots[k].pointer >= slots[slot].pointer + slots[slot].bytes ||
				    slots[k].pointer + slots[k].bytes <= slots[slot].pointer);
	}
	for (int size = 0; size < SIZES; size++)
		sum += (size_t)most[size] * units[size] * MT_ARENA_ALIGN_BYTES;
	mt_arena_stats(arena, &stats);
	assert_int_equal(stats.peak_bytes, sum);
	mt_arena_destroy(arena);
}

static void exhaustion_is_nomem_and_names_the_arena(void **state)
{
	struct mt_arena *arena;
	void *pointer, *more;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "activations", &mt_arena_dry, 1 << 20), MT_OK);
	assert_int_equal(mt_arena_alloc(arena, 1 << 19, &pointer), MT_OK);
	mt_error_clear();
	assert_int_equal(mt_arena_alloc(arena, (1 << 19) + 1, &more), MT_NOMEM);
	assert_null(more);
	assert_non_null(strstr(mt_error_message(), "activations"));
	mt_error_clear();
	assert_int_equal(mt_arena_alloc(arena, SIZE_MAX, &more), MT_NOMEM);
	assert_int_equal(mt_arena_alloc(arena, 1 << 19, &more), MT_OK);
	mt_error_clear();
	mt_arena_destroy(arena);
}

static void empty_allocations_are_distinct(void **state)
{
	struct mt_arena *arena;
	void *a, *b;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "e", &mt_arena_host, 4096), MT_OK);
	assert_int_equal(mt_arena_alloc(arena, 0, &a), MT_OK);
	assert_int_equal(mt_arena_alloc(arena, 0, &b), MT_OK);
	assert_non_null(a);
	assert_ptr_not_equal(a, b);
	mt_arena_free(arena, a);
	mt_arena_free(arena, NULL);
	mt_arena_destroy(arena);
	mt_arena_destroy(NULL);
}

static void an_empty_arena_gives_nothing(void **state)
{
	struct mt_arena *arena;
	void *a;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "none", &mt_arena_host, 0), MT_OK);
	mt_error_clear();
	assert_int_equal(mt_arena_alloc(arena, 1, &a), MT_NOMEM);
	mt_error_clear();
	mt_arena_destroy(arena);
}

static void host_memory_is_usable_to_the_last_byte(void **state)
{
	struct mt_arena *arena;
	size_t bytes = ((size_t)3 << 20) + 256;
	void *pointer;

	(void)state;
	assert_int_equal(mt_arena_create(&arena, "h", &mt_arena_host, bytes), MT_OK);
	assert_int_equal(mt_arena_alloc(arena, bytes, &pointer), MT_OK);
	assert_int_equal((uintptr_t)pointer % ((size_t)2 << 20), 0);
	memset(pointer, 0xa5, bytes);
	assert_int_equal(((unsigned char *)pointer)[bytes - 1], 0xa5);
	mt_arena_destroy(arena);
}

static void live_dry_arenas_do_not_share_addresses(void **state)
{
	struct mt_arena *arenas[2];
	char *p[2];

	(void)state;
	for (int i = 0; i < 2; i++) {
		void *pointer;
		assert_int_equal(mt_arena_create(&arenas[i], "d", &mt_arena_dry, (size_t)1 << 40), MT_OK);
		assert_int_equal(mt_arena_alloc(arenas[i], (size_t)1 << 40, &pointer), MT_OK);
		p[i] = pointer;
	}
	size_t distance = p[0] > p[1] ? (size_t)(p[0] - p[1]) : (size_t)(p[1] - p[0]);
	assert_true(distance >= (size_t)1 << 40);
	mt_arena_destroy(arenas[0]);
	mt_arena_destroy(arenas[1]);
}

/* Runs `act` in a child with its output thrown away; the signal that ended it, 0 when none did. */
static int signal_of(void (*act)(void))
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		const int fatal[] = {SIGSEGV, SIGBUS, SIGABRT};
		for (int i = 0; i < 3; i++)
			signal(fatal[i], SIG_DFL); /* a sanitizer's handler would turn it into an exit code */
		if (!freopen("/dev/null", "w", stderr))
			_exit(3);
		act();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void touch_dry(void)
{
	struct mt_arena *arena;
	void *pointer;
	if (mt_arena_create(&arena, "t", &mt_arena_dry, 4096) == MT_OK && mt_arena_alloc(arena, 4096, &pointer) == MT_OK)
		*(volatile char *)pointer = 1;
}

static void free_twice(void)
{
	struct mt_arena *arena;
	void *pointer;
	if (mt_arena_create(&arena, "t", &mt_arena_dry, 4096) == MT_OK && mt_arena_alloc(arena, 256, &pointer) == MT_OK) {
		mt_arena_free(arena, pointer);
		mt_arena_free(arena, pointer);
	}
}

static void free_inside(void)
{
	struct mt_arena *arena;
	void *pointer;
	if (mt_arena_create(&arena, "t", &mt_arena_dry, 4096) == MT_OK && mt_arena_alloc(arena, 1024, &pointer) == MT_OK)
		mt_arena_free(arena, (char *)pointer + 256);
}

static void touching_a_dry_address_faults(void **state)
{
	(void)state;
	int number = signal_of(touch_dry);
	assert_true(number == SIGSEGV || number == SIGBUS);
}

static void freeing_what_is_not_live_aborts(void **state)
{
	(void)state;
	assert_int_equal(signal_of(free_twice), SIGABRT);
	assert_int_equal(signal_of(free_inside), SIGABRT);
}

/* A backing that commits, and has `left` bytes to give. */
struct counted {
	size_t left, committed;
	int calls;
};

static enum mt_status commit_counted(void *context, void *base, size_t from_bytes, size_t to_bytes, char why[160])
{
	struct counted *c = context;
	assert_int_equal(from_bytes, c->committed);
	assert_true(to_bytes > from_bytes && to_bytes % MT_ARENA_COMMIT_BYTES == 0);
	if (to_bytes - from_bytes > c->left) {
		snprintf(why, 160, "%zu bytes left", c->left);
		return MT_NOMEM;
	}
	c->left -= to_bytes - from_bytes;
	c->committed = to_bytes;
	c->calls++;
	return MT_OK;
}

static void a_backing_that_commits_is_asked_for_what_the_peak_needs(void **state)
{
	struct counted counted = {.left = 3 * MT_ARENA_COMMIT_BYTES};
	struct mt_arena_backing backing = mt_arena_dry;
	struct mt_arena_stats stats;
	struct mt_arena *arena;
	void *a, *b, *c;
	backing.context = &counted;
	backing.commit = commit_counted;
	assert_int_equal(mt_arena_create(&arena, "activations", &backing, (size_t)1 << 40), MT_OK);
	assert_int_equal(counted.committed, 0);
	assert_int_equal(mt_arena_alloc(arena, 100, &a), MT_OK);
	assert_int_equal(mt_arena_alloc(arena, MT_ARENA_COMMIT_BYTES - 256, &b), MT_OK);
	assert_int_equal(counted.committed, MT_ARENA_COMMIT_BYTES);
	assert_int_equal(mt_arena_alloc(arena, 1, &c), MT_OK);
	assert_int_equal(counted.committed, 2 * MT_ARENA_COMMIT_BYTES);
	mt_arena_free(arena, b);
	assert_int_equal(mt_arena_alloc(arena, MT_ARENA_COMMIT_BYTES / 2, &b), MT_OK);
	assert_int_equal(counted.calls, 2);

	void *large;
	assert_int_equal(mt_arena_alloc(arena, 3 * MT_ARENA_COMMIT_BYTES, &large), MT_NOMEM);
	assert_null(large);
	assert_non_null(strstr(mt_error_message(), "activations"));
	assert_non_null(strstr(mt_error_message(), "bytes left"));
	mt_error_clear();
	mt_arena_stats(arena, &stats);
	size_t live_bytes = stats.live_bytes;
	assert_int_equal(mt_arena_alloc(arena, MT_ARENA_COMMIT_BYTES, &large), MT_OK);
	mt_arena_stats(arena, &stats);
	assert_int_equal(stats.live_bytes, live_bytes + MT_ARENA_COMMIT_BYTES);
	mt_arena_free(arena, large);
	mt_arena_free(arena, a);
	mt_arena_free(arena, b);
	mt_arena_free(arena, c);
	mt_arena_destroy(arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(live_ranges_never_overlap),
		cmocka_unit_test(live_bytes_are_the_rounded_sum),
		cmocka_unit_test(same_calls_have_the_same_peak_on_host_and_dry),
		cmocka_unit_test(freed_neighbours_coalesce),
		cmocka_unit_test(best_fit_takes_the_smallest_hole),
		cmocka_unit_test(kept_sizes_leave_no_holes),
		cmocka_unit_test(exhaustion_is_nomem_and_names_the_arena),
		cmocka_unit_test(empty_allocations_are_distinct),
		cmocka_unit_test(an_empty_arena_gives_nothing),
		cmocka_unit_test(host_memory_is_usable_to_the_last_byte),
		cmocka_unit_test(live_dry_arenas_do_not_share_addresses),
		cmocka_unit_test(touching_a_dry_address_faults),
		cmocka_unit_test(freeing_what_is_not_live_aborts),
		cmocka_unit_test(a_backing_that_commits_is_asked_for_what_the_peak_needs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
