/* loader: see loader.h.
 *
 * Micro-batches are numbered through the run: g = step * (micro-batches a step) + k. Slot g mod 2M holds number g: two steps'
 * worth, the one that runs and the next. The thread fills them in order and sleeps when both are full. A begin that is not the next
 * step moves the thread there: `round` tells it that what it is reading was for another place. */
#define _GNU_SOURCE
#include "engine/loader.h"
#include "base/clock.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct mt_loader {
	struct mt_loader_config config;
	int64_t microbatches; /* M, of a step */
	uint64_t origin;      /* global sample of number 0 */
	struct mt_batch *slots;
	int32_t *memory; /* owned: of all slots */
	int32_t *sample; /* owned: (2, seq) tokens and targets of a sample of which some rows are taken */
	pthread_t thread;
	bool started, stops;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int64_t first, filled; /* numbers [first, filled) are there; first: micro-batch 0 of the running step */
	int64_t round;
	enum mt_status status; /* of number `filled`, when it failed */
	char message[1024];
};

/* Row i gets what is `by` rows further in the sequence, -1 where that is none. */
static int32_t further(const struct mt_loader *l, const int32_t *from, int64_t row, int64_t by)
{
	return row + by < l->config.seq ? from[row + by] : -1;
}

/* What the modules of sequence b read, module k so many tokens further. A target further on counts where those between do too: none
 * of them is behind the end of a document kept apart. */
static void fill_next(const struct mt_loader *l, const int32_t *all_tokens, const int32_t *all_targets, int64_t b,
		      struct mt_batch *batch)
{
	int64_t rows = l->config.row_count, size = l->config.mbs * rows;

	for (int64_t k = 1; k <= l->config.modules; k++) {
		int32_t *tokens = batch->next + 2 * (k - 1) * size + b * rows, *targets = tokens + size;

		for (int64_t i = 0; i < rows; i++) {
			int64_t row = l->config.rows ? l->config.rows[i] : i;
			bool counts = true;

			for (int64_t by = 0; by < k; by++)
				counts = counts && further(l, all_targets, row, by) >= 0;
			tokens[i] = further(l, all_tokens, row, k);
			targets[i] = counts ? further(l, all_targets, row, k) : -1;
		}
	}
}

/* Global samples of a micro-batch: consecutive, interleaved over dp, so that a step's set does not depend on the layout. */
static enum mt_status fill(const struct mt_loader *l, uint64_t origin, int64_t number, struct mt_batch *batch)
{
	const struct mt_loader_config *c = &l->config;
	int64_t step = number / l->microbatches, k = number % l->microbatches;
	uint64_t first = origin + (uint64_t)(step * c->gbs + (k * c->dp + c->rank) * c->mbs);

	for (int64_t b = 0; b < c->mbs; b++) {
		int32_t *tokens = l->sample ? l->sample : batch->tokens + b * c->seq;
		int32_t *targets = l->sample ? l->sample + c->seq : batch->targets + b * c->seq;

		if (c->apart)
			MT_TRY(mt_dataset_sample_apart(c->dataset, first + (uint64_t)b, tokens, targets,
						       batch->starts + b * c->seq));
		if (!c->apart || c->count_boundaries)
			MT_TRY(mt_dataset_sample(c->dataset, first + (uint64_t)b, tokens, targets));
		for (int64_t i = 0; l->sample && i < c->row_count; i++) {
			batch->tokens[b * c->row_count + i] = tokens[c->rows[i]];
			batch->targets[b * c->row_count + i] = targets[c->rows[i]];
		}
		fill_next(l, tokens, targets, b, batch);
	}
	batch->counted = 0;
	for (int64_t i = 0; i < c->mbs * c->row_count; i++)
		batch->counted += batch->targets[i] >= 0;
	return MT_OK;
}

/* One micro-batch, with the lock given back while it is read. */
static void read_next(struct mt_loader *l)
{
	int64_t number = l->filled, round = l->round;
	uint64_t origin = l->origin;
	enum mt_status st;

	pthread_mutex_unlock(&l->lock);
	mt_error_clear();
	st = fill(l, origin, number, &l->slots[number % (2 * l->microbatches)]);
	pthread_mutex_lock(&l->lock);
	if (round != l->round)
		return;
	if (st == MT_OK) {
		l->filled++;
	} else {
		/* the message belongs to this thread: the one that asks repeats it */
		l->status = st;
		strncpy(l->message, mt_error_message(), sizeof l->message - 1);
	}
	pthread_cond_broadcast(&l->changed);
}

static void *run(void *context)
{
	struct mt_loader *l = context;

	pthread_mutex_lock(&l->lock);
	while (!l->stops) {
		if (l->status == MT_OK && l->filled < l->first + 2 * l->microbatches)
			read_next(l);
		else
			pthread_cond_wait(&l->changed, &l->lock);
	}
	pthread_mutex_unlock(&l->lock);
	return NULL;
}

static enum mt_status make_slots(struct mt_loader *l)
{
	int64_t rows = l->config.mbs * l->config.row_count, slots = 2 * l->microbatches;
	int64_t starts = l->config.apart ? l->config.mbs * l->config.seq : 0, next = 2 * l->config.modules * rows;
	int64_t each = 2 * rows + starts + next;

	l->slots = calloc((size_t)slots, sizeof *l->slots);
	l->memory = calloc((size_t)(slots * each), sizeof *l->memory);
	if (l->config.rows)
		l->sample = calloc((size_t)(2 * l->config.seq), sizeof *l->sample);
	if (!l->slots || !l->memory || (l->config.rows && !l->sample))
		return mt_fail(MT_NOMEM, "out of memory for %lld micro-batches of %lld tokens", (long long)slots, (long long)rows);
	for (int64_t i = 0; i < slots; i++) {
		int32_t *at = l->memory + i * each;

		l->slots[i] = (struct mt_batch){.tokens = at,
						.targets = at + rows,
						.starts = starts > 0 ? at + 2 * rows : NULL,
						.next = next > 0 ? at + 2 * rows + starts : NULL};
	}
	return MT_OK;
}

enum mt_status mt_loader_create(struct mt_loader **loader, const struct mt_loader_config *config)
{
	struct mt_loader *l = calloc(1, sizeof *l);

	*loader = NULL;
	if (!l)
		return mt_fail(MT_NOMEM, "out of memory for the loader");
	l->config = *config;
	if (!config->rows)
		l->config.row_count = config->seq;
	l->microbatches = config->gbs / (config->mbs * config->dp);
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->changed, NULL);
	enum mt_status st = make_slots(l);
	if (st != MT_OK) {
		mt_loader_destroy(l);
		return st;
	}
	*loader = l;
	return MT_OK;
}

void mt_loader_destroy(struct mt_loader *loader)
{
	struct mt_loader *l = loader;

	if (!l)
		return;
	if (l->started) {
		pthread_mutex_lock(&l->lock);
		l->stops = true;
		pthread_cond_broadcast(&l->changed);
		pthread_mutex_unlock(&l->lock);
		pthread_join(l->thread, NULL);
	}
	pthread_cond_destroy(&l->changed);
	pthread_mutex_destroy(&l->lock);
	free(l->slots);
	free(l->memory);
	free(l->sample);
	free(l);
}

/* Signals are for the thread that runs the steps. */
static enum mt_status start(struct mt_loader *l)
{
	sigset_t all, before;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	l->started = pthread_create(&l->thread, NULL, run, l) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return l->started ? MT_OK : mt_fail(MT_FAILED, "cannot start the thread that reads data: too many threads?");
}

enum mt_status mt_loader_begin(struct mt_loader *loader, uint64_t first)
{
	struct mt_loader *l = loader;
	uint64_t running = l->origin + (uint64_t)(l->first / l->microbatches * l->config.gbs);

	pthread_mutex_lock(&l->lock);
	if (l->started && first == running + (uint64_t)l->config.gbs && l->filled >= l->first + l->microbatches) {
		l->first += l->microbatches;
	} else if (!l->started || first != running) {
		l->origin = first;
		l->first = l->filled = 0;
		l->round++;
		l->status = MT_OK;
	}
	pthread_cond_broadcast(&l->changed);
	pthread_mutex_unlock(&l->lock);
	return l->started ? MT_OK : start(l);
}

enum mt_status mt_loader_get(struct mt_loader *loader, int64_t microbatch, struct mt_batch *batch, double *waited_s)
{
	struct mt_loader *l = loader;
	int64_t number;
	enum mt_status st = MT_OK;

	pthread_mutex_lock(&l->lock);
	number = l->first + microbatch;
	if (l->filled <= number && l->status == MT_OK) {
		double start_s = mt_clock_s();
		while (l->filled <= number && l->status == MT_OK)
			pthread_cond_wait(&l->changed, &l->lock);
		*waited_s += mt_clock_s() - start_s;
	}
	if (l->filled <= number)
		st = mt_fail(l->status, "%s", l->message);
	else
		*batch = l->slots[number % (2 * l->microbatches)];
	pthread_mutex_unlock(&l->lock);
	return st;
}

int64_t mt_loader_ready(struct mt_loader *loader)
{
	pthread_mutex_lock(&loader->lock);
	int64_t ready = loader->filled - loader->first;
	pthread_mutex_unlock(&loader->lock);
	return ready;
}
