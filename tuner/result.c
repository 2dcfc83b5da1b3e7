/* result: the document that everything else is made from; see docs/result.md. */
#include "tuner/session.h"

#include "base/clock.h"
#include "base/json.h"
#include "tuner/axes.h"
#include "tuner/launch.h"
#include "tuner/memory.h"
#include "tuner/placed.h"
#include "tuner/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Candidates whose memory is listed by what it holds, the best: of 64 stages these are four fifths of a candidate's text. */
enum { WITH_PARTS = 100 };

static void set_number(json_t *o, const char *key, double value)
{
	json_object_set_new(o, key, mt_json_number(value));
}

static void set_int(json_t *o, const char *key, int64_t value)
{
	json_object_set_new(o, key, json_integer((json_int_t)value));
}

static void set_string(json_t *o, const char *key, const char *value)
{
	json_t *s = json_string(value);

	json_object_set_new(o, key, s ? s : json_string("?")); /* not UTF-8 */
}

static json_t *model_json(const struct mt_session *s)
{
	json_t *o = mt_options_json(&mt_model_options, &s->model);

	set_int(o, "parameters", mt_model_parameters(&s->model));
	return o;
}

static json_t *curve_json(const struct mt_comm_curve *c)
{
	json_t *o = json_object(), *bytes = json_array(), *seconds = json_array(), *bus = json_array();
	double factor = mt_comm_bus_factor(c->op, c->size);

	set_string(o, "op", mt_comm_op_name(c->op));
	set_string(o, "dtype", mt_dtype_name(c->dtype));
	set_int(o, "size", c->size);
	set_int(o, "stride", c->stride);
	set_number(o, "alpha_us", c->alpha_s * 1e6);
	set_number(o, "bandwidth_gbps", c->beta_s_per_byte > 0 ? 1e-9 / c->beta_s_per_byte : NAN);
	set_number(o, "residual_frac", c->residual_frac);
	for (int i = 0; i < c->points; i++) {
		json_array_append_new(bytes, json_real(c->bytes[i]));
		json_array_append_new(seconds, json_real(c->seconds[i]));
		json_array_append_new(bus, mt_json_number(c->bytes[i] / c->seconds[i] * factor / 1e9));
	}
	json_object_set_new(o, "bytes", bytes);
	json_object_set_new(o, "seconds", seconds);
	json_object_set_new(o, "busbw_gbps", bus);
	return o;
}

static json_t *hosts_json(const struct mt_machine *m)
{
	json_t *list = json_array();

	for (int i = 0; i < m->host_count; i++) {
		json_t *o = json_object();

		set_string(o, "name", m->hosts[i].name);
		set_string(o, "cpu", m->hosts[i].cpu);
		set_int(o, "cores", m->hosts[i].cores);
		set_int(o, "memory_bytes", m->hosts[i].memory_bytes);
		set_int(o, "ranks", m->hosts[i].ranks);
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *links_json(const struct mt_machine *m)
{
	json_t *list = json_array();

	for (int i = 0; i < m->class_count; i++) {
		json_t *o = json_object();

		set_string(o, "name", m->classes[i].name);
		set_number(o, "latency_us", m->classes[i].latency_us);
		set_number(o, "bandwidth_gbps", m->classes[i].bandwidth_gbps);
		set_int(o, "pairs", m->classes[i].pairs);
		json_array_append_new(list, o);
	}
	return list;
}

static double peak_tflops(const struct mt_session *s)
{
	return mt_machine_tflops(&s->machine, (enum mt_dtype)s->base.dtype, (int)s->base.threads, s->costs[0].ranks_per_host);
}

static json_t *machine_json(const struct mt_session *s)
{
	const struct mt_machine *m = &s->machine;
	json_t *o = json_object(), *rates = json_array(), *curves = json_array();

	set_string(o, "name", m->name);
	set_string(o, "fingerprint", m->fingerprint);
	json_object_set_new(o, "hosts", hosts_json(m));
	set_string(o, "libraries", m->libraries);
	set_string(o, "device", m->device);
	set_int(o, "rank_memory_bytes", m->rank_memory_bytes);
	set_number(o, "memory_gbps", m->memory_gbps);
	set_number(o, "peak_tflops", peak_tflops(s));
	set_string(o, "peak_source", "measured: products of cubes with all ranks of a host busy");
	json_object_set_new(o, "pair_classes", links_json(m));
	for (int i = 0; i < m->rate_count; i++) {
		json_t *r = json_object();

		set_string(r, "dtype", mt_dtype_name(m->rates[i].dtype));
		set_int(r, "threads", m->rates[i].threads);
		set_int(r, "busy_ranks", m->rates[i].busy_ranks);
		set_number(r, "tflops", m->rates[i].tflops);
		json_array_append_new(rates, r);
	}
	for (int i = 0; i < m->curve_count; i++)
		json_array_append_new(curves, curve_json(&m->curves[i]));
	json_object_set_new(o, "rates", rates);
	json_object_set_new(o, "curves", curves);
	return o;
}

static void set_layout(json_t *o, const struct mt_layout *l)
{
	/* Those that few layouts set: left out where 0. */
	static const enum mt_axis seldom[] = {
		MT_AXIS_ETP,          MT_AXIS_ZERO_GROUP,  MT_AXIS_RECOMPUTE_LAYERS, MT_AXIS_OFFLOAD_LAYERS,
		MT_AXIS_FIRST_LAYERS, MT_AXIS_LAST_LAYERS, MT_AXIS_VP_GROUP};
	char text[96];

	mt_layout_text(l, text);
	set_string(o, "text", text);
	set_int(o, "tp", l->tp);
	set_int(o, "pp", l->pp);
	set_int(o, "vp", l->vp);
	set_int(o, "cp", l->cp);
	if (l->cp > 1)
		set_string(o, "cp_kind", mt_layout_context_name(l));
	if (l->cp > 1 && l->cp_kind == MT_CONTEXT_HYBRID)
		set_int(o, "cp_inner", l->cp_inner);
	set_int(o, "ep", l->ep);
	set_int(o, "dp", l->dp);
	set_int(o, "mbs", l->mbs);
	set_int(o, "gbs", l->gbs);
	json_object_set_new(o, "sp", json_boolean(l->sp));
	set_int(o, "zero", l->zero);
	set_string(o, "recompute", mt_layout_recompute_name(l));
	set_string(o, "schedule", mt_layout_schedule_name(l));
	for (size_t i = 0; i < sizeof seldom / sizeof *seldom; i++) {
		if (mt_axis_get(l, seldom[i]) != 0)
			set_int(o, mt_axis_name(seldom[i]), mt_axis_get(l, seldom[i]));
	}
	if (l->stage_layers[0])
		set_string(o, "stage_layers", l->stage_layers);
	set_int(o, "bucket_bytes", l->bucket_bytes);
	set_int(o, "threads", l->threads);
	set_int(o, "microbatches", mt_layout_microbatches(l));
}

/* `parts`: not only the sums. */
static void set_memory(json_t *o, const struct mt_candidate *c, bool parts)
{
	static const char *const names[MT_ENGINE_ARENAS] = {"parameters_bytes", "gradients_bytes", "optimizer_bytes",
							    "activations_bytes", "workspace_bytes"};
	json_t *peak = json_array(), *resident = json_array(), *device = json_array(), *by_stage = json_array();

	for (int s = 0; s < c->stages; s++) {
		json_t *part = json_object();

		set_int(part, "stage", s);
		for (int i = 0; i < MT_ENGINE_ARENAS; i++)
			set_int(part, names[i], c->stage[s].arena_bytes[i]);
		set_int(part, "host_bytes", c->stage[s].host_bytes);
		if (c->stage[s].device_bytes > 0) {
			set_int(part, "scratch_bytes", c->stage[s].scratch_bytes);
			set_int(part, "pinned_bytes", c->stage[s].pinned_bytes);
			json_array_append_new(device, json_integer((json_int_t)c->stage[s].device_bytes));
		}
		json_array_append_new(by_stage, part);
		json_array_append_new(peak, json_integer((json_int_t)c->stage[s].peak_bytes));
		json_array_append_new(resident, json_integer((json_int_t)c->stage[s].resident_bytes));
	}
	json_object_set_new(o, "memory_bytes", peak);
	if (parts)
		json_object_set(o, "memory_parts", by_stage);
	json_decref(by_stage);
	json_object_set_new(o, "resident_bytes", resident);
	if (json_array_size(device) > 0)
		json_object_set(o, "device_bytes", device);
	json_decref(device);
}

static json_t *bytes_json(const int64_t *bytes, int stages)
{
	json_t *list = json_array();

	for (int s = 0; bytes && s < stages; s++)
		json_array_append_new(list, json_integer((json_int_t)bytes[s]));
	return list;
}

/* Of a layout that was not run. */
static void set_expected(json_t *o, const struct mt_session *s, const struct mt_candidate *c)
{
	double expected_s = c->run ? NAN : mt_trial_expected_s(s->space.candidates, s->space.count, c);

	if (isfinite(expected_s))
		set_number(o, "expected_step_time_s", expected_s);
}

static void set_measured(json_t *o, const struct mt_candidate *c)
{
	if (c->failed)
		set_string(o, "failure", c->failure);
	if (!c->run || c->failed)
		return;
	set_number(o, "measured_step_time_s", c->measured_s);
	set_number(o, "measured_lo_s", c->measured.lo);
	set_number(o, "measured_hi_s", c->measured.hi);
	set_number(o, "measured_median_s", c->median_s);
	set_int(o, "measured_steps", c->measured_steps);
	set_int(o, "undisturbed_steps", c->undisturbed_steps);
	set_number(o, "measured_loss", c->measured_loss);
	json_object_set_new(o, "measured_memory_bytes", bytes_json(c->measured_peak_bytes, c->stages));
	json_object_set_new(o, "measured_resident_bytes", bytes_json(c->measured_resident_bytes, c->stages));
	if (json_object_get(o, "device_bytes")) {
		json_t *device = json_array();

		for (int s = 0; s < c->stages; s++)
			json_array_append_new(device,
					      json_integer((json_int_t)(c->measured_peak_bytes[s] + c->measured_scratch_bytes[s])));
		json_object_set_new(o, "measured_device_bytes", device);
	}
}

static json_t *candidate_json(const struct mt_session *s, int index)
{
	const struct mt_candidate *c = &s->space.candidates[index];
	json_t *o = json_object(), *split = json_object();
	double tflops = s->model_flops / c->step_s / s->world / 1e12, peak = peak_tflops(s);

	set_int(o, "rank", index + 1);
	set_layout(o, &c->layout);
	set_number(o, "step_time_s", c->step_s);
	set_number(o, "step_time_lo_s", c->lo_s);
	set_number(o, "step_time_hi_s", c->hi_s);
	set_number(o, "mfu_frac", peak > 0 ? tflops / peak : NAN);
	set_number(o, "tflops_per_gpu", tflops);
	set_number(o, "tokens_per_s", (double)(s->base.gbs * s->base.seq) / c->step_s);
	set_memory(o, c, index < WITH_PARTS || index == s->choice || c->run);
	set_number(split, "compute_s", c->compute_s);
	set_number(split, "tp_s", c->tp_s);
	set_number(split, "dp_s", c->dp_s);
	set_number(split, "pp_s", c->pp_s);
	set_number(split, "bubble_s", c->bubble_s);
	set_number(split, "optimizer_s", c->optimizer_s);
	json_object_set_new(o, "split", split);
	if (c->rank_order)
		set_number(o, "launcher_step_time_s", c->launcher_s);
	set_number(o, "guessed_frac", c->guessed_frac);
	set_string(o, "fidelity", c->fidelity == MT_FIDELITY_DRY ? "dry" : "card");
	set_measured(o, c);
	set_expected(o, s, c);
	return o;
}

/* Errors of the predictions over the candidates that were run. */
static json_t *prediction_json(const struct mt_session *s)
{
	json_t *o = json_object();
	double *errors = calloc((size_t)s->space.count + 1, sizeof *errors);
	int64_t steps = 0, undisturbed = 0;
	int runs = 0, inside = 0;

	for (int i = 0; errors && i < s->space.count; i++) {
		const struct mt_candidate *c = &s->space.candidates[i];

		if (!c->run || c->failed)
			continue;
		errors[runs++] = fabs(c->step_s / c->measured_s - 1);
		inside += c->measured_s >= c->lo_s && c->measured_s <= c->hi_s;
		steps += c->measured_steps;
		undisturbed += c->undisturbed_steps;
	}
	set_int(o, "runs", runs);
	if (runs > 0) {
		set_number(o, "median_ape_frac", mt_stats_median(errors, (size_t)runs));
		set_number(o, "p90_ape_frac", mt_stats_quantile(errors, (size_t)runs, 0.9));
		set_int(o, "inside_interval", inside);
		set_number(o, "disturbed_frac", 1 - (double)undisturbed / (double)steps);
	}
	free(errors);
	return o;
}

/* Adjacent spans of one name on one stream count as one when the gap is small against the step. */
static json_t *stream_json(const struct mt_span *spans, int count, const char *stream, double least_gap_s)
{
	json_t *o = json_object(), *list = json_array();
	const struct mt_span *open = NULL;
	json_t *last = NULL;
	double end_s = 0;

	for (int i = 0; i < count; i++) {
		const struct mt_span *span = &spans[i];

		if (strcmp(span->stream, stream) != 0)
			continue;
		if (open && !strcmp(open->name, span->name) && span->start_s - end_s < least_gap_s) {
			set_number(last, "end_s", end_s = span->end_s);
			continue;
		}
		open = span;
		last = json_object();
		set_string(last, "name", span->name);
		set_number(last, "start_s", span->start_s);
		set_number(last, "end_s", end_s = span->end_s);
		set_string(last, "kind", span->collective ? "collective" : "kernel");
		json_array_append_new(list, last);
	}
	set_string(o, "name", stream);
	json_object_set_new(o, "spans", list);
	return o;
}

static json_t *timeline_json(const struct mt_session *s)
{
	static const char *const streams[] = {"compute", "dp", "send", "send back", "receive", "receive back"};
	json_t *o = json_object(), *ranks = json_array();

	for (int stage = 0; stage < s->timeline_count; stage++) {
		json_t *rank = json_object(), *list = json_array();
		struct mt_coordinates at = {.pp = stage};
		int count = 0;
		const struct mt_span *spans = s->timeline[stage] ? mt_trace_spans(s->timeline[stage], &count) : NULL;

		set_int(rank, "rank", mt_layout_rank(&s->space.candidates[s->choice].layout, at));
		set_int(rank, "stage", stage);
		for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++) {
			json_t *stream = stream_json(spans, count, streams[i], 1e-6);

			if (json_array_size(json_object_get(stream, "spans")) > 0)
				json_array_append_new(list, stream);
			else
				json_decref(stream);
		}
		json_object_set_new(rank, "streams", list);
		json_array_append_new(ranks, rank);
	}
	json_object_set_new(o, "ranks", ranks);
	return o;
}

static void set_rejected(json_t *o, const struct mt_session *s)
{
	json_t *counts = json_object(), *texts = json_object();

	for (int i = 0; i < mt_space_rule_count(); i++) {
		if (s->space.rejected[i] == 0)
			continue;
		set_int(counts, mt_space_rule_name(i), s->space.rejected[i]);
		set_string(texts, mt_space_rule_name(i), mt_space_rule_text(i));
	}
	json_object_set_new(o, "rejected", counts);
	json_object_set_new(o, "rejected_text", texts);
}

static void set_head(json_t *o, const struct mt_session *s)
{
	double tokens = (double)(s->base.gbs * s->base.seq);
	char created[24];

	mt_clock_utc(created);
	set_int(o, "schema", 1);
	set_string(o, "megatune", MT_VERSION);
	set_string(o, "command", s->command);
	set_string(o, "created", created);
	set_string(o, "status", s->partial ? "partial" : "done");
	json_object_set_new(o, "model", model_json(s));
	json_object_set_new(o, "machine", machine_json(s));
	set_int(o, "gpus", s->world);
	set_int(o, "gbs", s->base.gbs);
	set_int(o, "seq", s->base.seq);
	set_string(o, "dtype", mt_dtype_name((enum mt_dtype)s->base.dtype));
	set_string(o, "fp8", mt_fp8_recipes[s->base.fp8]);
	set_number(o, "tokens_per_step", tokens);
	set_number(o, "model_flops", s->model_flops);
	set_number(o, "model_flops_full_attention", mt_model_step_flops(&s->model, tokens, s->base.seq, true));
	set_string(o, "flops_formula",
		   "6 T (N_matmul + hidden vocab) + 6 T seq layers q, q = heads head_dim; attention counted causal");
	set_int(o, "searched", s->space.count);
}

json_t *mt_result_json(const struct mt_session *session)
{
	json_t *o = json_object(), *phases = json_array(), *candidates = json_array();
	char *command = mt_launch_text(&session->options, session->world, "train run.yaml");

	set_head(o, session);
	set_rejected(o, session);
	set_number(o, "seconds", mt_clock_s() - session->started_s);
	for (int i = 0; i < session->phase_count; i++) {
		json_t *phase = json_object();

		set_string(phase, "name", session->phases[i].name);
		set_number(phase, "seconds", session->phases[i].seconds);
		json_array_append_new(phases, phase);
	}
	json_object_set_new(o, "phases", phases);
	for (int i = 0; i < session->space.count && i < MT_LISTED; i++)
		json_array_append_new(candidates, candidate_json(session, i));
	json_object_set_new(o, "candidates", candidates);
	set_int(o, "choice", session->choice + 1);
	set_string(o, "choice_reason", session->reason);
	json_object_set_new(o, "prediction", prediction_json(session));
	set_int(o, "memory_limit_bytes", session->machine.rank_memory_bytes);
	if (mt_machine_has_device_memory(&session->machine))
		set_int(o, "device_limit_bytes", mt_machine_device_bytes(&session->machine));
	if (session->choice >= 0)
		json_object_set_new(o, "timeline", timeline_json(session));
	if (session->choice >= 0 && session->space.candidates[session->choice].launcher_s > 0)
		json_object_set_new(o, "placement", mt_placed_json(session, &session->space.candidates[session->choice]));
	set_string(o, "run", "run.yaml");
	set_string(o, "command_line", command ? command : "megatune train run.yaml");
	free(command);
	return o;
}
