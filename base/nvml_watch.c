/* nvml_watch: the state of GPUs over the time of a run, from a thread that wakes a few times a second: a reading takes the
 * driver well under a millisecond, and the ranks do not wait for it. */
#include "base/nvml.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define IDLE_BIT 1 /* of the throttle reasons: the clocks are low as there is no work */

struct watched {
	int index;
	struct mt_nvml_watched sum;
	struct mt_nvml_state first, last;
	double power_sum_w, clock_sum_mhz;
	int power_samples, clock_samples, throttled;
};

struct mt_nvml_watch {
	struct mt_nvml *nvml;
	struct watched *gpus; /* owned */
	int count;
	double start_s, interval_s;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool stop;
};

static int most(int a, int b)
{
	return a > b ? a : b;
}

static void add_state(struct watched *gpu, const struct mt_nvml_state *state)
{
	struct mt_nvml_watched *sum = &gpu->sum;
	if (sum->samples++ == 0)
		gpu->first = *state;
	gpu->last = *state;
	if (state->power_w >= 0) {
		gpu->power_sum_w += state->power_w;
		gpu->power_samples++;
		sum->most_power_w = state->power_w > sum->most_power_w ? state->power_w : sum->most_power_w;
	}
	if (state->sm_clock_mhz >= 0) {
		gpu->clock_sum_mhz += state->sm_clock_mhz;
		sum->least_sm_clock_mhz = gpu->clock_samples++ == 0 || state->sm_clock_mhz < sum->least_sm_clock_mhz
						  ? state->sm_clock_mhz
						  : sum->least_sm_clock_mhz;
		sum->most_sm_clock_mhz = most(sum->most_sm_clock_mhz, state->sm_clock_mhz);
	}
	sum->most_temperature_c = most(sum->most_temperature_c, state->temperature_c);
	if (state->throttle >= 0) {
		sum->throttle = (sum->throttle < 0 ? 0 : sum->throttle) | state->throttle;
		gpu->throttled += (state->throttle & ~(int64_t)IDLE_BIT) != 0;
	}
}

static void read_all(struct mt_nvml_watch *watch)
{
	for (int i = 0; i < watch->count; i++) {
		struct mt_nvml_state state;
		if (mt_nvml_state(watch->nvml, watch->gpus[i].index, &state) == MT_OK)
			add_state(&watch->gpus[i], &state);
		else
			mt_error_clear(); /* a GPU that fell off the bus: fewer samples tell it */
	}
}

static void *run(void *context)
{
	struct mt_nvml_watch *watch = context;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	pthread_mutex_lock(&watch->lock);
	while (!watch->stop) {
		pthread_mutex_unlock(&watch->lock);
		read_all(watch);
		pthread_mutex_lock(&watch->lock);
		int64_t ns = (int64_t)until.tv_nsec + (int64_t)(watch->interval_s * 1e9);
		until.tv_sec += ns / 1000000000;
		until.tv_nsec = ns % 1000000000;
		while (!watch->stop && pthread_cond_timedwait(&watch->changed, &watch->lock, &until) == 0)
			;
	}
	pthread_mutex_unlock(&watch->lock);
	return NULL;
}

static enum mt_status choose_gpus(struct mt_nvml_watch *watch, const char *bus_id)
{
	int count = mt_nvml_count(watch->nvml);
	watch->gpus = calloc((size_t)count + 1, sizeof *watch->gpus);
	if (!watch->gpus)
		return mt_fail(MT_NOMEM, "out of memory for watching %d GPUs", count);
	for (int i = 0; i < count; i++) {
		struct mt_nvml_facts facts;
		MT_TRY(mt_nvml_facts(watch->nvml, i, &facts));
		if (bus_id && bus_id[0] && strcmp(bus_id, facts.bus_id) != 0)
			continue;
		struct watched *gpu = &watch->gpus[watch->count++];
		gpu->index = i;
		gpu->sum.throttle = gpu->sum.most_temperature_c = -1;
		memcpy(gpu->sum.name, facts.name, sizeof gpu->sum.name);
		memcpy(gpu->sum.bus_id, facts.bus_id, sizeof gpu->sum.bus_id);
	}
	if (watch->count == 0)
		return mt_fail(bus_id && bus_id[0] ? MT_INPUT : MT_UNAVAILABLE, "the NVIDIA driver lists no GPU%s%s",
			       bus_id && bus_id[0] ? " at " : "", bus_id ? bus_id : "");
	return MT_OK;
}

/* Waits on the monotonic clock: a change of the date must not stop the readings. */
static enum mt_status start_thread(struct mt_nvml_watch *watch)
{
	pthread_condattr_t attributes;
	if (pthread_condattr_init(&attributes) != 0)
		return mt_fail(MT_NOMEM, "the system gives no more locks");
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&watch->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_mutex_init(&watch->lock, NULL);
	if (pthread_create(&watch->thread, NULL, run, watch) == 0)
		return MT_OK;
	pthread_cond_destroy(&watch->changed);
	pthread_mutex_destroy(&watch->lock);
	return mt_fail(MT_NOMEM, "the system gives no thread for watching the GPUs");
}

enum mt_status mt_nvml_watch_start(struct mt_nvml_watch **watch, const char *bus_id, double interval_s)
{
	struct mt_nvml_watch *made = calloc(1, sizeof *made);
	enum mt_status st;

	*watch = NULL;
	if (!made)
		return mt_fail(MT_NOMEM, "out of memory for watching GPUs");
	MT_GOTO(out, mt_nvml_open(&made->nvml));
	MT_GOTO(out, choose_gpus(made, bus_id));
	made->interval_s = interval_s > 1e-3 ? interval_s : 1e-3;
	made->start_s = mt_clock_s();
	MT_GOTO(out, start_thread(made));
	*watch = made;
	return MT_OK;
out:
	mt_nvml_close(made->nvml);
	free(made->gpus);
	free(made);
	return st;
}

static int64_t growth(int64_t first, int64_t last)
{
	return first < 0 || last < 0 ? -1 : last - first;
}

static void finish(struct watched *gpu, double seconds, struct mt_nvml_watched *out)
{
	struct mt_nvml_watched *sum = &gpu->sum;
	sum->seconds = seconds;
	sum->mean_power_w = gpu->power_samples ? gpu->power_sum_w / gpu->power_samples : -1;
	sum->most_power_w = gpu->power_samples ? sum->most_power_w : -1;
	sum->mean_sm_clock_mhz = gpu->clock_samples ? (int)(gpu->clock_sum_mhz / gpu->clock_samples + 0.5) : -1;
	if (!gpu->clock_samples)
		sum->least_sm_clock_mhz = sum->most_sm_clock_mhz = -1;
	sum->throttled_frac = sum->samples ? (double)gpu->throttled / sum->samples : 0;
	if (sum->samples == 0) {
		sum->energy_j = -1;
		sum->ecc_corrected = sum->ecc_uncorrected = -1;
		*out = *sum;
		return;
	}
	if (gpu->first.energy_j >= 0 && gpu->last.energy_j >= gpu->first.energy_j)
		sum->energy_j = gpu->last.energy_j - gpu->first.energy_j;
	else
		sum->energy_j = gpu->power_samples ? sum->mean_power_w * seconds : -1;
	sum->ecc_corrected = growth(gpu->first.ecc_corrected, gpu->last.ecc_corrected);
	sum->ecc_uncorrected = growth(gpu->first.ecc_uncorrected, gpu->last.ecc_uncorrected);
	*out = *sum;
}

enum mt_status mt_nvml_watch_stop(struct mt_nvml_watch *watch, struct mt_nvml_watched **list, int *count)
{
	enum mt_status st = MT_OK;

	*list = NULL;
	*count = 0;
	if (!watch)
		return MT_OK;
	pthread_mutex_lock(&watch->lock);
	watch->stop = true;
	pthread_cond_signal(&watch->changed);
	pthread_mutex_unlock(&watch->lock);
	pthread_join(watch->thread, NULL);
	read_all(watch);
	*list = calloc((size_t)watch->count, sizeof **list);
	if (!*list)
		st = mt_fail(MT_NOMEM, "out of memory for the states of %d GPUs", watch->count);
	for (int i = 0; st == MT_OK && i < watch->count; i++)
		finish(&watch->gpus[i], mt_clock_s() - watch->start_s, &(*list)[(*count)++]);
	pthread_cond_destroy(&watch->changed);
	pthread_mutex_destroy(&watch->lock);
	mt_nvml_close(watch->nvml);
	free(watch->gpus);
	free(watch);
	return st;
}
