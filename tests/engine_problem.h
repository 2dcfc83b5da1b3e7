/* Small models, runs and engines that the tests of the engine and of the tuner share. */
#ifndef TESTS_ENGINE_PROBLEM_H
#define TESTS_ENGINE_PROBLEM_H

#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TINY_VOCAB = 61, TINY_SEQ = 8 };

/* The name and shape of a model small enough for a finite difference of every parameter. */
struct tiny_model {
	const char *name;
	int norm, position, mlp;
	bool bias, tied;
	int64_t kv_heads, ffn;
	void (*more)(struct mt_model *model); /* what else it has, or NULL */
};

static const struct tiny_model TINY_GPT = {"tiny gpt", MT_MODEL_LAYERNORM, MT_MODEL_LEARNED, MT_MODEL_GELU, true, true, 4, 64,
					   NULL};
static const struct tiny_model TINY_LLAMA = {
	"tiny llama, grouped queries", MT_MODEL_RMSNORM, MT_MODEL_ROPE, MT_MODEL_SWIGLU, false, false, 2, 48, NULL};

/* Normalised heads, a window in the second layer, part of a head rotated by stretched frequencies. */
static inline void make_qwen(struct mt_model *m)
{
	m->qk_norm = true;
	m->head_dim = 6;
	m->rotary_dim = 4;
	m->window = 3;
	m->window_first = 1;
	m->rope_scaling = MT_ROPE_LLAMA3;
	m->rope_factor = 8;
	m->rope_original = 32;
}

/* Biases of queries, keys and values; a window in the first layer. */
static inline void make_biased(struct mt_model *m)
{
	m->qkv_bias = true;
	m->window = 4;
	m->window_every = 2;
	m->rope_scaling = MT_ROPE_LINEAR;
	m->rope_factor = 4;
}

/* Latent attention, two modules of multi-token prediction. */
static inline void make_deepseek(struct mt_model *m)
{
	m->q_rank = 12;
	m->kv_rank = 8;
	m->nope_dim = 6;
	m->rope_dim = 4;
	m->v_dim = 8;
	m->rope_interleaved = true;
	m->rope_scaling = MT_ROPE_YARN;
	m->rope_factor = 40;
	m->rope_original = 16;
	m->rope_mscale = 1;
	m->rope_mscale_all = 0.7;
	m->mtp = 2;
	m->mtp_weight = 0.3;
	m->init_std = 0.25; /* the magnitude bends more than the difference can follow */
}

/* Queries of full rank; one module, whose embedding is tied to the head. */
static inline void make_deepseek_lite(struct mt_model *m)
{
	make_deepseek(m);
	m->q_rank = 0;
	m->mtp = 1;
	m->tied = true;
}

static const struct tiny_model TINY_QWEN = {"tiny qwen", MT_MODEL_RMSNORM, MT_MODEL_ROPE, MT_MODEL_SWIGLU, false, true, 2,
					    48,          make_qwen};
static const struct tiny_model TINY_BIASED = {
	"tiny qwen, biases", MT_MODEL_RMSNORM, MT_MODEL_ROPE, MT_MODEL_SWIGLU, false, false, 2, 48, make_biased};
static const struct tiny_model TINY_DEEPSEEK = {
	"tiny deepseek", MT_MODEL_RMSNORM, MT_MODEL_ROPE, MT_MODEL_SWIGLU, false, false, 4, 48, make_deepseek};
static const struct tiny_model TINY_DEEPSEEK_LITE = {
	"tiny deepseek, full queries", MT_MODEL_RMSNORM, MT_MODEL_ROPE, MT_MODEL_SWIGLU, false, false, 4, 48, make_deepseek_lite};

/* Experts: Mixtral's shape. */
static inline void make_mixtral(struct mt_model *m)
{
	m->experts = 8;
	m->top_k = 2;
	m->expert_ffn = 24;
	m->balance_loss = 0.02;
	m->init_std = 0.2;
}

/* Many small experts. */
static inline void make_small_experts(struct mt_model *m)
{
	make_mixtral(m);
	m->experts = 16;
	m->top_k = 4;
	m->expert_ffn = 16;
	m->z_loss = 0.01;
}

/* DeepSeek-V3's router and shared expert, the first layer dense. */
static inline void make_sigmoid_experts(struct mt_model *m)
{
	make_small_experts(m);
	m->z_loss = 0;
	m->shared_ffn = 16;
	m->dense_first = 1;
	m->router = MT_MODEL_SIGMOID;
	m->router_scale = 2.5;
	m->router_sets = 4;
	m->set_top = 2;
	m->router_bias = true;
}

/* All of DeepSeek-V3: latent attention, its experts, and a module of multi-token prediction that has experts too. */
static inline void make_deepseek_full(struct mt_model *m)
{
	make_deepseek(m);
	make_sigmoid_experts(m);
	m->mtp = 1;
}

/* One shared expert behind a gate, in each second layer. */
static inline void make_gated_experts(struct mt_model *m)
{
	make_mixtral(m);
	m->shared_ffn = 32;
	m->shared_gate = true;
	m->expert_every = 2;
}

/* Capacities: by place in the sequence, by weight, and padded. */
static inline void make_capacity(struct mt_model *m)
{
	make_mixtral(m);
	m->capacity = 0.75;
}

static inline void make_lightest(struct mt_model *m)
{
	make_capacity(m);
	m->drop = MT_MODEL_DROP_LIGHTEST;
}

static inline void make_padded(struct mt_model *m)
{
	make_mixtral(m);
	m->capacity = 1;
	m->capacity_pad = true;
}

#define TINY_EXPERTS(name, make)                                                                                                   \
	{                                                                                                                          \
		name, MT_MODEL_RMSNORM, MT_MODEL_ROPE, MT_MODEL_SWIGLU, false, false, 4, 48, make                                  \
	}
static const struct tiny_model TINY_MIXTRAL = TINY_EXPERTS("tiny mixtral", make_mixtral);
static const struct tiny_model TINY_SMALL_EXPERTS = TINY_EXPERTS("tiny experts, many", make_small_experts);
static const struct tiny_model TINY_SIGMOID_EXPERTS = TINY_EXPERTS("tiny experts, sigmoid", make_sigmoid_experts);
static const struct tiny_model TINY_DEEPSEEK_FULL = TINY_EXPERTS("tiny deepseek, experts", make_deepseek_full);
static const struct tiny_model TINY_GATED_EXPERTS = TINY_EXPERTS("tiny experts, gated", make_gated_experts);
static const struct tiny_model TINY_CAPACITY = TINY_EXPERTS("tiny experts, capacity", make_capacity);
static const struct tiny_model TINY_LIGHTEST = TINY_EXPERTS("tiny experts, lightest", make_lightest);
static const struct tiny_model TINY_PADDED = TINY_EXPERTS("tiny experts, padded", make_padded);

/* 2 layers, hidden 16, 4 heads, vocab 61, seq 8; one rank, gbs 4. Initial weights are large enough that every part of the model
 * bends the loss. Free with mt_run_free. */
static inline void set_tiny_run(struct mt_run *run, const struct tiny_model *model)
{
	struct mt_model *m = &run->model;

	mt_run_default(run);
	m->name = strdup(model->name);
	m->layers = 2;
	m->hidden = 16;
	m->heads = 4;
	m->kv_heads = model->kv_heads;
	m->ffn = model->ffn;
	m->vocab = TINY_VOCAB;
	m->seq = TINY_SEQ;
	m->norm = model->norm;
	m->position = model->position;
	m->mlp = model->mlp;
	m->bias = model->bias;
	m->tied = model->tied;
	m->init_std = 0.4;
	if (model->more)
		model->more(m);
	if (mt_model_complete(m, "tiny model") != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		abort();
	}
	run->layout.gbs = 4;
	run->layout.mbs = 2;
	run->layout.seq = TINY_SEQ;
	run->layout.threads = 1;
}

/* One rank with all it stands on. The fabric may be given; else it is "self". */
struct engine_bench {
	struct mt_device *device;
	struct mt_dataset *dataset;
	struct mt_fabric *own;
	struct mt_engine *engine;
	double mtp_weight; /* of the model */
};

static inline void close_engine(struct engine_bench *b)
{
	mt_engine_destroy(b->engine);
	mt_dataset_close(b->dataset);
	mt_fabric_destroy(b->own);
	mt_device_destroy(b->device);
	memset(b, 0, sizeof *b);
}

static inline enum mt_status open_engine(struct engine_bench *b, const struct mt_run *run, const char *device,
					 struct mt_fabric *fabric)
{
	struct mt_device_config device_config = {.kind = device, .threads = 1};
	struct mt_fabric_config fabric_config = {.kind = "self"};
	struct mt_engine_config config = {.run = run};
	enum mt_status st;

	memset(b, 0, sizeof *b);
	b->mtp_weight = run->model.mtp_weight;
	MT_GOTO(fail, mt_device_create(&b->device, &device_config));
	if (!fabric)
		MT_GOTO(fail, mt_fabric_create(&b->own, &fabric_config));
	MT_GOTO(fail, mt_dataset_open(&b->dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	config.device = b->device;
	config.fabric = fabric ? fabric : b->own;
	config.dataset = b->dataset;
	MT_GOTO(fail, mt_engine_create(&b->engine, &config));
	return MT_OK;
fail:
	close_engine(b);
	return st;
}

#endif
