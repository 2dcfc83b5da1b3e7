/* experts_balance: what is made once an engine for its experts, and what is done once a step: the losses are told, and the
 * biases follow the load (Wang et al. 2024, arXiv:2408.15664). */
#include "engine/checkpoint_private.h"
#include "engine/internal.h"

#include <stdlib.h>

static enum mt_status make_group(struct mt_engine *e, char axis, const char *name, struct mt_group **group)
{
	int size = (int)mt_layout_world(e->layout), count;
	int *ranks = malloc((size_t)size * sizeof *ranks);
	enum mt_status st;

	if (!ranks)
		return mt_fail(MT_NOMEM, "no memory for the %s group", name);
	count = mt_layout_expert_group(e->layout, mt_fabric_rank(e->config.fabric), axis, ranks, NULL);
	st = mt_group_create(e->config.fabric, name, ranks, count, group);
	free(ranks);
	return st;
}

static int64_t sums_count(const struct mt_engine *e)
{
	return (e->table.layer_count + e->table.module_count) * e->layout->mbs * e->model->experts * 2;
}

enum mt_status mt_experts_create(struct mt_engine *e)
{
	const struct mt_model *m = e->model;
	struct mt_experts *x = &e->experts;
	bool same_rows = e->layout->tp > 1 && !e->sp;

	if (m->experts == 0)
		return MT_OK;
	x->slices = same_rows ? 1 : mt_layout_etp(e->layout);
	x->here = m->experts / e->layout->ep;
	x->ffn = m->expert_ffn / mt_layout_etp(e->layout);
	x->shared_cols = m->shared_ffn / e->layout->tp;
	MT_TRY(make_group(e, 't', "etp", &x->etp));
	MT_TRY(make_group(e, same_rows ? 'e' : 'x', "ep", &x->exchange));
	MT_TRY(mt_stream_create(e->device, MT_STREAM_COMM, "ep", &x->stream));
	x->host_counts = calloc((size_t)(mt_group_size(x->exchange) * m->experts), sizeof *x->host_counts);
	return x->host_counts ? MT_OK : mt_fail(MT_NOMEM, "no memory for the counts of %lld experts", (long long)m->experts);
}

enum mt_status mt_experts_make_buffers(struct mt_engine *e)
{
	if (e->model->experts == 0)
		return MT_OK;
	if (e->model->router_bias && sums_count(e) > 0)
		MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, sums_count(e), mt_grad_dtype(e->dtype), &e->experts.sums));
	if (e->model->balance_loss > 0 || e->model->z_loss > 0)
		MT_TRY(mt_engine_alloc(e, ARENA_WORKSPACE, 2, MT_F64, &e->experts.loss));
	return MT_OK;
}

void mt_experts_destroy(struct mt_engine *e)
{
	mt_stream_destroy(e->experts.stream);
	mt_group_destroy(e->experts.exchange);
	mt_group_destroy(e->experts.etp);
	free(e->experts.host_counts);
}

static enum mt_status fill_zero(struct mt_engine *e, void *pointer, int64_t count, enum mt_dtype dtype)
{
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = dtype};

	op.move = (struct mt_move){.count = count, .src_dtype = dtype, .dst_dtype = dtype, .dst = pointer};
	return pointer ? mt_engine_enqueue(e, &op) : MT_OK;
}

enum mt_status mt_experts_begin_step(struct mt_engine *e)
{
	MT_TRY(fill_zero(e, e->experts.sums, sums_count(e), mt_grad_dtype(e->dtype)));
	return fill_zero(e, e->experts.loss, 2, MT_F64);
}

enum mt_status mt_experts_tell_losses(struct mt_engine *e, double losses[2])
{
	losses[0] = losses[1] = 0;
	if (!e->experts.loss)
		return MT_OK;
	if (mt_group_size(e->world) > 1)
		MT_TRY(mt_comm_all_reduce(e->world, e->compute, e->experts.loss, e->experts.loss, 2, MT_F64, MT_SUM));
	return mt_device_download(e->device, e->compute, losses, e->experts.loss, 2 * sizeof *losses);
}

/* The bias at full precision, to `values`: from the master copy, whose parts under ZeRO the data-parallel ranks have. */
static enum mt_status read_bias(struct mt_engine *e, int index, void *staging, double *values)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	struct mt_group *inner = e->shares[MT_SHARE_DENSE].inner;
	int64_t count = e->model->experts;
	struct mt_state_run run;

	for (int64_t i = 0; i < count; i++)
		values[i] = 0;
	mt_state_find(e, index, &run);
	if (run.count > 0)
		MT_TRY(mt_device_download(e->device, e->compute, staging, mt_state_at(e, index, &run, MT_STATE_WEIGHT),
					  (size_t)run.count * mt_dtype_bytes(f)));
	for (int64_t i = 0; i < run.count; i++)
		values[run.first + i] = f == MT_F64 ? ((double *)staging)[i] : (double)((float *)staging)[i];
	return inner ? mt_comm_host_all_reduce(inner, values, (int)count, MT_SUM) : MT_OK;
}

/* Up where an expert had fewer rows than the mean, down where it had more. */
static enum mt_status move_bias(struct mt_engine *e, int layer, const void *sums, void *staging, double *values)
{
	int index = e->table.layers[layer][MT_ROUTER_BIAS];
	int64_t E = e->model->experts, B = e->layout->mbs, first = layer * B * E * 2;
	bool wide = mt_grad_dtype(e->dtype) == MT_F64;
	double *load = values + E, mean = 0;

	MT_TRY(read_bias(e, index, staging, values));
	for (int64_t i = 0; i < E; i++) {
		load[i] = 0;
		for (int64_t b = 0; b < B; b++) {
			int64_t at = first + (b * E + i) * 2;

			load[i] += wide ? ((const double *)sums)[at] : (double)((const float *)sums)[at];
		}
		mean += load[i] / (double)E;
	}
	for (int64_t i = 0; i < E; i++) {
		values[i] += load[i] < mean ? e->model->bias_rate : load[i] > mean ? -e->model->bias_rate : 0;
		if (wide)
			((double *)staging)[i] = values[i];
		else
			((float *)staging)[i] = (float)values[i];
	}
	return e->device->info.executes ? mt_state_set_weight(e, index, staging) : MT_OK;
}

enum mt_status mt_experts_follow_load(struct mt_engine *e)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t count = e->experts.sums ? sums_count(e) : 0, E = e->model->experts;
	void *sums, *staging;
	double *values;
	enum mt_status st = MT_OK;

	if (count == 0)
		return MT_OK;
	sums = calloc((size_t)count, sizeof(double));
	staging = calloc((size_t)E, sizeof(double));
	values = calloc((size_t)(2 * E), sizeof *values);
	if (!sums || !staging || !values) {
		st = mt_fail(MT_NOMEM, "no memory for the load of %lld experts", (long long)E);
		goto out;
	}
	for (int i = 0; i < 2; i++) { /* over all replicas; those of other parts of a sequence have its sums already, all alike */
		struct mt_group *group = i ? e->shares[MT_SHARE_DENSE].outer : e->shares[MT_SHARE_DENSE].inner;

		if (group)
			MT_GOTO(out, mt_comm_all_reduce(group, e->compute, e->experts.sums, e->experts.sums, count, f, MT_SUM));
	}
	MT_GOTO(out, mt_device_download(e->device, e->compute, sums, e->experts.sums, (size_t)count * mt_dtype_bytes(f)));
	for (int layer = 0; layer < e->table.layer_count + e->table.module_count; layer++) {
		if (e->table.layers[layer][MT_ROUTER_BIAS] >= 0)
			MT_GOTO(out, move_bias(e, layer, sums, staging, values));
	}
out:
	free(values);
	free(staging);
	free(sums);
	return st;
}
