/* A checkpoint is loaded at any layout: losses go on as if nothing had happened.
 * ranks: 8
 *
 * A run of tp2 pp2 dp2 with layers 1,3 saves after SAVED steps and goes on. From there the same layout must go on with the same
 * bits, and tp1 pp4 dp2, tp2 dp4 with ZeRO-1, dp8 with ZeRO-1 and ZeRO-3, tp2 pp2 dp2 with ZeRO-2 and one rank to a relative 1e-5
 * of its losses; and dp8 with ZeRO-1 or ZeRO-3, saved by a run of its own, goes on at tp4 pp2. f32, bf16 and fp8 with its scales, a
 * GPT with a tied embedding, a LLaMA, and experts spread in as many ways; with AdamW, Muon and SGD in turn. */
#include "base/file.h"
#include "engine/checkpoint.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 10, SAVED = 5, LAYERS = 4 };

struct counts {
	int passed, failed;
};

struct place {
	int tp, pp, dp, zero;
	bool sp;
	int cp;
	int ep, etp;              /* of a model with experts */
	const char *stage_layers; /* of LAYERS; "": even */
};

static const struct place first = {2, 2, 2, 0, true, 1, 2, 1, "1,3"},
			  sharded[] = {{1, 1, 8, 1, false, 1, 8, 0, ""}, {1, 1, 8, 3, false, 1, 4, 0, ""}};

/* A type, and whether products are in fp8 by a history. */
struct precision {
	enum mt_dtype dtype;
	bool fp8;
};

static void set_run(struct mt_run *run, const char *model, struct precision precision, const struct place *p)
{
	mt_run_default(run);
	if (mt_model_load(&run->model, model) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		exit(4);
	}
	run->layout.gbs = 8;
	run->layout.seq = 16;
	run->layout.mbs = 1;
	run->layout.dtype = (int)precision.dtype;
	if (precision.fp8) { /* multiples of 16 in every layout */
		run->layout.fp8 = MT_FP8_DELAYED;
		run->layout.fp8_history = 3;
		run->layout.seq = 64;
		run->model.expert_ffn = 128;
	}
	run->layout.threads = 1;
	run->layout.bucket_bytes = 64 << 10;
	run->layout.tp = p->tp;
	run->layout.pp = p->pp;
	run->layout.dp = p->dp;
	run->layout.cp = p->cp;
	run->layout.zero = p->zero;
	run->layout.sp = p->sp;
	run->layout.ep = run->model.experts > 0 ? p->ep : 1;
	run->layout.etp = run->model.experts > 0 ? p->etp : 0;
	run->model.layers = LAYERS;
	strcpy(run->layout.stage_layers, p->stage_layers);
	run->train.optimizer = precision.dtype == MT_BF16 ? MT_SGD : strcmp(model, "llama-tiny") == 0 ? MT_MUON : MT_ADAMW;
	run->train.steps = STEPS;
	run->train.lr = 3e-3;
}

static enum mt_status save(struct mt_engine *engine, const struct mt_run *run, struct mt_fabric *fabric, const char *directory)
{
	struct mt_saver_config config = {.engine = engine, .run = run, .directory = directory};
	struct mt_saver *saver = NULL;
	int ranks[8];
	enum mt_status st;

	for (int i = 0; i < 8; i++)
		ranks[i] = i;
	MT_GOTO(out, mt_group_create(fabric, "save", ranks, mt_fabric_size(fabric), &config.world));
	MT_GOTO(out, mt_saver_create(&saver, &config));
	MT_GOTO(out, mt_saver_start(saver, NULL));
	st = mt_saver_finish(saver);
out:
	mt_saver_destroy(saver);
	mt_group_destroy(config.world);
	return st;
}

/* Losses of the steps up to STEPS; from: a checkpoint or NULL; to: where to save after SAVED steps, or NULL. */
static enum mt_status train(const struct mt_run *run, struct mt_fabric *fabric, const char *from, const char *to, double *losses)
{
	struct mt_device_config device_config = {.kind = "cpu", .threads = 1};
	struct mt_engine_config config = {.run = run};
	struct mt_fabric *sub = NULL;
	enum mt_status st;

	MT_GOTO(out, mt_fabric_block(&sub, fabric, (int)mt_layout_world(&run->layout)));
	MT_GOTO(out, mt_device_create(&config.device, &device_config));
	MT_GOTO(out, mt_dataset_open(&config.dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	config.fabric = sub;
	struct mt_engine *engine = NULL;
	MT_GOTO(out, mt_engine_create(&engine, &config));
	st = from ? mt_checkpoint_load(engine, from) : MT_OK;
	while (st == MT_OK && mt_engine_steps_done(engine) < STEPS) {
		struct mt_step_stats stats;

		if (to && mt_engine_steps_done(engine) == SAVED)
			st = save(engine, run, sub, to);
		if (st == MT_OK)
			st = mt_engine_step(engine, &stats);
		if (st == MT_OK)
			losses[stats.step] = stats.loss;
	}
	mt_engine_destroy(engine);
out:
	mt_dataset_close(config.dataset);
	mt_device_destroy(config.device);
	mt_fabric_destroy(sub);
	return st;
}

static void tell(struct counts *c, bool leader, bool ok, const char *what, const char *why)
{
	c->passed += ok;
	c->failed += !ok;
	if (leader && !ok)
		printf("FAILED %s: %s\n", what, why);
	fflush(stdout);
}

static void go_on(struct counts *c, struct mt_fabric *fabric, const char *model, struct precision precision, const struct place *p,
		  const char *from, const double *expected, bool same_bits)
{
	double losses[STEPS] = {0}, bound = same_bits ? 0 : precision.dtype == MT_BF16 ? 2e-2 : 1e-5;
	bool leader = mt_fabric_rank(fabric) == 0;
	char what[96], why[600] = "";
	struct mt_run run;
	enum mt_status st;

	set_run(&run, model, precision, p);
	st = train(&run, fabric, from, NULL, losses);
	snprintf(what, sizeof what, "%s %s%s tp%d pp%d dp%d cp%d zero%d", model, mt_dtype_name(precision.dtype),
		 precision.fp8 ? " fp8" : "", p->tp, p->pp, p->dp, p->cp, p->zero);
	if (st != MT_OK)
		snprintf(why, sizeof why, "%s", mt_error_message());
	mt_error_clear();
	for (int i = SAVED; i < STEPS && !*why; i++) {
		if (!(fabs(losses[i] - expected[i]) <= bound * expected[i]))
			snprintf(why, sizeof why, "step %d: loss %.17g, uninterrupted %.17g", i, losses[i], expected[i]);
	}
	tell(c, leader, !*why, what, why);
	mt_run_free(&run);
}

static void remove_all(const char *directory)
{
	int64_t *steps = NULL;
	int count = 0;

	if (mt_checkpoint_list(directory, &steps, &count) == MT_OK)
		for (int i = 0; i < count; i++)
			mt_checkpoint_remove(directory, steps[i]);
	free(steps);
	rmdir(directory);
}

static void run_case(struct counts *c, struct mt_fabric *fabric, const char *root, const char *model, struct precision precision,
		     const struct place *shards)
{
	static const struct place others[] = {
		{1, 4, 2, 0, false, 1, 2, 0, "0,1,2,1"}, {2, 1, 4, 1, true, 1, 4, 2, ""},  {1, 1, 8, 1, false, 1, 4, 0, ""},
		{1, 1, 1, 0, false, 1, 1, 0, ""},        {4, 1, 2, 0, false, 1, 2, 0, ""}, {4, 1, 1, 0, false, 2, 2, 0, ""},
		{1, 1, 2, 1, false, 4, 8, 0, ""},        {2, 1, 1, 1, true, 4, 4, 1, ""},  {1, 1, 8, 3, false, 1, 4, 0, ""},
		{2, 2, 2, 2, true, 1, 2, 1, ""},         {1, 1, 4, 3, false, 2, 2, 0, ""},
	};
	double expected[STEPS] = {0}, shard_losses[STEPS] = {0};
	char *one = mt_string("%s/%s-%s%s", root, model, mt_dtype_name(precision.dtype), precision.fp8 ? "-fp8" : ""),
	     *two = mt_string("%s-zero", one);
	char *from = mt_checkpoint_path(one, SAVED), *from_two = mt_checkpoint_path(two, SAVED);
	static const struct place last = {4, 2, 1, 0, false, 1, 1, 0, "3,1"};
	struct mt_run run;
	enum mt_status st;

	set_run(&run, model, precision, &first);
	st = train(&run, fabric, NULL, one, expected);
	mt_run_free(&run);
	set_run(&run, model, precision, shards);
	if (st == MT_OK)
		st = train(&run, fabric, NULL, two, shard_losses);
	mt_run_free(&run);
	tell(c, mt_fabric_rank(fabric) == 0, st == MT_OK, "saving runs", mt_error_message());
	mt_error_clear();
	if (st == MT_OK) {
		go_on(c, fabric, model, precision, &first, from, expected, true);
		for (size_t i = 0; i < sizeof others / sizeof others[0]; i += precision.fp8 ? 3 : 1) /* ep 1, 2 and 8 */
			go_on(c, fabric, model, precision, &others[i], from, expected, false);
		go_on(c, fabric, model, precision, shards, from_two, shard_losses, true);
		go_on(c, fabric, model, precision, &last, from_two, shard_losses, false);
	}
	if (mt_fabric_rank(fabric) == 0) {
		remove_all(one);
		remove_all(two);
	}
	free(from_two);
	free(from);
	free(two);
	free(one);
}

int main(void)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	const char *temporary = getenv("TMPDIR");
	struct counts counts = {0};
	struct mt_fabric *fabric;
	char *root;

	if (mt_fabric_create(&fabric, &config) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	root = mt_string("%s/mt-checkpoint", temporary ? temporary : "/tmp");
	run_case(&counts, fabric, root, "gpt-tiny", (struct precision){MT_F32, false}, &sharded[0]);
	run_case(&counts, fabric, root, "llama-tiny", (struct precision){MT_F32, false}, &sharded[1]);
	run_case(&counts, fabric, root, "gpt-tiny", (struct precision){MT_BF16, false}, &sharded[1]);
	run_case(&counts, fabric, root, "mixtral-tiny", (struct precision){MT_F32, false}, &sharded[1]);
	run_case(&counts, fabric, root, "mixtral-tiny", (struct precision){MT_BF16, true}, &sharded[1]);
	if (mt_fabric_rank(fabric) == 0) {
		rmdir(root);
		printf("%d passed, %d failed, 0 skipped\n", counts.passed, counts.failed);
	}
	free(root);
	mt_fabric_destroy(fabric);
	return counts.failed > 0;
}
