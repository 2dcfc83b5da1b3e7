/* export_megatron: a run as arguments of Megatron-LM (core 0.20, August 2026). What has no argument becomes a note. */
#define _GNU_SOURCE
#include "tuner/export.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void mt_export_free(struct mt_export *e)
{
	json_decref(e->arguments);
	json_decref(e->notes);
	memset(e, 0, sizeof *e);
}

static void flag(struct mt_export *e, const char *name)
{
	json_array_append_new(e->arguments, json_string(name));
}

static void text(struct mt_export *e, const char *name, const char *value)
{
	flag(e, name);
	flag(e, value);
}

static void integer(struct mt_export *e, const char *name, int64_t value)
{
	char buf[24];

	snprintf(buf, sizeof buf, "%lld", (long long)value);
	text(e, name, buf);
}

static void real(struct mt_export *e, const char *name, double value)
{
	char buf[32];

	snprintf(buf, sizeof buf, "%.9g", value);
	text(e, name, buf);
}

static void note(struct mt_export *e, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void note(struct mt_export *e, const char *format, ...)
{
	char buf[300];
	va_list values;

	va_start(values, format);
	vsnprintf(buf, sizeof buf, format, values);
	va_end(values);
	json_array_append_new(e->notes, json_string(buf));
}

static void put_experts(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_model *m = &r->model;

	if (m->experts == 0)
		return;
	integer(e, "--num-experts", m->experts);
	integer(e, "--moe-router-topk", m->top_k);
	integer(e, "--moe-ffn-hidden-size", m->expert_ffn);
	if (m->shared_ffn > 0)
		integer(e, "--moe-shared-expert-intermediate-size", m->shared_ffn);
	if (r->layout.etp > 0)
		integer(e, "--expert-tensor-parallel-size", r->layout.etp);
	flag(e, "--moe-grouped-gemm");
	text(e, "--moe-token-dispatcher-type", "alltoall");
	if (mt_model_expert_layers(m) != m->layers)
		note(e, "%lld of %lld layers have experts: give --moe-layer-freq by hand", (long long)mt_model_expert_layers(m),
		     (long long)m->layers);
	note(e, "router: scores, losses, capacity and groups are Megatron-LM's defaults, not the model's");
}

static void put_model(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_model *m = &r->model;

	integer(e, "--num-layers", m->layers);
	integer(e, "--hidden-size", m->hidden);
	integer(e, "--ffn-hidden-size", m->ffn);
	integer(e, "--num-attention-heads", m->heads);
	if (m->kv_heads != m->heads) {
		flag(e, "--group-query-attention");
		integer(e, "--num-query-groups", m->kv_heads);
	}
	integer(e, "--kv-channels", m->head_dim);
	integer(e, "--seq-length", r->layout.seq);
	integer(e, "--max-position-embeddings", m->seq > r->layout.seq ? m->seq : r->layout.seq);
	text(e, "--normalization", m->norm == MT_MODEL_RMSNORM ? "RMSNorm" : "LayerNorm");
	real(e, "--norm-epsilon", m->norm_eps);
	text(e, "--position-embedding-type", m->position == MT_MODEL_ROPE ? "rope" : "learned_absolute");
	if (m->position == MT_MODEL_ROPE)
		integer(e, "--rotary-base", (int64_t)m->rope_theta);
	if (m->mlp == MT_MODEL_SWIGLU)
		flag(e, "--swiglu");
	if (!m->bias)
		flag(e, "--disable-bias-linear");
	if (!m->tied)
		flag(e, "--untie-embeddings-and-output-weights");
	put_experts(e, r);
	if (m->qk_norm)
		flag(e, "--qk-layernorm");
	if (m->window > 0)
		note(e, "window %lld: give --window-size and --window-attn-skip-freq by hand", (long long)m->window);
	if (m->rope_scaling != 0 || m->rotary_dim > 0)
		note(e, "the model scales RoPE or turns part of a head: give --use-rope-scaling or --rotary-percent by hand");
	real(e, "--init-method-std", m->init_std);
	real(e, "--attention-dropout", 0);
	real(e, "--hidden-dropout", 0);
	if (m->position == MT_MODEL_ROPE && m->rope_theta != (double)(int64_t)m->rope_theta)
		note(e, "rotary base %g is cut to a whole number", m->rope_theta);
}

enum mt_megatron_split mt_megatron_split(const struct mt_run *r)
{
	int64_t parts = r->layout.pp * r->layout.vp, first = r->layout.first_layers, last = r->layout.last_layers;

	if (first == 0 && last == 0 && r->model.layers % parts == 0)
		return MT_MEGATRON_EVEN;
	if (first == 0 && last == 0 && r->layout.pp > 1 && (r->model.layers + 2) % parts == 0)
		return MT_MEGATRON_ENDS;
	return MT_MEGATRON_ANY;
}

/* "Et*3|t*4|t*4|t*3L": what each virtual stage has. */
static void put_layout_string(struct mt_export *e, const struct mt_run *r)
{
	int64_t parts = r->layout.pp * r->layout.vp;
	char *string = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&string, &bytes);

	if (!file)
		return;
	for (int64_t i = 0; i < parts; i++) {
		int64_t first, count;

		mt_layout_stage_layers(&r->model, &r->layout, (int)i, &first, &count);
		fprintf(file, "%s%s", i ? "|" : "", i == 0 ? "E" : "");
		if (count > 0)
			fprintf(file, "t*%lld", (long long)count);
		fputs(i == parts - 1 ? "L" : "", file);
	}
	fclose(file);
	text(e, "--pipeline-model-parallel-layout", string);
	free(string);
}

static void put_pipeline(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_layout *l = &r->layout;
	enum mt_megatron_split split = mt_megatron_split(r);

	integer(e, "--pipeline-model-parallel-size", l->pp);
	if (split == MT_MEGATRON_ANY) {
		put_layout_string(e, r);
	} else {
		if (l->vp > 1)
			integer(e, "--num-virtual-stages-per-pipeline-rank", l->vp);
		if (split == MT_MEGATRON_ENDS) {
			flag(e, "--account-for-embedding-in-pipeline-split");
			flag(e, "--account-for-loss-in-pipeline-split");
			note(e, "embedding and head count as a layer each, as the forecast has it; `megatune train` spreads the "
				"layers otherwise");
		}
	}
	if (l->vp > 1 && l->vp_group > 0)
		integer(e, "--microbatch-group-size-per-virtual-pipeline-stage", l->vp_group);
	if (l->vp > 1 && l->pp == 2)
		flag(e, "--overlap-p2p-communication-warmup-flush");
	if (l->schedule != MT_SCHEDULE_1F1B)
		note(e, "schedule %s: Megatron-LM has no zero-bubble schedule; it runs 1F1B%s", mt_layout_schedule_name(l),
		     l->vp > 1 ? ", interleaved" : "");
}

static void put_context(struct mt_export *e, const struct mt_layout *l)
{
	static const char *const kinds[] = {[MT_CONTEXT_RING] = "p2p",
					    [MT_CONTEXT_ALL_GATHER] = "allgather",
					    [MT_CONTEXT_ULYSSES] = "a2a",
					    [MT_CONTEXT_HYBRID] = "a2a+p2p"};

	integer(e, "--context-parallel-size", l->cp);
	if (l->cp == 1)
		return;
	text(e, "--cp-comm-type", kinds[l->cp_kind]);
	if (l->cp_kind == MT_CONTEXT_HYBRID) {
		integer(e, "--hierarchical-context-parallel-sizes", l->cp_inner);
		char outer[24];
		snprintf(outer, sizeof outer, "%lld", (long long)(l->cp / l->cp_inner));
		flag(e, outer);
	}
}

static void put_recompute(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_layout *l = &r->layout;

	if (l->recompute == MT_RECOMPUTE_FULL) {
		text(e, "--recompute-granularity", "full");
		text(e, "--recompute-method", l->recompute_layers > 0 ? "block" : "uniform");
		integer(e, "--recompute-num-layers", l->recompute_layers > 0 ? l->recompute_layers : 1);
	}
	if (l->recompute != MT_RECOMPUTE_SELECTIVE)
		return;
	if (l->recompute_attention || l->recompute_norm) {
		text(e, "--recompute-granularity", "selective");
		flag(e, "--recompute-modules");
		if (l->recompute_attention)
			flag(e, "core_attn");
		if (l->recompute_norm)
			flag(e, "layernorm");
	}
	if (l->recompute_activation)
		note(e, "recompute_activation: Megatron-LM does the activation of a dense MLP again only with the whole MLP "
			"(module mlp): left out");
	if (l->recompute_layers > 0)
		note(e, "recompute_layers: selective recompute is of all layers in Megatron-LM");
}

static void put_data_parallel(struct mt_export *e, const struct mt_layout *l)
{
	static const char *const strategies[] = {NULL, NULL, "optim_grads", "optim_grads_params"};

	if (l->zero >= 2) {
		flag(e, "--use-megatron-fsdp");
		text(e, "--data-parallel-sharding-strategy", strategies[l->zero]);
		text(e, "--ckpt-format", "fsdp_dtensor");
		flag(e, "--no-gradient-accumulation-fusion");
	}
	if (l->zero >= 1)
		flag(e, "--use-distributed-optimizer");
	if (l->zero == 1 && l->zero_group > 0 && l->zero_group < l->dp * l->cp)
		integer(e, "--num-distributed-optimizer-instances", l->dp * l->cp / l->zero_group);
	if (l->zero >= 2 && l->zero_group > 0 && l->zero_group < l->dp * l->cp)
		note(e, "zero_group %lld: hybrid shards of Megatron-FSDP are set up by hand (--outer-dp-sharding-strategy)",
		     (long long)l->zero_group);
	if (l->offload_layers > 0)
		note(e, "offload_layers %lld: --cpu-offloading-num-layers is for pp 1 without recompute only: left out",
		     (long long)l->offload_layers);
	if (l->dp * l->cp > 1)
		flag(e, "--overlap-grad-reduce");
	if (l->zero >= 1 && l->dp * l->cp > 1)
		flag(e, "--overlap-param-gather");
	if (l->bucket_bytes > 0 && l->dp * l->cp > 1 && l->zero < 2)
		integer(e, "--ddp-bucket-size", l->bucket_bytes / 4);
	e->one_connection = (l->tp > 1 || l->cp > 1) && l->zero < 2;
	if (e->one_connection)
		note(e, "CUDA_DEVICE_MAX_CONNECTIONS=1 is needed before Blackwell with tp or cp above 1");
}

static void put_layout(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_layout *l = &r->layout;

	integer(e, "--tensor-model-parallel-size", l->tp);
	if (l->sp)
		flag(e, "--sequence-parallel");
	put_pipeline(e, r);
	put_context(e, l);
	if (l->ep > 1)
		integer(e, "--expert-model-parallel-size", l->ep);
	put_data_parallel(e, l);
	integer(e, "--micro-batch-size", l->mbs);
	integer(e, "--global-batch-size", l->gbs);
	put_recompute(e, r);
	if (l->dtype == MT_BF16)
		flag(e, "--bf16");
	else
		note(e, "f32: Megatron-LM's fused and flash attention want 16 bits; the unfused one is used");
	text(e, "--attention-backend", l->dtype == MT_BF16 ? "auto" : "unfused");
	if (l->documents == MT_DOCUMENTS_APART) {
		flag(e, "--reset-position-ids");
		flag(e, "--reset-attention-mask");
		flag(e, "--eod-mask-loss");
	}
	if (l->threads > 0)
		note(e, "threads %lld: of our CPU device, without a meaning there", (long long)l->threads);
}

static void put_training(struct mt_export *e, const struct mt_run *r)
{
	static const char *const optimizers[] = {[MT_ADAMW] = "adam", [MT_SGD] = "sgd", [MT_MUON] = "muon"};
	static const char *const wsd[] = {[MT_WSD_EXPONENTIAL] = "exponential",
					  [MT_WSD_LINEAR] = "linear",
					  [MT_WSD_COSINE] = "cosine",
					  [MT_WSD_MINUS_SQRT] = "minus_sqrt"};
	static const char *const decays[] = {[MT_DECAY_COSINE] = "cosine",
					     [MT_DECAY_CONSTANT] = "constant",
					     [MT_DECAY_LINEAR] = "linear",
					     [MT_DECAY_WSD] = "WSD",
					     [MT_DECAY_INVERSE_SQUARE_ROOT] = "inverse-square-root"};
	const struct mt_train_options *t = &r->train;

	integer(e, "--train-iters", t->steps);
	real(e, "--lr", t->lr);
	real(e, "--min-lr", t->min_lr);
	text(e, "--lr-decay-style", decays[t->decay]);
	if (t->decay == MT_DECAY_WSD) {
		text(e, "--lr-wsd-decay-style", wsd[t->wsd_decay]);
		integer(e, "--lr-wsd-decay-iters", t->wsd_steps);
	}
	integer(e, "--lr-decay-iters", t->decay_steps > 0 ? t->decay_steps : t->steps);
	integer(e, "--lr-warmup-iters", t->warmup_steps);
	text(e, "--optimizer", optimizers[t->optimizer]);
	if (t->optimizer != MT_ADAMW)
		note(e, "optimizer %s: its own numbers are Megatron-LM's defaults", optimizers[t->optimizer]);
	real(e, "--adam-beta1", t->beta1);
	real(e, "--adam-beta2", t->beta2);
	real(e, "--adam-eps", t->eps);
	real(e, "--weight-decay", t->weight_decay);
	real(e, "--clip-grad", t->clip);
	integer(e, "--seed", t->seed);
	integer(e, "--eval-interval", t->eval_every > 0 ? t->eval_every : t->steps + 1);
	integer(e, "--eval-iters", t->eval_every > 0 ? t->eval_steps : 0);
	integer(e, "--log-interval", 1);
	flag(e, "--log-throughput");
	if (t->save_dir) {
		text(e, "--save", t->save_dir);
		integer(e, "--save-interval", t->save_every > 0 ? t->save_every : t->steps);
		text(e, "--load", t->save_dir);
		note(e, "--save, --load: checkpoints of Megatron-LM's own format, not ours");
	}
	if (t->rank_order)
		note(e, "rank_order %.100s: list the hosts for torchrun in that order", t->rank_order);
	if (t->seed > INT32_MAX)
		note(e, "seed: Megatron-LM takes at most 32 bits");
}

/* A Megatron PREFIX, or a blend of them, is read there as it is; text is not. */
static void put_data(struct mt_export *e, const struct mt_run *r)
{
	const char *path = r->data.path;
	char *index = NULL;
	bool there = path && asprintf(&index, "%s.idx", path) > 0;
	FILE *file = there ? fopen(index, "rb") : NULL;

	text(e, "--tokenizer-type", "NullTokenizer");
	integer(e, "--vocab-size", r->model.vocab - 1); /* it adds a word for the end of a document */
	integer(e, "--make-vocab-size-divisible-by", 128);
	if (file) {
		fclose(file);
		text(e, "--data-path", path);
	} else {
		flag(e, "--mock-data");
		if (path)
			note(e, "data %.150s is no PREFIX.bin/.idx: mock data instead", path);
	}
	free(index);
	text(e, "--split", r->data.split ? r->data.split : "1,0,0");
}

static enum mt_status check(const struct mt_run *run)
{
	char *list = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&list, &bytes);
	enum mt_status st = MT_OK;

	if (!file)
		return mt_fail(MT_NOMEM, "out of memory");
	for (int i = 0; i < mt_megatron_rule_count; i++) {
		if (mt_megatron_rules[i].broken(run))
			fprintf(file, "%s%s", ftell(file) > 0 ? "; " : "", mt_megatron_rules[i].text);
	}
	fclose(file);
	if (bytes > 0)
		st = mt_fail(MT_INPUT, "Megatron-LM would not start this run: %s", list);
	free(list);
	return st;
}

enum mt_status mt_export_megatron(struct mt_export *e, const struct mt_run *run)
{
	memset(e, 0, sizeof *e);
	if (mt_model_is_latent(&run->model) || run->model.mtp > 0)
		return mt_fail(MT_INPUT, "%s: latent attention and multi-token prediction are not exported", run->model.name);
	MT_TRY(check(run));
	e->arguments = json_array();
	e->notes = json_array();
	put_layout(e, run);
	put_model(e, run);
	put_training(e, run);
	put_data(e, run);
	return MT_OK;
}

/* A word for bash. */
static void put_word(const char *word, FILE *file)
{
	if (*word && word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/+:=@-")] == '\0') {
		fputs(word, file);
		return;
	}
	fputc('\'', file);
	for (const char *c = word; *c; c++)
		fputs(*c == '\'' ? "'\\''" : (char[]){*c, '\0'}, file);
	fputc('\'', file);
}

void mt_export_write(const struct mt_export *e, FILE *file)
{
	const json_t *one;
	size_t i;

	json_array_foreach(e->notes, i, one)
	{
		fputs("# note: ", file);
		for (const char *c = json_string_value(one); *c; c++) /* never out of the comment */
			fputc(*c == '\n' || *c == '\r' ? ' ' : *c, file);
		fputc('\n', file);
	}
	if (e->one_connection)
		fputs("export CUDA_DEVICE_MAX_CONNECTIONS=1\n", file);
	fputs("ARGS=(", file);
	json_array_foreach(e->arguments, i, one)
	{
		const char *word = json_string_value(one);

		fputs(strncmp(word, "--", 2) == 0 ? "\n\t" : " ", file);
		put_word(word, file);
	}
	fputs("\n)\n", file);
}
