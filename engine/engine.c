/* engine: makes one rank of a job, runs its steps, takes it down. */
#include "engine/card.h"
#include "engine/context.h"
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

static const char *const arena_names[MT_ENGINE_ARENAS] = {"parameters", "gradients", "optimizer", "activations", "workspace"};

static void set_shape(struct mt_engine *e)
{
	const struct mt_model *m = e->model;
	const struct mt_layout *l = e->layout;

	e->dtype = (enum mt_dtype)l->dtype;
	e->first = e->at.pp == 0;
	e->last = e->at.pp == mt_layout_head_stage(l);
	e->sp = l->sp && l->tp > 1;
	e->seq = mt_context_rank_rows(l);
	e->rows = l->mbs * e->seq;
	e->token_scale = 1;
	e->shard_rows = e->sp ? e->rows / l->tp : e->rows;
	e->q_cols = m->heads * m->head_dim / l->tp;
	e->kv_cols = m->kv_heads * m->head_dim / l->tp;
	e->o_cols = m->heads * mt_model_v_dim(m) / l->tp;
	e->ffn_cols = m->ffn / l->tp;
	e->vocab_count = mt_layout_padded_vocab(m, l) / l->tp;
	e->vocab_first = e->vocab_count * e->at.tp;
	e->microbatches = mt_layout_microbatches(l);
	e->gbs = l->gbs;
	e->logits_arena = mt_logits_apart(l) ? ARENA_WORKSPACE : ARENA_ACTIVATIONS;
}

static enum mt_status make_arenas(struct mt_engine *e)
{
	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		MT_TRY(mt_arena_create(&e->arenas[i], arena_names[i], mt_device_memory(e->device), e->device->info.memory_bytes));
	/* What a put-off gradient reads takes the place of what the backward pass frees, of the same few sizes; but experts' rows
	 * are data. */
	if (mt_schedule_puts_off((enum mt_schedule)e->layout->schedule, e->at.pp) && e->model->experts == 0)
		mt_arena_keep_sizes(e->arenas[ARENA_ACTIVATIONS]);
	return MT_OK;
}

/* A device that computes nothing stands for one that may have them. */
enum mt_status mt_engine_check_graphs(const struct mt_run *run, const struct mt_device *device)
{
	int choice = run->train.cuda_graphs;

	if ((choice != MT_GRAPHS_LAYER && choice != MT_GRAPHS_PASS) || !device->info.executes || mt_device_has_graphs(device))
		return MT_OK;
	return mt_fail(MT_INPUT,
		       "train.cuda_graphs is %s, but the %s device launches no graphs: use device cuda, or cuda_graphs auto or off",
		       choice == MT_GRAPHS_PASS ? "pass" : "layer", device->info.kind);
}

static enum mt_status use_graphs(struct mt_engine *e)
{
	MT_TRY(mt_engine_check_graphs(e->config.run, e->device));
	if (e->config.run->train.cuda_graphs == MT_GRAPHS_OFF || !mt_device_has_graphs(e->device))
		return MT_OK;
	return mt_stream_use_graphs(e->compute);
}

static enum mt_status make_streams(struct mt_engine *e)
{
	static const char *const sends[MT_SCHEDULE_LANES] = {"send", "send up", "send back", "send back up"};
	static const char *const receives[MT_SCHEDULE_LANES] = {"receive", "receive up", "receive back", "receive down"};
	int step = e->layout->schedule == MT_SCHEDULE_ZB_V ? 1 : 2; /* only a V has lanes of its second side */

	MT_TRY(mt_stream_create(e->device, MT_STREAM_COMPUTE, "compute", &e->compute));
	MT_TRY(use_graphs(e));
	MT_TRY(mt_stream_create(e->device, MT_STREAM_COMM, "dp", &e->dp_stream));
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane += step) {
		MT_TRY(mt_stream_create(e->device, MT_STREAM_COMM, sends[lane], &e->send_stream[lane]));
		MT_TRY(mt_stream_create(e->device, MT_STREAM_COMM, receives[lane], &e->recv_stream[lane]));
	}
	MT_TRY(mt_offload_open(e));
	return mt_event_create(e->device, &e->event);
}

static enum mt_status make_axis_group(struct mt_engine *e, char axis, const char *name, struct mt_group **group)
{
	int size = (int)mt_layout_world(e->layout), count;
	int *ranks = malloc((size_t)size * sizeof *ranks);
	enum mt_status st;

	if (!ranks)
		return mt_fail(MT_NOMEM, "no memory for the %s group", name);
	count = mt_layout_group(e->layout, mt_fabric_rank(e->config.fabric), axis, ranks, NULL);
	st = mt_group_create(e->config.fabric, name, ranks, count, group);
	free(ranks);
	return st;
}

/* Every rank makes its groups in the same order. */
static enum mt_status make_groups(struct mt_engine *e)
{
	int size = (int)mt_layout_world(e->layout);
	int *all = malloc((size_t)size * sizeof *all);
	enum mt_status st = MT_OK;

	if (!all)
		return mt_fail(MT_NOMEM, "no memory for the world group of %d ranks", size);
	for (int i = 0; i < size; i++)
		all[i] = i;
	MT_GOTO(out, mt_group_create(e->config.fabric, "world", all, size, &e->world));
	MT_GOTO(out, make_axis_group(e, 't', "tp", &e->tp));
	MT_GOTO(out, mt_shares_create(e));
	MT_GOTO(out, make_axis_group(e, 'p', "pp", &e->pp));
	if (e->layout->cp > 1) {
		MT_GOTO(out, make_axis_group(e, 'u', "cp heads", &e->heads));
		MT_GOTO(out, make_axis_group(e, 'o', "cp", &e->parts));
	}
	e->pp_back = e->pp;
	if (e->layout->vp > 1)
		MT_GOTO(out, make_axis_group(e, 'p', "pp back", &e->pp_back));
	if ((e->model->tied || e->model->mtp > 0) && e->first != e->last) {
		int pair[2] = {mt_group_world_rank(e->pp, 0), mt_group_world_rank(e->pp, mt_layout_head_stage(e->layout))};

		MT_GOTO(out, mt_group_create(e->config.fabric, "ends", pair, 2, &e->ends));
	}
out:
	free(all);
	return st;
}

static enum mt_status make_order(struct mt_engine *e)
{
	int count = 0;

	e->bucket_order = calloc((size_t)e->table.bucket_count + 1, sizeof *e->bucket_order);
	if (!e->bucket_order)
		return mt_fail(MT_NOMEM, "no memory for %d buckets", e->table.bucket_count);
	for (int unit = 0; unit < e->table.units; unit++) {
		for (int i = 0; i < e->table.bucket_count; i++) {
			if (e->table.buckets[i].unit == unit)
				e->bucket_order[count++] = i;
		}
	}
	return MT_OK;
}

static enum mt_status make_buffers(struct mt_engine *e)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);

	MT_TRY(mt_engine_alloc(e, ARENA_PARAMETERS, e->param_elements, e->dtype, &e->param_flat));
	MT_TRY(mt_engine_alloc(e, ARENA_GRADIENTS, e->grad_elements, f, &e->grad_flat));
	if (mt_dtype_is_half(e->dtype))
		MT_TRY(mt_engine_alloc(e, ARENA_OPTIMIZER, e->shard_elements, f, &e->master));
	if (e->config.run->train.optimizer != MT_SGD || e->config.run->train.momentum > 0)
		MT_TRY(mt_engine_alloc(e, ARENA_OPTIMIZER, e->shard_elements, mt_moment_dtype(e, e->layout->moment1_dtype),
				       &e->moment1));
	if (e->moment2_elements > 0)
		MT_TRY(mt_engine_alloc(e, ARENA_OPTIMIZER, e->moment2_elements, mt_moment_dtype(e, e->layout->moment2_dtype),
				       &e->moment2));
	MT_TRY(mt_muon_create(e));
	MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, 4, MT_F64, &e->numbers));
	if (e->last)
		MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, (1 + e->model->mtp) * e->microbatches * e->rows, f, &e->losses));
	return mt_experts_make_buffers(e);
}

static enum mt_status make_flight(struct mt_engine *e, struct mt_flight *flight, int64_t layers)
{
	flight->layers = calloc((size_t)layers + 1, sizeof *flight->layers);
	if (!flight->layers)
		return mt_fail(MT_NOMEM, "no memory for %lld layers", (long long)layers);
	flight->layer_count = layers;
	for (int i = 0; i < 2; i++)
		MT_TRY(mt_event_create(e->device, &flight->arrived[i]));
	MT_TRY(mt_offload_create(e, flight));
	if (!mt_schedule_puts_off((enum mt_schedule)e->layout->schedule, e->at.pp))
		return MT_OK;
	return mt_wgrads_create(&flight->wgrads, layers);
}

static enum mt_status make_flights(struct mt_engine *e)
{
	e->flight_count = e->microbatches * e->table.chunk_count;
	e->flights = calloc((size_t)e->flight_count, sizeof *e->flights);
	e->host_tokens = calloc((size_t)e->rows * 2, sizeof *e->host_tokens);
	e->host_losses = calloc((size_t)(e->microbatches * e->rows), sizeof(double));
	e->mtp_none = calloc((size_t)(e->model->mtp * 2 * e->rows) + 1, sizeof *e->mtp_none);
	if (!e->flights || !e->host_tokens || !e->host_losses || !e->mtp_none)
		return mt_fail(MT_NOMEM, "no memory for %lld micro-batches of %lld rows", (long long)e->microbatches,
			       (long long)e->rows);
	for (int64_t i = 0; i < e->flight_count; i++) {
		const struct mt_chunk *chunk = &e->table.chunks[i / e->microbatches];

		MT_TRY(make_flight(e, &e->flights[i], chunk->layers));
		if (chunk->last)
			MT_TRY(mt_mtp_create(e, &e->flights[i]));
	}
	return MT_OK;
}

/* The stage's actions, and room for the messages that they keep on their way. */
static enum mt_status make_schedule(struct mt_engine *e)
{
	struct mt_schedule_shape shape = mt_layout_schedule(e->layout);

	shape.microbatches = e->microbatches;
	MT_TRY(mt_schedule_create(&e->schedule, &shape, e->at.pp));
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++) {
		e->sent[lane] = calloc((size_t)e->schedule.sends, sizeof *e->sent[lane]);
		if (!e->sent[lane])
			return mt_fail(MT_NOMEM, "no memory for %lld messages", (long long)e->schedule.sends);
		for (int64_t i = 0; i < e->schedule.sends; i++)
			MT_TRY(mt_event_create(e->device, &e->sent[lane][i].event));
	}
	return MT_OK;
}

enum mt_status mt_flights_create(struct mt_engine *e)
{
	MT_TRY(make_flights(e));
	return make_schedule(e);
}

enum mt_status mt_engine_create(struct mt_engine **engine, const struct mt_engine_config *config)
{
	const struct mt_layout *layout = &config->run->layout;
	struct mt_engine *e;
	enum mt_status st;

	*engine = NULL;
	MT_TRY(mt_layout_check(&config->run->model, layout, "engine"));
	if (mt_layout_world(layout) != mt_fabric_size(config->fabric))
		return mt_fail(
			MT_INPUT,
			"the layout needs %lld ranks (tp*cp*dp*pp), the job has %d: start it with that many, or change the layout",
			(long long)mt_layout_world(layout), mt_fabric_size(config->fabric));
	e = calloc(1, sizeof *e);
	if (!e)
		return mt_fail(MT_NOMEM, "no memory for the engine");
	e->config = *config;
	e->model = &config->run->model;
	e->layout = layout;
	e->device = config->device;
	e->at = mt_layout_coordinates(layout, mt_fabric_rank(config->fabric));
	set_shape(e);
	mt_loss_scale_open(&e->loss_scale, &config->run->train, e->dtype);
	MT_GOTO(fail, make_arenas(e));
	MT_GOTO(fail, make_streams(e));
	MT_GOTO(fail, make_groups(e));
	MT_GOTO(fail, mt_experts_create(e));
	MT_GOTO(fail, mt_param_table_create(&e->table, e->model, layout, e->at));
	MT_GOTO(fail, make_order(e));
	MT_GOTO(fail, mt_shards_create(e));
	MT_GOTO(fail, mt_shards_open(e));
	MT_GOTO(fail, mt_segments_create(e));
	MT_GOTO(fail, make_buffers(e));
	MT_GOTO(fail, mt_narrow_open(e));
	MT_GOTO(fail, mt_fp8_open(e));
	MT_GOTO(fail, mt_flights_create(e));
	MT_GOTO(fail, mt_context_create(e));
	MT_GOTO(fail, mt_engine_open_loader(e, config->dataset, &e->loader));
	MT_GOTO(fail, mt_initialize(e));
	*engine = e;
	return MT_OK;
fail:
	mt_engine_destroy(e);
	return st;
}

static void free_flights(struct mt_engine *e)
{
	for (int64_t i = 0; e->flights && i < e->flight_count; i++) {
		struct mt_flight *flight = &e->flights[i];

		if (flight->layers && e->arenas[ARENA_ACTIVATIONS])
			mt_flight_free(e, flight);
		mt_offload_destroy(e, flight);
		for (int64_t layer = 0; flight->layers && layer < flight->layer_count; layer++)
			free(flight->layers[layer].experts.host);
		mt_mtp_destroy(flight);
		free(flight->layers);
		mt_wgrads_destroy(&flight->wgrads);
		for (int k = 0; k < 2; k++)
			mt_event_destroy(flight->arrived[k]);
	}
	free(e->flights);
	e->flights = NULL;
}

void mt_flights_destroy(struct mt_engine *e)
{
	free_flights(e);
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++) {
		for (int64_t i = 0; e->sent[lane] && i < e->schedule.sends; i++)
			mt_event_destroy(e->sent[lane][i].event);
		free(e->sent[lane]);
		e->sent[lane] = NULL;
		e->sent_first[lane] = e->sent_count[lane] = 0;
	}
	mt_schedule_free(&e->schedule);
	free(e->host_tokens);
	free(e->host_losses);
	free(e->mtp_none);
	e->host_tokens = e->mtp_none = NULL;
	e->host_losses = NULL;
}

void mt_engine_destroy(struct mt_engine *engine)
{
	struct mt_engine *e = engine;

	if (!e)
		return;
	mt_loader_destroy(e->loader);
	mt_loader_destroy(e->eval_loader);
	/* Streams first: what is on its way must have arrived before its memory goes. */
	if (e->gather_stream != e->dp_stream)
		mt_stream_destroy(e->gather_stream);
	mt_stream_destroy(e->dp_stream);
	mt_offload_close(e);
	mt_experts_destroy(e);
	for (int lane = 0; lane < MT_SCHEDULE_LANES; lane++) {
		mt_stream_destroy(e->send_stream[lane]);
		mt_stream_destroy(e->recv_stream[lane]);
	}
	mt_registration_end(e);
	mt_flights_destroy(e);
	mt_fp8_close(e);
	mt_narrow_close(e);
	mt_event_destroy(e->event);
	mt_stream_destroy(e->compute);
	mt_context_destroy(e);
	mt_group_destroy(e->ends);
	if (e->pp_back != e->pp)
		mt_group_destroy(e->pp_back);
	mt_group_destroy(e->pp);
	mt_shares_destroy(e);
	mt_group_destroy(e->tp);
	mt_group_destroy(e->world);
	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		mt_arena_destroy(e->arenas[i]);
	mt_arena_destroy(e->host_arena);
	mt_shards_destroy(e);
	mt_param_table_free(&e->table);
	free(e->segments);
	free(e->updates);
	free(e->laps);
	free(e->bucket_order);
	free(e);
}

enum mt_status mt_engine_step(struct mt_engine *engine, struct mt_step_stats *stats)
{
	struct mt_engine *e = engine;
	struct mt_mark start;

	memset(stats, 0, sizeof *stats);
	stats->step = e->step;
	e->counted = 0;
	e->tp_s = e->cp_s = e->dp_s = e->pp_s = e->ep_s = e->optimizer_s = e->gather_s = e->data_s = 0;
	e->lap_count = 0;
	e->next_bucket = 0;
	e->last_microbatch = false;
	MT_TRY(mt_registration_follow(e));
	MT_TRY(mt_batch_resize(e, mt_rampup_gbs(e->config.run, e->samples)));
	stats->samples = e->gbs;
	MT_TRY(mt_lap_begin(e, &start));
	if (e->loader)
		MT_TRY(mt_loader_begin(e->loader, (uint64_t)e->samples));
	MT_TRY(mt_grads_begin(e));
	mt_fp8_begin(e);
	MT_TRY(mt_experts_begin_step(e));
	MT_TRY(mt_pipeline_run(e));
	MT_TRY(mt_params_leave(e));
	MT_TRY(mt_reduce_finish(e));
	MT_TRY(mt_fp8_finish(e));
	MT_TRY(mt_optimizer_step(e, stats));
	if (!stats->skipped)
		MT_TRY(mt_experts_follow_load(e));
	MT_TRY(mt_lap_end(e, &start, &stats->seconds));
	MT_TRY(mt_laps_read(e));
	stats->tp_s = e->tp_s + e->cp_s;
	stats->cp_s = e->cp_s;
	stats->dp_s = e->dp_s + e->gather_s;
	stats->pp_s = e->pp_s;
	stats->ep_s = e->ep_s;
	stats->optimizer_s = e->optimizer_s - e->gather_s;
	stats->data_s = e->data_s;
	stats->compute_s = stats->seconds - stats->tp_s - stats->dp_s - stats->pp_s - stats->ep_s - stats->optimizer_s;
	e->step++;
	e->samples += e->gbs;
	return MT_OK;
}

struct mt_graph_stats mt_engine_graph_stats(const struct mt_engine *engine)
{
	return mt_stream_graph_stats(engine->compute);
}

int64_t mt_engine_steps_done(const struct mt_engine *engine)
{
	return engine->step;
}
