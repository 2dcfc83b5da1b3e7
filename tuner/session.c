/* session: see session.h. */
#include "tuner/session.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "probes/probe.h"

#include <stdlib.h>
#include <string.h>

/* Spread of measured over predicted step times that neither kernels nor jitter explain: GPT-2 124M, all 36 layouts of 2 CPU
 * ranks, `megatune tune gpt2-124m --top 36`. */
#define MODEL_ERROR_FRAC 0.06

void mt_session_default(struct mt_session *session)
{
	memset(session, 0, sizeof *session);
	mt_options_default(&mt_tune_options_table, &session->options);
	mt_options_default(&mt_layout_options, &session->base);
	mt_options_default(&mt_model_options, &session->model);
	session->started_s = mt_clock_s();
	session->choice = -1;
}

static void free_profiles(struct mt_session *session)
{
	for (int i = 0; i < session->thread_choices; i++) {
		mt_profile_destroy(session->costs[i].profile);
		session->costs[i].profile = NULL;
	}
}

void mt_session_free(struct mt_session *session)
{
	for (int i = 0; i < session->timeline_count; i++)
		mt_trace_destroy(session->timeline[i]);
	free(session->timeline);
	mt_space_free(&session->space);
	free_profiles(session);
	mt_machine_free(&session->machine);
	mt_model_free(&session->model);
	mt_options_free(&mt_layout_options, &session->base);
	mt_options_free(&mt_tune_options_table, &session->options);
}

void mt_session_phase(struct mt_session *session, const char *name, double started_s)
{
	if (session->phase_count < MT_PHASES) {
		session->phases[session->phase_count].name = name;
		session->phases[session->phase_count++].seconds = mt_clock_s() - started_s;
	}
}

char *mt_session_path(const struct mt_session *session, const char *name)
{
	return mt_string("%s/%s", session->options.out, name);
}

char *mt_session_store_path(const struct mt_session *session)
{
	return session->options.store ? mt_string("%s", session->options.store) : mt_session_path(session, "profile.db");
}

/* bf16 where the device's products are faster in it. */
static enum mt_status settle_dtype(struct mt_session *s)
{
	struct mt_device_config config = {.kind = s->options.device, .threads = 1};
	struct mt_device *device;

	if (s->options.dtype != 0) {
		s->base.dtype = s->options.dtype == 1 ? MT_F32 : s->options.dtype == 2 ? MT_BF16 : MT_F16;
		return MT_OK;
	}
	MT_TRY(mt_device_create(&device, &config));
	s->base.dtype = device->info.bf16_native ? MT_BF16 : MT_F32;
	mt_device_destroy(device);
	return MT_OK;
}

enum mt_status mt_session_open(struct mt_session *session, const char *model)
{
	struct mt_model loaded = {0};

	MT_TRY(mt_model_load(&loaded, model));
	mt_model_free(&session->model);
	session->model = loaded;
	session->base.gbs = session->options.gbs;
	session->base.seq = session->options.seq ? session->options.seq : session->model.seq < 256 ? session->model.seq : 256;
	session->base.fp8 = session->options.fp8;
	MT_TRY(mt_axes_read(&session->axes, &session->options));
	return settle_dtype(session);
}

/* What is known of a host without measuring: enough to plan, marked as such by rates of zero (the fallback of cost.c). */
static enum mt_status describe_host(struct mt_session *s)
{
	struct mt_machine *m = &s->machine;
	int world = s->options.gpus > 0 ? (int)s->options.gpus : 2;

	memset(m, 0, sizeof *m);
	m->hosts = calloc(1, sizeof *m->hosts);
	m->rank_host = calloc((size_t)world, sizeof *m->rank_host);
	if (!m->hosts || !m->rank_host)
		return mt_fail(MT_NOMEM, "no memory for a machine of %d ranks", world);
	m->host_count = 1;
	m->world = world;
	MT_TRY(mt_probe_host(&m->hosts[0]));
	m->hosts[0].ranks = world;
	snprintf(m->name, sizeof m->name, "%.63s", m->hosts[0].name);
	snprintf(m->device, sizeof m->device, "%.63s", s->options.device);
	snprintf(m->fingerprint, sizeof m->fingerprint, "unmeasured");
	m->rank_memory_bytes = m->hosts[0].available_bytes / world;
	return MT_OK;
}

/* Threads a rank: as asked for; else all the cores that a rank can have, and half of them, which leaves cores free to move
 * messages beside the kernels. */
static void set_threads(struct mt_session *s, int per_host, int cores)
{
	int most = s->options.threads > 0 ? (int)s->options.threads : cores / per_host > 0 ? cores / per_host : 1;

	free_profiles(s);
	s->thread_choices = s->options.threads > 0 || most == 1 ? 1 : 2;
	s->base.threads = most;
	for (int i = 0; i < s->thread_choices; i++) {
		int threads = i == 0 ? most : most / 2;

		s->costs[i] = (struct mt_cost_model){.machine = &s->machine,
						     .ranks_per_host = per_host,
						     .threads = threads,
						     .overlap_steals = per_host * threads >= cores,
						     .model_error_frac = MODEL_ERROR_FRAC};
	}
}

struct mt_cost_model *mt_session_cost(struct mt_session *session, int64_t threads)
{
	for (int i = 1; i < session->thread_choices; i++) {
		if (session->costs[i].threads == threads)
			return &session->costs[i];
	}
	return &session->costs[0];
}

static void settle_world(struct mt_session *s)
{
	struct mt_machine *m = &s->machine;
	int per_host = m->host_count > 0 ? (m->world + m->host_count - 1) / m->host_count : m->world;
	int cores = m->host_count > 0 ? m->hosts[0].cores : 1;

	s->world = s->options.gpus > 0 ? (int)s->options.gpus : m->world > 0 ? m->world : 2;
	if (s->world < per_host)
		per_host = s->world;
	set_threads(s, per_host, cores);
	s->model_flops = mt_model_step_flops(&s->model, (double)(s->base.gbs * s->base.seq), s->base.seq, false);
}

enum mt_status mt_session_load_machine(struct mt_session *session, bool *measured)
{
	char *earlier = mt_session_path(session, "machine.yaml");
	enum mt_status st;

	if (!earlier)
		return mt_fail(MT_NOMEM, "no memory for a path");
	*measured = true;
	if (session->options.machine) {
		st = mt_machine_load(&session->machine, session->options.machine);
	} else if (mt_file_exists(earlier)) {
		st = mt_machine_load(&session->machine, earlier);
	} else {
		*measured = false;
		st = describe_host(session);
	}
	free(earlier);
	if (st == MT_OK)
		settle_world(session);
	return st;
}

static enum mt_status add_rows(const struct mt_session *s, struct mt_cost_model *cost, struct mt_store *store, int *rows)
{
	struct mt_store_row *all;
	int count, others, kept = 0;
	enum mt_status st;

	MT_TRY(mt_store_get(store, s->machine.fingerprint, &all, &count, &others));
	/* Rows of other thread counts or with other ranks busy are other costs. */
	for (int i = 0; i < count; i++) {
		if (all[i].threads == cost->threads && all[i].busy_ranks == cost->ranks_per_host)
			all[kept++] = all[i];
	}
	if (count == 0 && others > 0)
		mt_warn("the profile store has %d rows of another machine or build: they are not used", others);
	*rows = kept;
	st = mt_profile_add_rows(cost->profile, all, kept);
	free(all);
	return st;
}

static enum mt_status load_one(const struct mt_session *s, struct mt_cost_model *cost, struct mt_store *store, int *rows)
{
	struct mt_profile_rates fallback = mt_cost_fallback(&s->machine, cost->threads, cost->ranks_per_host);

	*rows = 0;
	MT_TRY(mt_profile_create(&cost->profile, cost->threads, cost->ranks_per_host, &fallback));
	return store ? add_rows(s, cost, store, rows) : MT_OK;
}

enum mt_status mt_session_load_profile(struct mt_session *session, int *rows)
{
	char *path = mt_session_store_path(session);
	struct mt_store *store = NULL;
	enum mt_status st = MT_OK;

	if (!path)
		return mt_fail(MT_NOMEM, "no memory for a path");
	free_profiles(session);
	if (mt_file_exists(path))
		MT_GOTO(out, mt_store_open(&store, path));
	for (int i = 0; i < session->thread_choices; i++) {
		int found;

		MT_GOTO(out, load_one(session, &session->costs[i], store, &found));
		*rows = i == 0 || found < *rows ? found : *rows;
	}
out:
	mt_store_close(store);
	free(path);
	return st;
}
