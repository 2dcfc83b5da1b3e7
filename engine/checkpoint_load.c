/* checkpoint_load: from the pieces of any layout to the state of this rank. */
#include "base/json.h"
#include "engine/checkpoint_private.h"

#include <stdlib.h>
#include <string.h>

/* f32 or f64 to the engine's type. */
static void round_to(enum mt_dtype to, enum mt_dtype from, const void *values, void *out, int64_t count)
{
	static const enum mt_stored stored[MT_DTYPE_COUNT] = {
		[MT_F32] = MT_STORED_F32, [MT_BF16] = MT_STORED_BF16, [MT_F64] = MT_STORED_F64, [MT_F16] = MT_STORED_F16};

	mt_stored_encode(from, values, stored[to], out, count);
}

enum mt_status mt_state_set_weight(struct mt_engine *e, int index, const void *values)
{
	const struct mt_param *p = &e->table.params[index];
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t count = p->rows * p->cols;
	size_t bytes = (size_t)count * mt_dtype_bytes(e->dtype);
	struct mt_state_run run;
	void *rounded = malloc(bytes);
	enum mt_status st;

	if (!rounded)
		return mt_fail(MT_NOMEM, "no memory to load %s", p->name);
	round_to(e->dtype, f, values, rounded, count);
	MT_GOTO(out, mt_values_set(e, index, rounded));
	mt_state_find(e, index, &run);
	if (e->master && run.count > 0)
		MT_GOTO(out, mt_device_upload(e->device, e->compute, mt_state_at(e, index, &run, MT_STATE_WEIGHT),
					      (const char *)values + (size_t)run.first * mt_dtype_bytes(f),
					      (size_t)run.count * mt_dtype_bytes(f)));
	st = mt_stream_synchronize(e->compute); /* the copies may still be under way */
out:
	free(rounded);
	return st;
}

/* Moments of another rule mean something else: SGD's and Muon's are sums, AdamW's are means. */
static bool same_optimizer(const struct mt_engine *e, const struct mt_checkpoint *c)
{
	json_t *mine = mt_options_json(&mt_train_options_table, &e->config.run->train);
	const char *theirs = mt_json_get_string(json_object_get(c->manifest, "train"), "optimizer", "adamw");
	bool same = strcmp(theirs, mt_json_get_string(mine, "optimizer", "")) == 0;

	json_decref(mine);
	return same;
}

/* A moment that the checkpoint lacks, or that another optimizer wrote, begins at zero, as in a new run. */
static enum mt_status load_moment(struct mt_engine *e, struct mt_checkpoint *c, int index, enum mt_state state, bool same,
				  void *values)
{
	const struct mt_param *p = &e->table.params[index];
	enum mt_dtype f = mt_grad_dtype(e->dtype), stored = mt_state_dtype(e, state);
	struct mt_state_run run;
	struct mt_piece piece;
	void *to;

	mt_state_find(e, index, &run);
	to = mt_state_at(e, index, &run, state);
	if (!to || run.count == 0)
		return MT_OK;
	memset(values, 0, (size_t)run.count * mt_dtype_bytes(f));
	mt_state_piece(e, index, run.first, run.count, &piece);
	if (same && mt_checkpoint_has(c, p->name, state))
		MT_TRY(mt_checkpoint_read(c, p->name, state, &piece, f, values));
	if (stored != f) /* in place: the narrow ones lie before what is still to be read */
		round_to(stored, f, values, values, run.count);
	MT_TRY(mt_device_upload(e->device, e->compute, to, values, (size_t)run.count * mt_dtype_bytes(stored)));
	return mt_stream_synchronize(e->compute);
}

static enum mt_status load_param(struct mt_engine *e, struct mt_checkpoint *c, int index, bool same)
{
	const struct mt_param *p = &e->table.params[index];
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	int64_t count = p->rows * p->cols;
	void *values = calloc((size_t)count, mt_dtype_bytes(f));
	struct mt_piece piece;
	enum mt_status st;

	if (!values)
		return mt_fail(MT_NOMEM, "no memory to load %s", p->name);
	mt_state_piece(e, index, 0, count, &piece);
	MT_GOTO(out, mt_checkpoint_read(c, p->name, MT_STATE_WEIGHT, &piece, f, values));
	MT_GOTO(out, mt_state_set_weight(e, index, values));
	MT_GOTO(out, load_moment(e, c, index, MT_STATE_MOMENT1, same, values));
	st = load_moment(e, c, index, MT_STATE_MOMENT2, same, values);
out:
	free(values);
	return st;
}

/* What may differ: the name, what only initial weights depend on, what only training does, and the longest sequence where no table
 * has its length. */
static bool may_differ(const struct mt_model *model, const char *key)
{
	static const char *const of_training[] = {"bias_rate", "balance_loss", "z_loss", "capacity", "drop", "capacity_pad"};

	for (size_t i = 0; i < sizeof of_training / sizeof of_training[0]; i++) {
		if (strcmp(key, of_training[i]) == 0)
			return true;
	}
	/* a model may be used without its multi-token modules */
	if (strcmp(key, "mtp_weight") == 0 || (strcmp(key, "mtp") == 0 && model->mtp == 0))
		return true;
	return strcmp(key, "name") == 0 || strcmp(key, "init_std") == 0 ||
	       (strcmp(key, "seq") == 0 && model->position != MT_MODEL_LEARNED);
}

enum mt_status mt_checkpoint_check_model(const struct mt_model *model, const json_t *theirs, const char *where)
{
	json_t *mine = mt_options_json(&mt_model_options, model), *value;
	enum mt_status st = MT_OK;
	const char *key;

	json_object_foreach(mine, key, value)
	{
		json_t *other = json_object_get(theirs, key);
		char *here, *there;

		if (st != MT_OK || may_differ(model, key) || !other || json_equal(value, other))
			continue;
		here = json_dumps(value, JSON_ENCODE_ANY);
		there = json_dumps(other, JSON_ENCODE_ANY);
		st = mt_fail(MT_INPUT, "%s is of another model: its %s is %s, the run's is %s", where, key, there ? there : "?",
			     here ? here : "?");
		free(here);
		free(there);
	}
	json_decref(mine);
	return st;
}

enum mt_status mt_checkpoint_load(struct mt_engine *engine, const char *directory)
{
	struct mt_checkpoint c;
	enum mt_status st;
	bool same;

	MT_TRY(mt_checkpoint_open(&c, directory));
	same = same_optimizer(engine, &c);
	MT_GOTO(out, mt_checkpoint_check_model(engine->model, json_object_get(c.manifest, "model"), directory));
	for (int i = 0; i < engine->table.count; i++)
		MT_GOTO(out, load_param(engine, &c, i, same));
	engine->step = c.step;
	engine->samples = c.samples;
	engine->skipped = mt_json_get_int(c.manifest, "skipped_steps", 0);
	MT_GOTO(out, mt_fp8_load(engine, json_object_get(c.manifest, "fp8")));
	mt_loss_scale_load(&engine->loss_scale, json_object_get(c.manifest, "loss_scale"));
out:
	mt_checkpoint_close(&c);
	return st;
}
