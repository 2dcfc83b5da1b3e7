/* param: builds the table of engine/param.h. */
#include "engine/param.h"

#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct builder {
	struct mt_param_table *table;
	const struct mt_model *model;
	const struct mt_layout *layout;
	struct mt_coordinates at;
	int capacity;
	char prefix[32]; /* "layer.N." of the layer at work; empty: none yet */
	int64_t prefix_layer;
};

static int virtual_stage(const struct builder *b, int chunk)
{
	return mt_schedule_virtual((enum mt_schedule)b->layout->schedule, (int)b->layout->pp, b->at.pp, chunk);
}

enum shard { WHOLE = -1, BY_ROWS = 0, BY_COLS = 1 };

/* Adds one parameter; returns its index. Space, of zeros, was reserved by the caller. */
static int add(struct builder *b, const char *name, int64_t rows, int64_t cols, enum shard shard, enum mt_init init, int unit)
{
	struct mt_param *p = &b->table->params[b->table->count];
	int64_t tp = b->layout->tp;

	memcpy(p->name, name, strnlen(name, sizeof p->name - 1)); /* models have tens of thousands of them */
	p->rows = p->global_rows = p->real_rows = rows;
	p->cols = p->global_cols = cols;
	p->shard_axis = shard;
	p->init = init;
	p->decay = rows > 1;
	p->unit = unit;
	p->replicated = shard == WHOLE;
	if (shard == BY_ROWS) {
		p->rows = rows / tp;
		p->first = p->rows * b->at.tp;
	} else if (shard == BY_COLS) {
		p->cols = cols / tp;
		p->first = p->cols * b->at.tp;
	}
	return b->table->count++;
}

static int add_layer_param(struct builder *b, int64_t layer, const char *what, int64_t rows, int64_t cols, enum shard shard,
			   enum mt_init init, int unit)
{
	char name[MT_PARAM_NAME];
	size_t head, tail;

	if (!b->prefix[0] || b->prefix_layer != layer) {
		snprintf(b->prefix, sizeof b->prefix, "layer.%lld.", (long long)layer);
		b->prefix_layer = layer;
	}
	head = strlen(b->prefix);
	tail = strnlen(what, sizeof name - 1 - head);
	memcpy(name, b->prefix, head);
	memcpy(name + head, what, tail);
	name[head + tail] = '\0';
	return add(b, name, rows, cols, shard, init, unit);
}

/* The model's layer that is this stage's `index`-th. */
static int64_t global_layer(const struct builder *b, int64_t index)
{
	int64_t first, count;
	int chunk = 0;

	while (index >= b->table->chunks[chunk].first_layer + b->table->chunks[chunk].layers)
		chunk++;
	mt_layout_stage_layers(b->model, b->layout, virtual_stage(b, chunk), &first, &count);
	return first + index - b->table->chunks[chunk].first_layer;
}

/* What experts_param.c and attention_param.c add through. */
struct layer_builder {
	struct builder *builder;
	int64_t layer;
	int unit;
};

static int add_to_layer(void *context, const char *what, int64_t rows, int64_t cols, int shard, enum mt_init init)
{
	struct layer_builder *l = context;

	return add_layer_param(l->builder, l->layer, what, rows, cols, (enum shard)shard, init, l->unit);
}

static struct mt_param *param_of_layer(void *context, int index)
{
	return &((struct layer_builder *)context)->builder->table->params[index];
}

static void add_experts(struct builder *b, int *roles, int64_t layer, int unit)
{
	struct layer_builder context = {b, layer, unit};

	mt_param_add_experts(&(struct mt_expert_builder){.model = b->model,
							 .layout = b->layout,
							 .at = b->at,
							 .roles = roles,
							 .add = add_to_layer,
							 .param = param_of_layer,
							 .context = &context});
}

static void add_attention(struct builder *b, int *roles, int64_t layer, int unit)
{
	struct layer_builder context = {b, layer, unit};

	mt_param_add_attention(&(struct mt_attention_builder){
		.model = b->model, .roles = roles, .add = add_to_layer, .param = param_of_layer, .context = &context});
}

static void add_mlp(struct builder *b, int *at, int64_t layer, int unit)
{
	const struct mt_model *m = b->model;
	int64_t C = m->hidden, F = m->ffn;

	at[MT_MLP_DOWN] = add_layer_param(b, layer, "mlp.down.weight", C, F, BY_COLS, MT_INIT_RESIDUAL, unit);
	if (m->mlp == MT_MODEL_SWIGLU)
		at[MT_MLP_GATE] = add_layer_param(b, layer, "mlp.gate.weight", F, C, BY_ROWS, MT_INIT_NORMAL, unit);
	at[MT_MLP_UP] = add_layer_param(b, layer, "mlp.up.weight", F, C, BY_ROWS, MT_INIT_NORMAL, unit);
	if (m->bias && m->mlp == MT_MODEL_GELU)
		at[MT_MLP_UP_BIAS] = add_layer_param(b, layer, "mlp.up.bias", F, 1, BY_ROWS, MT_INIT_ZERO, unit);
}

/* The parameters of one layer, products in the order their gradients are finished. */
static void add_layer(struct builder *b, int64_t index, int unit)
{
	const struct mt_model *m = b->model;
	struct mt_param_table *t = b->table;
	int *at = t->layers[index];
	int64_t layer = t->model_layers[index], C = m->hidden;
	bool layernorm = m->norm == MT_MODEL_LAYERNORM;

	for (int role = 0; role < MT_LAYER_ROLES; role++)
		at[role] = -1;
	if (mt_model_layer_has_experts(m, layer))
		add_experts(b, at, layer, unit);
	else
		add_mlp(b, at, layer, unit);
	add_attention(b, at, layer, unit);
	if (m->bias) {
		at[MT_MLP_DOWN_BIAS] = add_layer_param(b, layer, "mlp.down.bias", 1, C, WHOLE, MT_INIT_ZERO, unit);
		at[MT_ATTN_OUT_BIAS] = add_layer_param(b, layer, "attention.out.bias", 1, C, WHOLE, MT_INIT_ZERO, unit);
	}
	at[MT_MLP_NORM_GAIN] = add_layer_param(b, layer, "mlp.norm.gain", 1, C, WHOLE, MT_INIT_ONE, unit);
	at[MT_ATTN_NORM_GAIN] = add_layer_param(b, layer, "attention.norm.gain", 1, C, WHOLE, MT_INIT_ONE, unit);
	if (layernorm) {
		at[MT_MLP_NORM_BIAS] = add_layer_param(b, layer, "mlp.norm.bias", 1, C, WHOLE, MT_INIT_ZERO, unit);
		at[MT_ATTN_NORM_BIAS] = add_layer_param(b, layer, "attention.norm.bias", 1, C, WHOLE, MT_INIT_ZERO, unit);
	}
}

/* A matrix of words: rows are the vocabulary, padded, split over tp. */
static int add_words(struct builder *b, const char *name, int unit)
{
	int index = add(b, name, mt_layout_padded_vocab(b->model, b->layout), b->model->hidden, BY_ROWS, MT_INIT_NORMAL, unit);

	b->table->params[index].real_rows = b->model->vocab;
	return index;
}

/* The head's stage has the word embedding too. */
static bool shares_words(const struct mt_model *m)
{
	return m->tied || m->mtp > 0;
}

/* A multi-token module: its layer, and what is before and after it. All is complete with the head. */
static void add_module(struct builder *b, int64_t k)
{
	struct mt_param_table *t = b->table;
	int64_t row = t->layer_count + k, layer = t->model_layers[row], C = b->model->hidden;
	struct mt_mtp_params *p = &t->mtp[k];

	add_layer(b, row, 0);
	p->join = add_layer_param(b, layer, "mtp.join.weight", C, 2 * C, WHOLE, MT_INIT_NORMAL, 0);
	p->norm = add_layer_param(b, layer, "mtp.norm.gain", 1, C, WHOLE, MT_INIT_ONE, 0);
	p->hidden_norm = add_layer_param(b, layer, "mtp.hidden_norm.gain", 1, C, WHOLE, MT_INIT_ONE, 0);
	p->embed_norm = add_layer_param(b, layer, "mtp.embed_norm.gain", 1, C, WHOLE, MT_INIT_ONE, 0);
}

static void add_all(struct builder *b)
{
	struct mt_param_table *t = b->table;
	const struct mt_model *m = b->model;
	bool first = b->at.pp == 0, last = b->at.pp == mt_layout_head_stage(b->layout);
	int embedding_unit = t->units - 1;

	t->word = t->position = t->final_gain = t->final_bias = t->head = -1;
	if (last) {
		if (!m->tied)
			t->head = add_words(b, "head.weight", 0);
		t->final_gain = add(b, "final.norm.gain", 1, m->hidden, WHOLE, MT_INIT_ONE, 0);
		if (m->norm == MT_MODEL_LAYERNORM)
			t->final_bias = add(b, "final.norm.bias", 1, m->hidden, WHOLE, MT_INIT_ZERO, 0);
	}
	t->module_count = last ? m->mtp : 0;
	for (int64_t k = t->module_count - 1; k >= 0; k--)
		add_module(b, k);
	for (int64_t layer = t->layer_count - 1; layer >= 0; layer--)
		add_layer(b, layer, 1 + (int)(t->layer_count - 1 - layer));
	if (first || (last && shares_words(m)))
		t->word = add_words(b, "embedding.word", first ? embedding_unit : 0);
	if (last && m->tied)
		t->head = t->word;
	if (last && shares_words(m))
		t->params[t->word].copy = !first;
	if (first && m->position == MT_MODEL_LEARNED) {
		t->position = add(b, "embedding.position", m->seq, m->hidden, WHOLE, MT_INIT_NORMAL, embedding_unit);
	}
	/* Column-parallel biases are vectors stored as (rows, 1): they take no decay. */
	for (int i = 0; i < t->count; i++) {
		if (t->params[i].global_cols == 1)
			t->params[i].decay = false;
	}
}

/* 0 sharded, 1 word embedding on two stages, 2 replicated, 3 of experts, 4 replicated and partial: the order of the classes in the
 * flat buffer. */
static int class_of(const struct builder *b, int index)
{
	const struct mt_param_table *t = b->table;

	if (t->params[index].partial)
		return 4;
	if (t->params[index].expert)
		return 3;
	if (t->params[index].replicated)
		return 2;
	return shares_words(b->model) && index == t->word ? 1 : 0;
}

static int64_t round_up(int64_t value, int64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

static void close_bucket(struct builder *b, struct mt_bucket *bucket, int64_t end)
{
	struct mt_param_table *t = b->table;

	if (end == bucket->offset)
		return;
	bucket->count = round_up(end - bucket->offset,
				 (bucket->share == MT_SHARE_EXPERTS ? mt_layout_edp(b->layout) : mt_layout_replicas(b->layout)) *
					 MT_PARAM_ALIGN);
	t->elements = bucket->offset + bucket->count;
	t->buckets[t->bucket_count++] = *bucket;
}

/* Fused matrices must not be cut by a bucket's end: only a parameter that starts a product may start a bucket. */
static bool may_start_bucket(const struct mt_param *p)
{
	return !p->follows && !strstr(p->name, "mlp.up.weight");
}

static int chunk_of_unit(const struct mt_param_table *t, int unit)
{
	int64_t layer = t->layer_count - unit;
	int chunk = 0;

	if (unit == 0 || unit == t->units - 1)
		return -1 - unit; /* head, embedding: alone */
	while (layer >= t->chunks[chunk].first_layer + t->chunks[chunk].layers)
		chunk++;
	return chunk;
}

/* Elements of a unit's parameters that are split over tp. */
static int64_t unit_size(const struct builder *b, int first)
{
	const struct mt_param_table *t = b->table;
	int64_t end = 0;

	for (int i = first; i < t->count && t->params[i].unit == t->params[first].unit; i++) {
		if (class_of(b, i) == class_of(b, first))
			end = round_up(end, may_start_bucket(&t->params[i]) ? MT_PARAM_ALIGN : 1) +
			      t->params[i].rows * t->params[i].cols;
	}
	return end;
}

/* Whether a bucket of `used` elements ends before a parameter. Where buckets come and go as a whole they hold whole units. */
static bool ends_bucket(const struct builder *b, const struct mt_bucket *bucket, int64_t used, int index, int64_t most)
{
	const struct mt_param *p = &b->table->params[index];

	if (used == 0)
		return false;
	if (b->layout->zero < 2 || bucket->replicated)
		return used + p->rows * p->cols > most;
	if (p->unit == bucket->unit)
		return false;
	return chunk_of_unit(b->table, p->unit) != chunk_of_unit(b->table, bucket->unit) || used + unit_size(b, index) > most;
}

/* Gives every parameter its offset and cuts the buffer into buckets. Offsets inside a fused matrix follow without gaps;
 * everything else starts at a multiple of MT_PARAM_ALIGN. */
static void place(struct builder *b)
{
	struct mt_param_table *t = b->table;
	int64_t most = b->layout->bucket_bytes > 0 ? b->layout->bucket_bytes / 4 : INT64_MAX;

	for (int class = 0; class < 5; class ++) {
		struct mt_bucket bucket = {.offset = t->elements,
					   .replicated = class == 2 || class == 4,
					   .tied = class == 1,
					   .partial = class == 4,
					   .share = class == 3 ? MT_SHARE_EXPERTS : MT_SHARE_DENSE};
		int64_t end = t->elements;

		for (int i = 0; i < t->count; i++) {
			struct mt_param *p = &t->params[i];
			int64_t size = p->rows * p->cols;

			if (class_of(b, i) != class)
				continue;
			if (may_start_bucket(p)) {
				end = round_up(end, MT_PARAM_ALIGN);
				if (ends_bucket(b, &bucket, end - bucket.offset, i, most)) {
					close_bucket(b, &bucket, end);
					bucket.offset = end = t->elements;
					bucket.unit = 0;
				}
			}
			if (end == bucket.offset)
				bucket.first_unit = p->unit;
			p->offset = end;
			p->bucket = t->bucket_count; /* that it gets when it is closed */
			end += size;
			if (p->unit > bucket.unit)
				bucket.unit = p->unit;
		}
		if (class == 2 || class == 4) /* its sum over tp comes first */
			bucket.unit = t->units - 1;
		if (class == 1 && b->at.pp == mt_layout_head_stage(b->layout)) /* head or multi-token modules use it first */
			bucket.first_unit = 0;
		close_bucket(b, &bucket, end);
	}
}

static enum mt_status cut_chunks(struct builder *b)
{
	struct mt_param_table *t = b->table;

	t->chunk_count = (int)b->layout->vp;
	t->chunks = calloc((size_t)t->chunk_count, sizeof *t->chunks);
	if (!t->chunks)
		return mt_fail(MT_NOMEM, "no memory for %d model chunks", t->chunk_count);
	for (int c = 0; c < t->chunk_count; c++) {
		int v = virtual_stage(b, c);
		int64_t first;

		t->chunks[c].first_layer = t->layer_count;
		t->chunks[c].first = v == 0;
		t->chunks[c].last = v == b->layout->pp * b->layout->vp - 1;
		mt_layout_stage_layers(b->model, b->layout, v, &first, &t->chunks[c].layers);
		t->layer_count += t->chunks[c].layers;
	}
	return MT_OK;
}

enum mt_status mt_param_table_create(struct mt_param_table *table, const struct mt_model *model, const struct mt_layout *layout,
				     struct mt_coordinates at)
{
	struct builder b = {.table = table, .model = model, .layout = layout, .at = at};
	int64_t rows;

	memset(table, 0, sizeof *table);
	MT_TRY(cut_chunks(&b));
	rows = table->layer_count + model->mtp;
	b.capacity = (int)rows * (MT_LAYER_ROLES + 4 + mt_param_expert_count(model, layout)) + 8;
	table->units = (int)table->layer_count + 2;
	table->params = calloc((size_t)b.capacity, sizeof *table->params);
	table->buckets = calloc((size_t)b.capacity, sizeof *table->buckets);
	table->layers = calloc((size_t)rows + 1, sizeof *table->layers);
	table->model_layers = calloc((size_t)rows + 1, sizeof *table->model_layers);
	table->mtp = calloc((size_t)model->mtp + 1, sizeof *table->mtp);
	if (!table->params || !table->buckets || !table->layers || !table->model_layers || !table->mtp) {
		mt_param_table_free(table);
		return mt_fail(MT_NOMEM, "no memory for the parameter table of %lld layers", (long long)table->layer_count);
	}
	for (int64_t i = 0; i < rows; i++)
		table->model_layers[i] = i < table->layer_count ? global_layer(&b, i) : model->layers + i - table->layer_count;
	add_all(&b);
	place(&b);
	return MT_OK;
}

void mt_param_table_free(struct mt_param_table *table)
{
	free(table->params);
	free(table->buckets);
	free(table->layers);
	free(table->model_layers);
	free(table->mtp);
	free(table->chunks);
	memset(table, 0, sizeof *table);
}

/* FNV-1a: the stream of random numbers of a name. */
static uint64_t name_stream(const char *name)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
	return hash;
}

static void initial_run(const struct mt_param *p, double std, uint64_t seed, int64_t row, int64_t col, int64_t count, float *values)
{
	uint64_t global = (uint64_t)(row * p->global_cols + col);

	if (row >= p->real_rows) { /* padding words */
		memset(values, 0, (size_t)count * sizeof *values);
		return;
	}
	mt_random_normals(seed, name_stream(p->name), global, (size_t)count, values);
	for (int64_t i = 0; i < count; i++)
		values[i] *= (float)std;
}

void mt_param_initial(const struct mt_param *param, const struct mt_model *model, uint64_t seed, int64_t first, int64_t count,
		      float *values)
{
	double std = model->init_std;

	if (param->init ==
	    MT_INIT_RESIDUAL) /* Radford et al. 2019: residual layers scaled by 1/sqrt(number of residual additions) */
		std /= sqrt(2.0 * (double)model->layers);
	if (param->init == MT_INIT_ONE || param->init == MT_INIT_ZERO) {
		for (int64_t i = 0; i < count; i++)
			values[i] = param->init == MT_INIT_ONE ? 1.0f : 0.0f;
		return;
	}
	while (count > 0) {
		int64_t row = first / param->cols, col = first % param->cols;
		int64_t run = param->cols - col < count ? param->cols - col : count;
		int64_t global_row = row + (param->shard_axis == 0 ? param->first : 0);
		int64_t global_col = col + (param->shard_axis == 1 ? param->first : 0);

		initial_run(param, std, seed, global_row, global_col, run, values);
		first += run;
		count -= run;
		values += run;
	}
}
