/* export_megatron: a run as arguments of Megatron-LM (core 0.20, August 2026). What has no argument becomes a note. */
#define _GNU_SOURCE
#include "tuner/export_words.h"
#include "tuner/placement.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void mt_export_free(struct mt_export *e)
{
	json_decref(e->arguments);
	json_decref(e->notes);
	memset(e, 0, sizeof *e);
}

void mt_export_flag(struct mt_export *e, const char *name)
{
	json_array_append_new(e->arguments, json_string(name));
}

void mt_export_text(struct mt_export *e, const char *name, const char *value)
{
	mt_export_flag(e, name);
	mt_export_flag(e, value);
}

void mt_export_integer(struct mt_export *e, const char *name, int64_t value)
{
	char buf[24];

	snprintf(buf, sizeof buf, "%lld", (long long)value);
	mt_export_text(e, name, buf);
}

void mt_export_real(struct mt_export *e, const char *name, double value)
{
	char buf[32];

	snprintf(buf, sizeof buf, "%.9g", value);
	mt_export_text(e, name, buf);
}

void mt_export_note(struct mt_export *e, const char *format, ...)
{
	char buf[300];
	va_list values;

	va_start(values, format);
	vsnprintf(buf, sizeof buf, format, values);
	va_end(values);
	json_array_append_new(e->notes, json_string(buf));
}

enum mt_megatron_split mt_megatron_split(const struct mt_run *r)
{
	int64_t parts = r->layout.pp * r->layout.vp, each = r->model.layers / parts, with_ends = (r->model.layers + 2) / parts;
	bool even = r->model.layers % parts == 0, ends = r->layout.pp > 1 && (r->model.layers + 2) % parts == 0;

	for (int64_t i = 0; i < parts; i++) {
		int64_t first, count;

		mt_layout_stage_layers(&r->model, &r->layout, (int)i, &first, &count);
		even = even && count == each;
		ends = ends && count == with_ends - (i == 0 || i == parts - 1);
	}
	return even ? MT_MEGATRON_EVEN : ends ? MT_MEGATRON_ENDS : MT_MEGATRON_ANY;
}

/* "Et*3|t*4||t*3L": what each virtual stage has, maybe nothing. */
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
		for (int64_t k = 0; i == parts - 1 && k < r->model.mtp; k++)
			fputc('m', file);
		fputs(i == parts - 1 ? "L" : "", file);
	}
	fclose(file);
	mt_export_text(e, "--pipeline-model-parallel-layout", string);
	free(string);
}

static void put_pipeline(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_layout *l = &r->layout;
	enum mt_megatron_split split = mt_megatron_split(r);

	mt_export_integer(e, "--pipeline-model-parallel-size", l->pp);
	if (split == MT_MEGATRON_ANY) {
		put_layout_string(e, r);
	} else {
		if (l->vp > 1)
			mt_export_integer(e, "--num-virtual-stages-per-pipeline-rank", l->vp);
		if (split == MT_MEGATRON_ENDS) {
			mt_export_flag(e, "--account-for-embedding-in-pipeline-split");
			mt_export_flag(e, "--account-for-loss-in-pipeline-split");
		}
	}
	if (l->vp > 1 && l->vp_group > 0)
		mt_export_integer(e, "--microbatch-group-size-per-virtual-pipeline-stage", l->vp_group);
	if (l->vp > 1 && l->pp == 2)
		mt_export_flag(e, "--overlap-p2p-communication-warmup-flush");
	if (l->schedule != MT_SCHEDULE_1F1B)
		mt_export_note(e, "schedule %s: Megatron-LM has no zero-bubble schedule; it runs 1F1B%s",
			       mt_layout_schedule_name(l), l->vp > 1 ? ", interleaved" : "");
}

static void put_context(struct mt_export *e, const struct mt_layout *l)
{
	static const char *const kinds[] = {[MT_CONTEXT_RING] = "p2p",
					    [MT_CONTEXT_ALL_GATHER] = "allgather",
					    [MT_CONTEXT_ULYSSES] = "a2a",
					    [MT_CONTEXT_HYBRID] = "a2a+p2p"};

	mt_export_integer(e, "--context-parallel-size", l->cp);
	if (l->cp == 1)
		return;
	mt_export_text(e, "--cp-comm-type", kinds[l->cp_kind]);
	if (l->cp_kind == MT_CONTEXT_HYBRID) {
		mt_export_integer(e, "--hierarchical-context-parallel-sizes", l->cp_inner);
		char outer[24];
		snprintf(outer, sizeof outer, "%lld", (long long)(l->cp / l->cp_inner));
		mt_export_flag(e, outer);
	}
}

static void put_recompute(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_layout *l = &r->layout;

	if (l->recompute == MT_RECOMPUTE_FULL) {
		mt_export_text(e, "--recompute-granularity", "full");
		mt_export_text(e, "--recompute-method", l->recompute_layers > 0 ? "block" : "uniform");
		mt_export_integer(e, "--recompute-num-layers", l->recompute_layers > 0 ? l->recompute_layers : 1);
	}
	if (l->recompute_stages > 0)
		mt_export_note(e, "recompute_stages: Megatron-LM recomputes on every stage");
	if (l->recompute != MT_RECOMPUTE_SELECTIVE)
		return;
	if (l->recompute_attention || l->recompute_norm) {
		mt_export_text(e, "--recompute-granularity", "selective");
		mt_export_flag(e, "--recompute-modules");
		if (l->recompute_attention)
			mt_export_flag(e, "core_attn");
		if (l->recompute_norm)
			mt_export_flag(e, "layernorm");
	}
	if (l->recompute_activation)
		mt_export_note(e,
			       "recompute_activation: Megatron-LM does the activation of a dense MLP again only with the whole MLP "
			       "(module mlp): left out");
	if (l->recompute_layers > 0)
		mt_export_note(e, "recompute_layers: selective recompute is of all layers in Megatron-LM");
}

static void put_data_parallel(struct mt_export *e, const struct mt_layout *l)
{
	static const char *const strategies[] = {NULL, NULL, "optim_grads", "optim_grads_params"};

	if (l->zero >= 2) {
		mt_export_flag(e, "--use-megatron-fsdp");
		mt_export_text(e, "--data-parallel-sharding-strategy", strategies[l->zero]);
		mt_export_text(e, "--ckpt-format", "fsdp_dtensor");
		mt_export_flag(e, "--no-gradient-accumulation-fusion");
	}
	if (l->zero >= 1)
		mt_export_flag(e, "--use-distributed-optimizer");
	if (l->zero == 1 && l->zero_group > 0 && l->zero_group < l->dp * l->cp)
		mt_export_integer(e, "--num-distributed-optimizer-instances", l->dp * l->cp / l->zero_group);
	if (l->zero >= 2 && l->zero_group > 0 && l->zero_group < l->dp * l->cp)
		mt_export_note(e,
			       "zero_group %lld: hybrid shards of Megatron-FSDP are set up by hand (--outer-dp-sharding-strategy)",
			       (long long)l->zero_group);
	if (l->offload_layers > 0)
		mt_export_note(e, "offload_layers %lld: --cpu-offloading-num-layers is for pp 1 without recompute only: left out",
			       (long long)l->offload_layers);
	if (l->dp * l->cp > 1)
		mt_export_flag(e, "--overlap-grad-reduce");
	if (l->zero >= 1 && l->dp * l->cp > 1)
		mt_export_flag(e, "--overlap-param-gather");
	if (l->bucket_bytes > 0 && l->dp * l->cp > 1 && l->zero < 2)
		mt_export_integer(e, "--ddp-bucket-size", l->bucket_bytes / 4);
	e->one_connection = (l->tp > 1 || l->cp > 1) && l->zero < 2;
	if (e->one_connection)
		mt_export_note(e, "CUDA_DEVICE_MAX_CONNECTIONS=1 is needed before Blackwell with tp or cp above 1");
}

static void put_rank_order(struct mt_export *e, const struct mt_run *r)
{
	const char *text = r->train.rank_order;
	int order = text ? mt_placement_named(text, &r->layout) : MT_RANKS_DP_PP;

	if (order == MT_RANKS_PP_DP)
		mt_export_flag(e, "--use-tp-pp-dp-mapping");
	else if (order < 0)
		mt_export_note(e, "rank_order %.100s: list the hosts for torchrun in that order", text);
}

static void put_loss_scale(struct mt_export *e, const struct mt_train_options *t)
{
	mt_export_flag(e, "--fp16");
	if (t->loss_scale > 0) {
		mt_export_real(e, "--loss-scale", t->loss_scale);
		return;
	}
	mt_export_real(e, "--initial-loss-scale", t->loss_scale_initial);
	mt_export_real(e, "--min-loss-scale", t->loss_scale_least);
	mt_export_integer(e, "--loss-scale-window", t->loss_scale_window);
	mt_export_integer(e, "--hysteresis", t->loss_scale_hysteresis);
	if (t->loss_scale_growth != 2 || t->loss_scale_backoff != 0.5)
		mt_export_note(e, "loss_scale_growth, loss_scale_backoff: Megatron-LM has 2 and 0.5");
}

static void put_layout(struct mt_export *e, const struct mt_run *r, const struct mt_export_beyond *beyond)
{
	const struct mt_layout *l = &r->layout;

	mt_export_integer(e, "--tensor-model-parallel-size", l->tp);
	if (l->sp)
		mt_export_flag(e, "--sequence-parallel");
	if (beyond->tp_overlap && l->sp) {
		mt_export_flag(e, "--tp-comm-overlap");
		mt_export_note(e, "--tp-comm-overlap needs Transformer Engine; its buffers are tuned by --tp-comm-overlap-cfg");
	} else if (beyond->tp_overlap) {
		mt_export_note(e, "tp_overlap of the plan: --tp-comm-overlap needs sequence parallelism: left out");
	}
	put_pipeline(e, r);
	put_context(e, l);
	if (l->ep > 1)
		mt_export_integer(e, "--expert-model-parallel-size", l->ep);
	put_data_parallel(e, l);
	put_rank_order(e, r);
	mt_export_integer(e, "--micro-batch-size", l->mbs);
	mt_export_integer(e, "--global-batch-size", l->gbs);
	put_recompute(e, r);
	if (l->dtype == MT_BF16)
		mt_export_flag(e, "--bf16");
	else if (l->dtype == MT_F16)
		put_loss_scale(e, &r->train);
	else
		mt_export_note(e, "f32: Megatron-LM's fused and flash attention want 16 bits; the unfused one is used");
	mt_export_put_fp8(e, r, beyond);
	mt_export_text(e, "--attention-backend", mt_dtype_is_half((enum mt_dtype)l->dtype) ? "auto" : "unfused");
	if (l->documents == MT_DOCUMENTS_APART) {
		mt_export_flag(e, "--reset-position-ids");
		mt_export_flag(e, "--reset-attention-mask");
		mt_export_flag(e, "--eod-mask-loss");
	}
	if (l->threads > 0)
		mt_export_note(e, "threads %lld: of our CPU device, without a meaning there", (long long)l->threads);
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

	mt_export_integer(e, "--train-iters", t->steps);
	mt_export_real(e, "--lr", t->lr);
	mt_export_real(e, "--min-lr", t->min_lr);
	mt_export_text(e, "--lr-decay-style", decays[t->decay]);
	if (t->decay == MT_DECAY_WSD) {
		mt_export_text(e, "--lr-wsd-decay-style", wsd[t->wsd_decay]);
		mt_export_integer(e, "--lr-wsd-decay-iters", t->wsd_steps);
	}
	mt_export_integer(e, "--lr-decay-iters", t->decay_steps > 0 ? t->decay_steps : t->steps);
	mt_export_integer(e, "--lr-warmup-iters", t->warmup_steps);
	mt_export_text(e, "--optimizer", optimizers[t->optimizer]);
	if (t->optimizer != MT_ADAMW)
		mt_export_note(e, "optimizer %s: its own numbers are Megatron-LM's defaults", optimizers[t->optimizer]);
	mt_export_real(e, "--adam-beta1", t->beta1);
	mt_export_real(e, "--adam-beta2", t->beta2);
	mt_export_real(e, "--adam-eps", t->eps);
	mt_export_real(e, "--weight-decay", t->weight_decay);
	if (t->weight_decay_end >= 0) {
		mt_export_real(e, "--start-weight-decay", t->weight_decay);
		mt_export_real(e, "--end-weight-decay", t->weight_decay_end);
		mt_export_text(e, "--weight-decay-incr-style", t->weight_decay_rise == MT_RISE_COSINE ? "cosine" : "linear");
	}
	mt_export_real(e, "--clip-grad", t->clip);
	if (t->spike_norm > 0)
		mt_export_real(e, "--grad-norm-skip-threshold", t->spike_norm);
	mt_export_integer(e, "--seed", t->seed);
	mt_export_integer(e, "--eval-interval", t->eval_every > 0 ? t->eval_every : t->steps + 1);
	mt_export_integer(e, "--eval-iters", t->eval_every > 0 ? t->eval_steps : 0);
	mt_export_integer(e, "--log-interval", 1);
	mt_export_flag(e, "--log-throughput");
	if (t->save_dir) {
		mt_export_text(e, "--save", t->save_dir);
		mt_export_integer(e, "--save-interval", t->save_every > 0 ? t->save_every : t->steps);
		mt_export_text(e, "--load", t->save_dir);
		mt_export_note(e, "--save, --load: checkpoints of Megatron-LM's own format, not ours");
	}
	if (t->seed > INT32_MAX)
		mt_export_note(e, "seed: Megatron-LM takes at most 32 bits");
}

/* A Megatron PREFIX, or a blend of them, is read there as it is; text is not. */
static void put_data(struct mt_export *e, const struct mt_run *r)
{
	const char *path = r->data.path;
	char *index = NULL;
	bool there = path && asprintf(&index, "%s.idx", path) > 0;
	FILE *file = there ? fopen(index, "rb") : NULL;

	mt_export_text(e, "--tokenizer-type", "NullTokenizer");
	mt_export_integer(e, "--vocab-size", r->model.vocab - 1); /* it adds a word for the end of a document */
	mt_export_integer(e, "--make-vocab-size-divisible-by", 128);
	if (file) {
		fclose(file);
		mt_export_text(e, "--data-path", path);
	} else {
		mt_export_flag(e, "--mock-data");
		if (path)
			mt_export_note(e, "data %.150s is no PREFIX.bin/.idx: mock data instead", path);
	}
	free(index);
	mt_export_text(e, "--split", r->data.split ? r->data.split : "1,0,0");
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

enum mt_status mt_export_megatron(struct mt_export *e, const struct mt_run *run, const struct mt_export_beyond *beyond)
{
	memset(e, 0, sizeof *e);
	MT_TRY(check(run));
	e->arguments = json_array();
	e->notes = json_array();
	put_layout(e, run, beyond);
	mt_export_put_model(e, run);
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

void mt_export_comment(FILE *file, const char *text, size_t most)
{
	for (const char *c = text; *c && (size_t)(c - text) < most; c++)
		fputc(iscntrl((unsigned char)*c) ? ' ' : *c, file);
}

void mt_export_write(const struct mt_export *e, FILE *file)
{
	const json_t *one;
	size_t i;

	json_array_foreach(e->notes, i, one)
	{
		fputs("# note: ", file);
		mt_export_comment(file, json_string_value(one), SIZE_MAX);
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
