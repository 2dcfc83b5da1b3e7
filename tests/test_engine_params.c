/* Parameter tables of every rank of many layouts: shards partition the model, buckets tile the buffer, every element is counted
 * once, and initial values know nothing of the layout.
 *
 * The segments of the optimizer are internal to the engine, so this test includes its internal header. */
#include "engine/internal.h"
#include "tests/engine_problem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

enum { MOST_NAMES = 256 };

/* A parameter of the whole model, and how often each of its elements was met. */
struct whole {
	char name[MT_PARAM_NAME];
	int64_t rows, cols;
	int *met; /* owned */
};

struct model_map {
	struct whole all[MOST_NAMES];
	int count;
};

static struct whole *find_whole(struct model_map *map, const struct mt_param *p)
{
	struct whole *w;

	for (int i = 0; i < map->count; i++) {
		if (strcmp(map->all[i].name, p->name) != 0)
			continue;
		assert_int_equal(map->all[i].rows, p->global_rows);
		assert_int_equal(map->all[i].cols, p->global_cols);
		return &map->all[i];
	}
	assert_true(map->count < MOST_NAMES);
	w = &map->all[map->count++];
	memcpy(w->name, p->name, sizeof w->name);
	w->rows = p->global_rows;
	w->cols = p->global_cols;
	w->met = calloc((size_t)(w->rows * w->cols), sizeof *w->met);
	assert_non_null(w->met);
	return w;
}

static void free_map(struct model_map *map)
{
	for (int i = 0; i < map->count; i++)
		free(map->all[i].met);
}

/* Global index of a local element. */
static int64_t global_index(const struct mt_param *p, int64_t local)
{
	int64_t row = local / p->cols + (p->shard_axis == 0 ? p->first : 0),
		col = local % p->cols + (p->shard_axis == 1 ? p->first : 0);

	return row * p->global_cols + col;
}

/* The engine of one rank as far as its tables go. */
static void make_tables(struct mt_engine *e, const struct mt_run *run, int rank)
{
	memset(e, 0, sizeof *e);
	e->config.run = run;
	e->model = &run->model;
	e->layout = &run->layout;
	e->at = mt_layout_coordinates(&run->layout, rank);
	mt_shares_count(e);
	if (mt_param_table_create(&e->table, e->model, e->layout, e->at) != MT_OK || mt_shards_create(e) != MT_OK ||
	    mt_segments_create(e) != MT_OK)
		fail_msg("%s", mt_error_message());
}

static void free_tables(struct mt_engine *e)
{
	mt_shards_destroy(e);
	mt_param_table_free(&e->table);
	free(e->segments);
	free(e->updates);
}

/* Calls check for every layout of up to 8 ranks of both models, several bucket sizes, sharded and not. */
static void for_all_layouts(void (*check)(const struct mt_run *run))
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA};
	static const int64_t bucket_bytes[] = {0, 1 << 10, 20000};

	for (int i = 0; i < 2; i++) {
		struct mt_run run;

		set_tiny_run(&run, models[i]);
		run.model.layers = 5;
		for (run.layout.tp = 1; run.layout.tp <= run.model.kv_heads; run.layout.tp *= 2)
			for (run.layout.pp = 1; run.layout.pp <= 4; run.layout.pp++)
				for (run.layout.dp = 1; run.layout.dp <= 4 && run.layout.tp * run.layout.dp <= 8; run.layout.dp++)
					for (int bucket = 0; bucket < 3; bucket++)
						for (run.layout.zero = 0; run.layout.zero <= 3 * (run.layout.dp > 1);
						     run.layout.zero++) {
							run.layout.bucket_bytes = bucket_bytes[bucket];
							check(&run);
						}
		mt_run_free(&run);
	}
}

#define fail_layout(run, ...)                                                                                                      \
	do {                                                                                                                       \
		char text_[96];                                                                                                    \
		mt_layout_text(&(run)->layout, text_);                                                                             \
		print_error("%s, %s, buckets of %lld: ", (run)->model.name, text_, (long long)(run)->layout.bucket_bytes);         \
		fail_msg(__VA_ARGS__);                                                                                             \
	} while (0)

static void check_shards(const struct mt_run *run)
{
	struct model_map map = {.count = 0};
	int64_t real = 0;

	for (int rank = 0; rank < mt_layout_world(&run->layout); rank++) {
		struct mt_engine e;

		make_tables(&e, run, rank);
		for (int i = 0; i < e.table.count; i++) {
			const struct mt_param *p = &e.table.params[i];
			struct whole *w = find_whole(&map, p);

			/* whole tensors and copies of other ranks are not parts of a partition */
			if (e.at.dp == 0 && !p->copy && !(p->replicated && e.at.tp))
				for (int64_t k = 0; k < p->rows * p->cols; k++)
					w->met[global_index(p, k)]++;
		}
		free_tables(&e);
	}
	for (int i = 0; i < map.count; i++) {
		const struct whole *w = &map.all[i];

		for (int64_t k = 0; k < w->rows * w->cols; k++)
			if (w->met[k] != 1)
				fail_layout(run, "%s: element %lld is in %d shards", w->name, (long long)k, w->met[k]);
		real += (strstr(w->name, "embedding.word") || strstr(w->name, "head.") ? run->model.vocab : w->rows) * w->cols;
	}
	if (real != mt_model_parameters(&run->model))
		fail_layout(run, "%lld parameters, the model has %lld", (long long)real,
			    (long long)mt_model_parameters(&run->model));
	free_map(&map);
}

static void shards_partition_every_tensor(void **state)
{
	for_all_layouts(check_shards);
}

static int bucket_of(const struct mt_param_table *t, int64_t offset)
{
	for (int i = 0; i < t->bucket_count; i++)
		if (offset >= t->buckets[i].offset && offset < t->buckets[i].offset + t->buckets[i].count)
			return i;
	return -1;
}

/* Parameters lie apart in the buffer, each within one bucket; buckets follow one another without a gap. */
static void check_buckets(const struct mt_run *run)
{
	for (int rank = 0; rank < mt_layout_world(&run->layout); rank++) {
		struct mt_engine e;
		const struct mt_param_table *t = &e.table;
		int64_t end = 0;
		char *used;

		make_tables(&e, run, rank);
		used = calloc((size_t)t->elements, 1);
		for (int i = 0; i < t->bucket_count; i++) {
			const struct mt_bucket *b = &t->buckets[i];

			if (b->offset != end || b->count <= 0 || b->count % (run->layout.dp * MT_PARAM_ALIGN))
				fail_layout(run, "bucket %d of %d: [%lld, +%lld) after %lld", i, t->bucket_count,
					    (long long)b->offset, (long long)b->count, (long long)end);
			end += b->count;
		}
		if (end != t->elements)
			fail_layout(run, "buckets end at %lld, the buffer at %lld", (long long)end, (long long)t->elements);
		for (int i = 0; i < t->count; i++) {
			const struct mt_param *p = &t->params[i];
			int64_t size = p->rows * p->cols;
			int bucket = bucket_of(t, p->offset);

			if (bucket < 0 || bucket_of(t, p->offset + size - 1) != bucket)
				fail_layout(run, "%s [%lld, +%lld) is cut by a bucket's end", p->name, (long long)p->offset,
					    (long long)size);
			if (t->buckets[bucket].replicated != p->replicated || t->buckets[bucket].unit < p->unit)
				fail_layout(run, "%s of unit %d lies in bucket %d of unit %d", p->name, p->unit, bucket,
					    t->buckets[bucket].unit);
			for (int64_t k = 0; k < size; k++)
				if (used[p->offset + k]++)
					fail_layout(run, "%s overlaps another parameter at %lld", p->name,
						    (long long)(p->offset + k));
		}
		free(used);
		free_tables(&e);
	}
}

static void buckets_tile_the_buffer_and_hold_whole_parameters(void **state)
{
	for_all_layouts(check_buckets);
}

/* What one product uses together lies together. */
static void check_follows(const struct mt_run *run, const struct mt_param_table *t, int first, int second)
{
	const struct mt_param *p, *q;

	if (first < 0 || second < 0)
		return;
	p = &t->params[first];
	q = &t->params[second];
	if (q->offset != p->offset + p->rows * p->cols || bucket_of(t, p->offset) != bucket_of(t, q->offset))
		fail_layout(run, "%s at %lld does not follow %s at %lld, +%lld, in its bucket", q->name, (long long)q->offset,
			    p->name, (long long)p->offset, (long long)(p->rows * p->cols));
}

static void check_fused(const struct mt_run *run)
{
	for (int rank = 0; rank < mt_layout_world(&run->layout); rank++) {
		struct mt_engine e;

		make_tables(&e, run, rank);
		for (int64_t layer = 0; layer < e.table.layer_count; layer++) {
			const int *at = e.table.layers[layer];

			check_follows(run, &e.table, at[MT_ATTN_Q], at[MT_ATTN_K]);
			check_follows(run, &e.table, at[MT_ATTN_K], at[MT_ATTN_V]);
			check_follows(run, &e.table, at[MT_ATTN_Q_BIAS], at[MT_ATTN_K_BIAS]);
			check_follows(run, &e.table, at[MT_ATTN_K_BIAS], at[MT_ATTN_V_BIAS]);
			check_follows(run, &e.table, at[MT_MLP_GATE], at[MT_MLP_UP]);
		}
		free_tables(&e);
	}
}

static void fused_matrices_are_contiguous(void **state)
{
	for_all_layouts(check_fused);
}

/* The segments of a rank tile its shard of every bucket, in the flat buffer and in the optimizer's. */
static void check_segments(const struct mt_run *run)
{
	for (int rank = 0; rank < mt_layout_world(&run->layout); rank++) {
		struct mt_engine e;
		int next = 0;
		int64_t shard_end = 0;

		make_tables(&e, run, rank);
		for (int i = 0; i < e.table.bucket_count; i++) {
			const struct mt_bucket *b = &e.table.buckets[i];
			int64_t shard = run->layout.zero ? b->count / run->layout.dp : b->count;
			int64_t cursor = b->offset + (run->layout.zero ? e.at.dp * shard : 0), end = cursor + shard;

			for (; next < e.segment_count && e.segments[next].bucket == i; next++) {
				const struct mt_segment *s = &e.segments[next];

				if (s->offset != cursor || s->shard_offset != shard_end || s->count <= 0)
					fail_layout(run,
						    "rank %d, bucket %d: segment [%lld, +%lld) at %lld, expected at %lld and %lld",
						    rank, i, (long long)s->offset, (long long)s->count, (long long)s->shard_offset,
						    (long long)cursor, (long long)shard_end);
				cursor += s->count;
				shard_end += s->count;
			}
			if (cursor != end)
				fail_layout(run, "rank %d, bucket %d: segments end at %lld, the shard at %lld", rank, i,
					    (long long)cursor, (long long)end);
		}
		assert_int_equal(next, e.segment_count);
		assert_int_equal(shard_end, e.shard_elements);
		free_tables(&e);
	}
}

static void segments_tile_the_shards_of_every_bucket(void **state)
{
	for_all_layouts(check_segments);
}

static const struct mt_segment *segment_of(const struct mt_engine *e, int64_t offset)
{
	for (int i = 0; i < e->segment_count; i++)
		if (offset >= e->segments[i].offset && offset < e->segments[i].offset + e->segments[i].count)
			return &e->segments[i];
	return NULL;
}

/* Every element, padding words too, is in one counted segment over all ranks; decay is the parameter's. */
static void check_counted(const struct mt_run *run)
{
	struct model_map map = {.count = 0};

	for (int rank = 0; rank < mt_layout_world(&run->layout); rank++) {
		struct mt_engine e;

		make_tables(&e, run, rank);
		for (int i = 0; i < e.table.count; i++) {
			const struct mt_param *p = &e.table.params[i];
			struct whole *w = find_whole(&map, p);

			for (int64_t k = 0; k < p->rows * p->cols; k++) {
				const struct mt_segment *s = segment_of(&e, p->offset + k);

				if (s && s->decay != p->decay)
					fail_layout(run, "%s[%lld] has decay %d, its segment %d", p->name, (long long)k, p->decay,
						    s->decay);
				w->met[global_index(p, k)] += s && s->counted;
			}
		}
		free_tables(&e);
	}
	for (int i = 0; i < map.count; i++)
		for (int64_t k = 0; k < map.all[i].rows * map.all[i].cols; k++)
			if (map.all[i].met[k] != 1)
				fail_layout(run, "%s: element %lld counts %d times", map.all[i].name, (long long)k,
					    map.all[i].met[k]);
	free_map(&map);
}

static void every_element_counts_once_over_all_ranks(void **state)
{
	for_all_layouts(check_counted);
}

/* The whole tensor of every parameter of one rank, once; shards of other layouts are compared with it. */
static void check_initial(const struct mt_run *run)
{
	struct mt_run alone_run = *run;
	struct mt_param_table alone;
	float mine[4096], whole[4096];

	alone_run.layout.tp = alone_run.layout.pp = alone_run.layout.dp = 1;
	alone_run.layout.zero = 0;
	assert_int_equal(mt_param_table_create(&alone, &run->model, &alone_run.layout, (struct mt_coordinates){0}), MT_OK);
	for (int rank = 0; rank < mt_layout_world(&run->layout); rank++) {
		struct mt_engine e;

		make_tables(&e, run, rank);
		for (int i = 0; i < e.table.count; i++) {
			const struct mt_param *p = &e.table.params[i], *q = NULL;
			int64_t count = p->rows * p->cols;

			for (int k = 0; k < alone.count && !q; k++)
				q = strcmp(alone.params[k].name, p->name) == 0 ? &alone.params[k] : NULL;
			if (!q)
				fail_layout(run, "%s is not in the table of one rank", p->name);
			assert_true(count <= 4096 && q->rows * q->cols <= 4096);
			/* in two parts, as chunks are */
			mt_param_initial(p, &run->model, 5, 0, count / 3, mine);
			mt_param_initial(p, &run->model, 5, count / 3, count - count / 3, mine + count / 3);
			mt_param_initial(q, &run->model, 5, 0, q->rows * q->cols, whole);
			for (int64_t k = 0; k < count; k++) {
				int64_t at = global_index(p, k);
				float want = at < q->rows * q->cols ? whole[at] : 0; /* more padding words than one rank has */

				if (mine[k] != want)
					fail_layout(run, "%s[%lld] starts as %.9g, on one rank as %.9g", p->name, (long long)at,
						    (double)mine[k], (double)want);
			}
		}
		free_tables(&e);
	}
	mt_param_table_free(&alone);
}

static void initial_values_do_not_depend_on_the_layout(void **state)
{
	for_all_layouts(check_initial);
}

static void check_tied(const struct mt_run *run)
{
	struct mt_coordinates at = {0};
	struct mt_param_table first, last;
	int i = 0, k = 0;

	if (!run->model.tied || run->layout.pp == 1)
		return;
	assert_int_equal(mt_param_table_create(&first, &run->model, &run->layout, at), MT_OK);
	at.pp = (int)run->layout.pp - 1;
	assert_int_equal(mt_param_table_create(&last, &run->model, &run->layout, at), MT_OK);
	for (;; i++, k++) {
		while (i < first.bucket_count && !first.buckets[i].tied)
			i++;
		while (k < last.bucket_count && !last.buckets[k].tied)
			k++;
		if (i == first.bucket_count || k == last.bucket_count)
			break;
		if (first.buckets[i].count != last.buckets[k].count)
			fail_layout(run, "tied bucket of %lld elements on the first stage, %lld on the last",
				    (long long)first.buckets[i].count, (long long)last.buckets[k].count);
		assert_int_equal(first.params[first.word].offset - first.buckets[i].offset,
				 last.params[last.word].offset - last.buckets[k].offset);
	}
	if (i != first.bucket_count || k != last.bucket_count || !last.params[last.word].copy || first.params[first.word].copy)
		fail_layout(run, "first and last stage do not cut the tied embedding alike");
	mt_param_table_free(&first);
	mt_param_table_free(&last);
}

static void tied_copies_are_cut_alike_at_both_ends(void **state)
{
	for_all_layouts(check_tied);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shards_partition_every_tensor),
		cmocka_unit_test(buckets_tile_the_buffer_and_hold_whole_parameters),
		cmocka_unit_test(fused_matrices_are_contiguous),
		cmocka_unit_test(segments_tile_the_shards_of_every_bucket),
		cmocka_unit_test(every_element_counts_once_over_all_ranks),
		cmocka_unit_test(initial_values_do_not_depend_on_the_layout),
		cmocka_unit_test(tied_copies_are_cut_alike_at_both_ends),
	};
	return cmocka_run_group_tests_name("engine params", tests, NULL, NULL);
}
