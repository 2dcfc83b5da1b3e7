/* trainer: see trainer.h. */
#include "engine/trainer.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/process.h"
#include "engine/keeper.h"
#include "engine/stragglers.h"
#include "engine/trace.h"
#include "kernels/rate.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Why a run stops before its last step; the largest of all ranks counts. */
enum stop { STOP_NOT, STOP_DEADLINE, STOP_USR1, STOP_TERM, STOP_INT };

/* Seconds of a timed step and of its phases; the pace last, FLOP/s. */
enum { STEP, COMPUTE, TP, DP, PP, OPTIMIZER, PACE, SAMPLES };

struct trainer {
	const struct mt_trainer_config *config;
	const struct mt_run *run;
	struct mt_train_summary *summary;
	struct mt_dataset *dataset, *validation; /* validation: NULL when none is evaluated */
	struct mt_engine *engine;
	struct mt_keeper keeper;
	struct mt_group *world;
	struct mt_trace *trace;
	FILE *log;                /* rank 0 */
	double *samples[SAMPLES]; /* owned: of the timed steps */
	double pace_flops;        /* the last one measured */
	double model_flops, tokens, start_s;
	bool leader;
};

/* The product rate with every rank at work: each measures at the same time, the slowest counts. */
static enum mt_status find_peak(struct trainer *t)
{
	enum mt_dtype dtype = (enum mt_dtype)t->run->layout.dtype;
	double rate = t->run->train.peak_tflops * 1e12, negative;

	if (rate <= 0) {
		MT_TRY(mt_comm_barrier(t->world));
		/* A GPU is not filled by less, and a processor takes seconds for more. */
		int64_t size = t->config->device->ops->async ? 8192 : 1024;

		MT_TRY(mt_device_product_rate(t->config->device, dtype, size, 0.1, &rate, NULL));
	}
	negative = -rate;
	MT_TRY(mt_comm_host_all_reduce(t->world, &negative, 1, MT_MAX));
	t->summary->peak_tflops = -negative / 1e12;
	return MT_OK;
}

static enum mt_status measure_pace(struct trainer *t)
{
	/* Small, since a GPU's memory may be full; some 20 ms. */
	int64_t size = t->config->device->ops->async ? 2048 : 1024;
	double rate, negative;

	MT_TRY(mt_comm_barrier(t->world));
	MT_TRY(mt_device_product_rate(t->config->device, (enum mt_dtype)t->run->layout.dtype, size, 0.02, &rate, NULL));
	negative = -rate;
	MT_TRY(mt_comm_host_all_reduce(t->world, &negative, 1, MT_MAX));
	t->pace_flops = -negative;
	return MT_OK;
}

static void log_line(struct trainer *t, json_t *line)
{
	if (t->log) {
		json_dumpf(line, t->log, JSON_COMPACT | JSON_REAL_PRECISION(9));
		fputc('\n', t->log);
		fflush(t->log);
	}
	json_decref(line);
}

/* A run that goes on adds to its log; a line that a killed run left unfinished is ended first. */
static enum mt_status open_log(struct trainer *t)
{
	const char *path = t->run->train.log;
	json_t *line;

	t->log = fopen(path, t->keeper.origin ? "a+" : "w");
	if (!t->log)
		return mt_fail(MT_IO, "%s: cannot write the log: check the directory and its permissions", path);
	if (!t->keeper.origin)
		return MT_OK;
	if (fseek(t->log, -1, SEEK_END) == 0 && fgetc(t->log) != '\n') {
		fseek(t->log, 0, SEEK_END);
		fputc('\n', t->log);
	}
	fseek(t->log, 0, SEEK_END);
	line = json_pack("{s:s, s:I, s:s}", "event", "resume", "step", (json_int_t)t->summary->first_step, "from",
			 t->keeper.origin);
	log_line(t, line);
	return MT_OK;
}

static enum mt_status open_all(struct trainer *t)
{
	const struct mt_run *run = t->run;
	struct mt_engine_config engine = {.run = run, .device = t->config->device, .fabric = t->config->fabric};
	enum mt_status st = MT_OK;

	MT_GOTO(out, mt_group_create_all(t->config->fabric, "trainer", &t->world));
	MT_GOTO(out, mt_dataset_open(&t->dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	if (run->train.eval_every > 0)
		MT_GOTO(out, mt_dataset_open_part(&t->validation, &run->data, MT_DATA_VALID, run->model.vocab, run->layout.seq,
						  (uint64_t)run->train.seed));
	MT_GOTO(out, find_peak(t));
	engine.dataset = t->dataset;
	MT_GOTO(out, mt_engine_create(&t->engine, &engine));
	MT_GOTO(out, mt_keeper_open(&t->keeper, run, t->engine, t->world));
	t->summary->first_step = mt_engine_steps_done(t->engine);
	if (t->leader && run->train.log)
		st = open_log(t);
	if (t->config->pace && st == MT_OK)
		st = measure_pace(t);
	for (int i = 0; i < SAMPLES && st == MT_OK; i++) {
		t->samples[i] = calloc((size_t)run->train.steps + 1, sizeof(double));
		if (!t->samples[i])
			st = mt_fail(MT_NOMEM, "no memory for %lld step times", (long long)run->train.steps);
	}
out:
	return st;
}

/* Nothing where no list was met: graphs are not used. */
static void set_graphs(json_t *line, const struct mt_graph_stats *s)
{
	json_t *o;

	if (s->missed == 0)
		return;
	o = json_pack("{s:I, s:I, s:I, s:I, s:I}", "launched", (json_int_t)s->launched, "operations", (json_int_t)s->operations,
		      "captured", (json_int_t)s->captured, "missed", (json_int_t)s->missed, "refused", (json_int_t)s->refused);
	if (s->refused > 0)
		json_object_set_new(o, "refused_for", json_string(s->reason));
	json_object_set_new(line, "graphs", o);
}

static void log_step(struct trainer *t, const struct mt_step_report *r)
{
	json_t *line = json_object();

	json_object_set_new(line, "event", json_string("step"));
	json_object_set_new(line, "step", json_integer(r->stats.step));
	json_object_set_new(line, "loss", mt_json_number(r->stats.loss));
	if (r->stats.mtp_loss != 0)
		json_object_set_new(line, "mtp_loss", mt_json_number(r->stats.mtp_loss));
	json_object_set_new(line, "grad_norm", mt_json_number(r->stats.grad_norm));
	json_object_set_new(line, "lr", mt_json_number(r->stats.lr));
	json_object_set_new(line, "step_time_s", mt_json_number(r->stats.seconds));
	json_object_set_new(line, "tokens_per_s", mt_json_number(r->tokens_per_s));
	json_object_set_new(line, "tflops_per_device", mt_json_number(r->tflops_per_device));
	json_object_set_new(line, "mfu_frac", mt_json_number(r->mfu_frac));
	json_object_set_new(line, "memory_bytes", json_integer((json_int_t)r->memory_bytes));
	if (t->run->layout.offload_layers > 0)
		json_object_set_new(line, "host_bytes", json_integer((json_int_t)mt_engine_host_bytes(t->engine)));
	json_object_set_new(line, "compute_s", mt_json_number(r->stats.compute_s));
	json_object_set_new(line, "tp_s", mt_json_number(r->stats.tp_s));
	if (r->stats.cp_s > 0)
		json_object_set_new(line, "cp_s", mt_json_number(r->stats.cp_s));
	json_object_set_new(line, "dp_s", mt_json_number(r->stats.dp_s));
	json_object_set_new(line, "pp_s", mt_json_number(r->stats.pp_s));
	json_object_set_new(line, "optimizer_s", mt_json_number(r->stats.optimizer_s));
	json_object_set_new(line, "data_s", mt_json_number(r->stats.data_s));
	json_object_set_new(line, "skipped", json_boolean(r->stats.skipped));
	if (r->stats.skipped)
		json_object_set_new(line, "skipped_for", json_string(mt_skipped_name(r->stats.skipped)));
	if (r->stats.loss_scale > 0)
		json_object_set_new(line, "loss_scale", mt_json_number(r->stats.loss_scale));
	t->summary->graphs = mt_engine_graph_stats(t->engine);
	set_graphs(line, &t->summary->graphs);
	log_line(t, line);
}

static enum stop asked_to_stop(const struct trainer *t)
{
	double deadline_s = t->run->train.deadline_s;
	int number = mt_process_signal();

	if (number)
		return number == SIGINT ? STOP_INT : number == SIGUSR1 ? STOP_USR1 : STOP_TERM;
	return deadline_s > 0 && mt_clock_s() - t->start_s > deadline_s ? STOP_DEADLINE : STOP_NOT;
}

/* The slowest rank's time, whether any rank was asked to stop, and how far the ranks are with a save: agreed on by all. */
static enum mt_status agree(struct trainer *t, double *seconds, enum stop *stop, double votes[MT_KEEPER_VOTES])
{
	double values[2 + MT_KEEPER_VOTES] = {*seconds, asked_to_stop(t)};

	mt_keeper_vote(&t->keeper, values + 2);
	MT_TRY(mt_comm_host_all_reduce(t->world, values, 2 + MT_KEEPER_VOTES, MT_MAX));
	*seconds = values[0];
	*stop = (enum stop)values[1];
	memcpy(votes, values + 2, MT_KEEPER_VOTES * sizeof *votes);
	return MT_OK;
}

static void keep_samples(struct trainer *t, const struct mt_step_stats *stats, double pace_flops)
{
	const double values[SAMPLES] = {stats->seconds, stats->compute_s,   stats->tp_s, stats->dp_s,
					stats->pp_s,    stats->optimizer_s, pace_flops};

	/* A run that went back does steps again: more than were foreseen are not kept. */
	if (t->summary->steps < t->config->warmup || t->summary->timed_steps >= t->run->train.steps)
		return;
	for (int i = 0; i < SAMPLES; i++)
		t->samples[i][t->summary->timed_steps] = values[i];
	t->summary->timed_steps++;
}

static enum mt_status run_step(struct trainer *t, enum stop *stop)
{
	struct mt_step_report report = {0};
	int devices = mt_fabric_size(t->config->fabric);
	bool traced = t->run->train.trace && mt_engine_steps_done(t->engine) == t->run->train.steps - 1;
	double votes[MT_KEEPER_VOTES], pace_flops = t->pace_flops;
	bool rewound;

	if (traced)
		MT_TRY(mt_trace_start(&t->trace, t->config->device));
	mt_keeper_prepare(&t->keeper);
	MT_TRY(mt_engine_step(t->engine, &report.stats));
	if (traced)
		mt_trace_stop(t->trace);
	MT_TRY(agree(t, &report.stats.seconds, stop, votes));
	double share = (double)report.stats.samples / (double)t->run->layout.gbs; /* of a full batch */
	report.tokens_per_s = share * t->tokens / report.stats.seconds;
	report.tflops_per_device = share * t->model_flops / report.stats.seconds / devices / 1e12;
	report.mfu_frac = report.tflops_per_device / t->summary->peak_tflops;
	report.memory_bytes = mt_engine_peak_bytes(t->engine);
	if (t->config->pace)
		MT_TRY(measure_pace(t));
	keep_samples(t, &report.stats, fmin(pace_flops, t->pace_flops));
	if (t->summary->steps++ == 0)
		t->summary->first_loss = report.stats.loss;
	t->summary->last_loss = report.stats.loss;
	log_step(t, &report);
	if (t->config->report)
		t->config->report(t->config->context, &report);
	MT_TRY(mt_keeper_step(&t->keeper, votes, &report.stats, &rewound));
	if (rewound)
		log_line(t, json_pack("{s:s, s:I}", "event", "rewind", "step", (json_int_t)mt_engine_steps_done(t->engine)));
	return MT_OK;
}

/* The loss of the validation part, when one is due. */
static enum mt_status evaluate(struct trainer *t)
{
	int64_t every = t->run->train.eval_every, steps = mt_engine_steps_done(t->engine);
	double start_s = mt_clock_s();
	json_t *line;

	if (!t->validation || steps % every != 0)
		return MT_OK;
	MT_TRY(mt_engine_evaluate(t->engine, t->validation, t->run->train.eval_steps, &t->summary->eval_loss));
	line = json_object();
	json_object_set_new(line, "event", json_string("eval"));
	json_object_set_new(line, "steps", json_integer(steps));
	json_object_set_new(line, "loss", mt_json_number(t->summary->eval_loss));
	json_object_set_new(line, "seconds", mt_json_number(mt_clock_s() - start_s));
	log_line(t, line);
	if (t->config->evaluated)
		t->config->evaluated(t->config->context, steps, t->summary->eval_loss);
	return MT_OK;
}

/* Peaks of every rank, reduced to the largest by stage. */
static enum mt_status gather_memory(struct trainer *t)
{
	enum { PEAK = MT_ENGINE_ARENAS, RESIDENT, SCRATCH, PINNED, FIELDS };
	int size = mt_fabric_size(t->config->fabric);
	uint64_t mine[FIELDS], *all = malloc((size_t)size * sizeof mine);
	struct mt_arena_stats arenas[MT_ENGINE_ARENAS];
	enum mt_status st;

	t->summary->stages = (int)t->run->layout.pp;
	t->summary->stage = calloc((size_t)t->summary->stages, sizeof *t->summary->stage);
	if (!all || !t->summary->stage) {
		free(all);
		return mt_fail(MT_NOMEM, "no memory for the memory report of %d ranks", size);
	}
	mt_engine_memory(t->engine, arenas);
	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		mine[i] = arenas[i].peak_bytes;
	mine[PEAK] = mt_engine_peak_bytes(t->engine);
	mine[RESIDENT] = mt_process_peak_bytes();
	mine[SCRATCH] = t->config->device->scratch_bytes;
	mine[PINNED] = t->config->device->pinned_bytes;
	MT_GOTO(out, mt_comm_host_all_gather(t->world, mine, all, sizeof mine));
	for (int rank = 0; rank < size; rank++) {
		struct mt_stage_memory *stage = &t->summary->stage[mt_layout_coordinates(&t->run->layout, rank).pp];
		const uint64_t *v = all + (size_t)rank * FIELDS;

		size_t *const kept[FIELDS] = {
			[PEAK] = &stage->peak_bytes,
			[RESIDENT] = &stage->resident_bytes,
			[SCRATCH] = &stage->scratch_bytes,
			[PINNED] = &stage->pinned_bytes,
		};

		for (int i = 0; i < FIELDS; i++) {
			size_t *most = i < MT_ENGINE_ARENAS ? &stage->arena_bytes[i] : kept[i];

			*most = v[i] > *most ? v[i] : *most;
		}
	}
out:
	free(all);
	return st;
}

static enum mt_status summarize(struct trainer *t)
{
	struct mt_train_summary *s = t->summary;
	size_t n = (size_t)s->timed_steps;
	double *const medians[PACE] = {&s->median_step_s, &s->compute_s, &s->tp_s, &s->dp_s, &s->pp_s, &s->optimizer_s};
	json_t *line;

	for (int i = 0; i < PACE && n > 0; i++)
		*medians[i] = mt_stats_median(t->samples[i], n);
	if (n > 0) {
		s->step_s = mt_stats_bootstrap(t->samples[STEP], n, 0.9, 2000, 1);
		s->tokens_per_s = t->tokens / s->median_step_s;
		s->tflops_per_device = t->model_flops / s->median_step_s / mt_fabric_size(t->config->fabric) / 1e12;
		s->mfu_frac = s->tflops_per_device / s->peak_tflops;
	}
	s->step_times_s = t->samples[STEP];
	t->samples[STEP] = NULL;
	if (t->config->pace) {
		s->step_paces_flops = t->samples[PACE];
		t->samples[PACE] = NULL;
	}
	const double phases[MT_PHASES] = {s->compute_s, s->tp_s, s->dp_s, s->pp_s, s->optimizer_s};
	MT_TRY(gather_memory(t));
	MT_TRY(mt_stragglers_find(&s->ranks, t->world, t->config->fabric, &t->run->layout, phases));
	line = mt_train_summary_json(s);
	json_object_set_new(line, "event", json_string("summary"));
	log_line(t, line);
	if (t->run->train.trace && t->trace)
		MT_TRY(mt_trace_write(t->trace, t->world, t->run->train.trace));
	return MT_OK;
}

enum mt_status mt_train(struct mt_train_summary *summary, const struct mt_trainer_config *config)
{
	const struct mt_layout *l = &config->run->layout;
	struct trainer t = {
		.config = config, .run = config->run, .summary = summary, .leader = mt_fabric_rank(config->fabric) == 0};
	static const char *const reasons[] = {"done", "deadline", "SIGUSR1", "SIGTERM", "SIGINT"};
	enum stop stop = STOP_NOT;
	enum mt_status st;

	memset(summary, 0, sizeof *summary);
	summary->eval_loss = NAN;
	t.start_s = mt_clock_s();
	t.tokens = (double)(l->gbs * l->seq);
	t.model_flops = mt_model_step_flops(&config->run->model, t.tokens, l->seq, false);
	MT_GOTO(out, open_all(&t));
	while (mt_engine_steps_done(t.engine) < config->run->train.steps && stop == STOP_NOT) {
		MT_GOTO(out, run_step(&t, &stop));
		MT_GOTO(out, evaluate(&t));
	}
	summary->last_step = mt_engine_steps_done(t.engine);
	summary->interrupted = stop != STOP_NOT && summary->last_step < config->run->train.steps;
	summary->reason = reasons[summary->interrupted ? stop : STOP_NOT];
	MT_GOTO(out, mt_keeper_finish(&t.keeper, &summary->saved));
	MT_GOTO(out, summarize(&t));
out:
	if (t.log && fclose(t.log) != 0 && st == MT_OK)
		st = mt_fail(MT_IO, "%s: writing the log failed", config->run->train.log);
	for (int i = 0; i < SAMPLES; i++)
		free(t.samples[i]);
	mt_trace_destroy(t.trace);
	mt_keeper_close(&t.keeper);
	mt_engine_destroy(t.engine);
	mt_dataset_close(t.dataset);
	mt_dataset_close(t.validation);
	mt_group_destroy(t.world);
	return st;
}

void mt_train_summary_free(struct mt_train_summary *summary)
{
	free(summary->stage);
	free(summary->step_times_s);
	free(summary->step_paces_flops);
	json_decref(summary->ranks);
	summary->step_times_s = summary->step_paces_flops = NULL;
	summary->ranks = NULL;
	summary->stage = NULL;
}

static json_t *bytes_by_stage(const struct mt_train_summary *s, size_t (*field)(const struct mt_stage_memory *))
{
	json_t *list = json_array();

	for (int i = 0; i < s->stages; i++)
		json_array_append_new(list, json_integer((json_int_t)field(&s->stage[i])));
	return list;
}

static size_t peak_of(const struct mt_stage_memory *stage)
{
	return stage->peak_bytes;
}

static size_t resident_of(const struct mt_stage_memory *stage)
{
	return stage->resident_bytes;
}

static size_t scratch_of(const struct mt_stage_memory *stage)
{
	return stage->scratch_bytes;
}

static size_t pinned_of(const struct mt_stage_memory *stage)
{
	return stage->pinned_bytes;
}

static json_t *list_of(const double *values, int64_t count)
{
	json_t *list = json_array();

	for (int64_t i = 0; i < count && i < MT_SUMMARY_STEPS; i++)
		json_array_append_new(list, json_real(values[i]));
	return list;
}

json_t *mt_train_summary_json(const struct mt_train_summary *s)
{
	json_t *o = json_object();

	json_object_set_new(o, "steps", json_integer(s->steps));
	json_object_set_new(o, "timed_steps", json_integer(s->timed_steps));
	json_object_set_new(o, "step_time_s", mt_json_number(s->median_step_s));
	json_object_set_new(o, "step_time_lo_s", mt_json_number(s->step_s.lo));
	json_object_set_new(o, "step_time_hi_s", mt_json_number(s->step_s.hi));
	json_object_set_new(o, "step_times_s", list_of(s->step_times_s, s->timed_steps));
	if (s->step_paces_flops)
		json_object_set_new(o, "step_paces_flops", list_of(s->step_paces_flops, s->timed_steps));
	json_object_set_new(o, "tokens_per_s", mt_json_number(s->tokens_per_s));
	json_object_set_new(o, "tflops_per_device", mt_json_number(s->tflops_per_device));
	json_object_set_new(o, "mfu_frac", mt_json_number(s->mfu_frac));
	json_object_set_new(o, "peak_tflops", mt_json_number(s->peak_tflops));
	json_object_set_new(o, "first_loss", mt_json_number(s->first_loss));
	json_object_set_new(o, "last_loss", mt_json_number(s->last_loss));
	json_object_set_new(o, "eval_loss", mt_json_number(s->eval_loss));
	json_object_set_new(o, "compute_s", mt_json_number(s->compute_s));
	json_object_set_new(o, "tp_s", mt_json_number(s->tp_s));
	json_object_set_new(o, "dp_s", mt_json_number(s->dp_s));
	json_object_set_new(o, "pp_s", mt_json_number(s->pp_s));
	json_object_set_new(o, "optimizer_s", mt_json_number(s->optimizer_s));
	json_object_set_new(o, "memory_bytes", bytes_by_stage(s, peak_of));
	json_object_set_new(o, "resident_bytes", bytes_by_stage(s, resident_of));
	json_object_set_new(o, "scratch_bytes", bytes_by_stage(s, scratch_of));
	json_object_set_new(o, "pinned_bytes", bytes_by_stage(s, pinned_of));
	json_object_set_new(o, "interrupted", json_boolean(s->interrupted));
	json_object_set_new(o, "reason", json_string(s->reason ? s->reason : "done"));
	json_object_set_new(o, "first_step", json_integer(s->first_step));
	json_object_set_new(o, "last_step", json_integer(s->last_step));
	json_object_set_new(o, "saved", json_boolean(s->saved));
	set_graphs(o, &s->graphs);
	json_object_set(o, "ranks", s->ranks);
	return o;
}
