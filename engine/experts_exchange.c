/* experts_exchange: which rows go where, and the exchange itself.
 *
 * The ranks of the exchange tell each other how many rows they have for each expert. From that each host knows its part of
 * both directions: rows lie by expert where they come from, and by expert and then by sender where they go to, so that neither
 * side sorts what is sent: one message goes for each expert of a rank. */
#include "engine/internal.h"

#include <stdlib.h>

bool mt_exchange_needed(const struct mt_engine *e)
{
	return mt_group_size(e->experts.exchange) > 1;
}

/* A tensor's plan lives as long as its flight: weight gradients that were put off still read the offsets. */
static enum mt_status make_host(struct mt_engine *e, struct mt_experts_saved *s)
{
	int64_t L = e->experts.here, pairs = mt_group_size(e->experts.exchange) * L;

	if (s->host)
		return MT_OK;
	s->host = calloc((size_t)(L + 1 + 5 * pairs), sizeof *s->host);
	if (!s->host)
		return mt_fail(MT_NOMEM, "no memory for the exchange of %lld experts", (long long)L);
	s->offsets = s->host;
	s->send_counts = s->offsets + L + 1;
	s->send_first = s->send_counts + pairs;
	s->recv_counts = s->send_first + pairs;
	s->recv_first = s->recv_counts + pairs;
	s->back_first = s->recv_first + pairs;
	return MT_OK;
}

/* Rows that every rank has for each expert when nobody can count: an even share, and no more than an expert takes. */
static void even_counts(const struct mt_engine *e, int32_t *counts, int ranks)
{
	int64_t E = e->model->experts, rows = e->shard_rows * e->model->top_k, most = mt_router_capacity(e) * e->layout->mbs;

	for (int64_t i = 0; i < E; i++) {
		int64_t share = rows / E + (i < rows % E);

		counts[i] = (int32_t)(e->model->capacity_pad || (most > 0 && share > most) ? most : share);
	}
	for (int64_t i = E; i < ranks * E; i++)
		counts[i] = counts[i - E];
}

/* host_counts(ranks, E) = the counts of all ranks. */
static enum mt_status learn_counts(struct mt_engine *e, const void *counts)
{
	int ranks = mt_group_size(e->experts.exchange);
	int64_t E = e->model->experts;
	void *all = (void *)(uintptr_t)counts;

	if (e->model->capacity_pad) {
		even_counts(e, e->experts.host_counts, ranks);
		return MT_OK;
	}
	if (ranks > 1) {
		struct mt_mark start;

		MT_TRY(mt_lap_begin(e, &start));
		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, ranks * E, MT_I32, &all));
		MT_TRY(mt_comm_all_gather(e->experts.exchange, e->compute, counts, all, E, MT_I32));
		MT_TRY(mt_lap_end(e, &start, &e->ep_s));
	}
	MT_TRY(mt_device_download(e->device, e->compute, e->experts.host_counts, all, (size_t)(ranks * E) * sizeof(int32_t)));
	if (all != counts)
		mt_engine_release(e, &all);
	if (!e->device->info.executes)
		even_counts(e, e->experts.host_counts, ranks);
	return MT_OK;
}

/* Of what this rank sends and gets back: chunk (r, l) is of rank r's l-th expert. */
static void plan_sends(struct mt_engine *e, struct mt_experts_saved *s, const int32_t *mine)
{
	int64_t L = e->experts.here, slices = e->experts.slices, ranks = mt_group_size(e->experts.exchange);

	s->places = 0;
	for (int64_t i = 0; i < e->model->experts; i++)
		s->places += mine[i];
	for (int64_t r = 0; r < ranks; r++) {
		int64_t first = 0, expert = r / slices * L;

		for (int64_t i = 0; i < expert; i++)
			first += mine[i];
		for (int64_t l = 0; l < L; l++) {
			s->send_counts[r * L + l] = mine[expert + l];
			s->send_first[r * L + l] = first;
			s->back_first[r * L + l] = r % slices * s->places + first;
			first += mine[expert + l];
		}
	}
}

/* Of what this rank's experts get: by expert, then by sender. */
static void plan_receives(struct mt_engine *e, struct mt_experts_saved *s, const int32_t *all)
{
	int64_t L = e->experts.here, E = e->model->experts, ranks = mt_group_size(e->experts.exchange), next = 0;

	for (int64_t l = 0; l < L; l++) {
		s->offsets[l] = next;
		for (int64_t r = 0; r < ranks; r++) {
			s->recv_counts[r * L + l] = all[r * E + e->at.ep * L + l];
			s->recv_first[r * L + l] = next;
			next += s->recv_counts[r * L + l];
		}
	}
	s->offsets[L] = s->got = next;
}

enum mt_status mt_exchange_plan(struct mt_engine *e, struct mt_experts_saved *saved, const void *counts)
{
	const int32_t *all = e->experts.host_counts;

	MT_TRY(make_host(e, saved));
	MT_TRY(learn_counts(e, counts));
	plan_sends(e, saved, all + mt_group_rank(e->experts.exchange) * e->model->experts);
	plan_receives(e, saved, all);
	return MT_OK;
}

/* The exchange's stream goes on after what the compute stream has enqueued. */
static enum mt_status follow_compute(struct mt_engine *e)
{
	MT_TRY(mt_event_record(e->event, e->compute));
	return mt_stream_wait(e->experts.stream, e->event);
}

enum mt_status mt_exchange_start(struct mt_engine *e, const struct mt_experts_saved *saved, const void *rows, void *got,
				 int64_t cols, enum mt_dtype dtype)
{
	MT_TRY(follow_compute(e));
	return mt_comm_all_to_all_v(e->experts.exchange, e->experts.stream, rows, got,
				    &(struct mt_comm_chunks){.each = (int)e->experts.here,
							     .send_counts = saved->send_counts,
							     .send_first = saved->send_first,
							     .recv_counts = saved->recv_counts,
							     .recv_first = saved->recv_first},
				    cols, dtype);
}

enum mt_status mt_exchange_start_back(struct mt_engine *e, const struct mt_experts_saved *saved, const void *got, void *rows,
				      int64_t cols, enum mt_dtype dtype)
{
	MT_TRY(follow_compute(e));
	return mt_comm_all_to_all_v(e->experts.exchange, e->experts.stream, got, rows,
				    &(struct mt_comm_chunks){.each = (int)e->experts.here,
							     .send_counts = saved->recv_counts,
							     .send_first = saved->recv_first,
							     .recv_counts = saved->send_counts,
							     .recv_first = saved->back_first},
				    cols, dtype);
}

enum mt_status mt_exchange_wait(struct mt_engine *e)
{
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_event_record(e->event, e->experts.stream));
	MT_TRY(mt_stream_wait(e->compute, e->event));
	return mt_lap_end(e, &start, &e->ep_s);
}
