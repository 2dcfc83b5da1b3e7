/* offload: activations of a layer wait in host memory for their backward pass, copied beside the compute (Rhu et al. 2016,
 * arXiv:1602.08124).
 *
 * After a layer's forward pass what it saved is copied out on a stream of its own while the next layer runs, and freed when that
 * one has been enqueued; so the device holds two offloaded layers of a micro-batch at most. In the backward pass the copy back
 * begins a layer ahead. The host arena is pinned memory where the device wants that. Which layers: the first offload_layers of each
 * chunk, as theirs wait longest. What recompute does not keep is not copied. */
#include "engine/internal.h"

#include <stdlib.h>
#include <unistd.h>

bool mt_offloads(const struct mt_engine *e, const struct mt_flight *flight, int64_t layer)
{
	return flight->away && layer < e->layout->offload_layers && !e->evaluating;
}

enum mt_status mt_offload_open(struct mt_engine *e)
{
	size_t bytes = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);

	if (e->layout->offload_layers == 0)
		return MT_OK;
	MT_TRY(mt_stream_create(e->device, MT_STREAM_COMM, "offload", &e->offload_stream));
	MT_TRY(mt_stream_create(e->device, MT_STREAM_COMM, "fetch", &e->fetch_stream));
	return mt_arena_create(&e->host_arena, "host", mt_device_host_memory(e->device), bytes);
}

void mt_offload_close(struct mt_engine *e)
{
	mt_stream_destroy(e->offload_stream);
	mt_stream_destroy(e->fetch_stream);
}

enum mt_status mt_offload_create(struct mt_engine *e, struct mt_flight *flight)
{
	int64_t count = flight->layer_count < e->layout->offload_layers ? flight->layer_count : e->layout->offload_layers;

	if (count == 0)
		return MT_OK;
	flight->away = calloc((size_t)count, sizeof *flight->away);
	if (!flight->away)
		return mt_fail(MT_NOMEM, "no memory for %lld offloaded layers", (long long)count);
	for (int64_t i = 0; i < count; i++)
		MT_TRY(mt_event_create(e->device, &flight->away[i].event));
	return MT_OK;
}

void mt_offload_destroy(struct mt_engine *e, struct mt_flight *flight)
{
	for (int64_t i = 0; flight->away && i < flight->layer_count && i < e->layout->offload_layers; i++) {
		mt_offload_drop(e, flight, i);
		mt_event_destroy(flight->away[i].event);
	}
	free(flight->away);
	flight->away = NULL;
}

/* The stream goes on where the compute stream is now. */
static enum mt_status follow(struct mt_engine *e, struct mt_stream *stream)
{
	MT_TRY(mt_event_record(e->event, e->compute));
	return mt_stream_wait(stream, e->event);
}

enum mt_status mt_offload_start(struct mt_engine *e, struct mt_flight *flight, int64_t layer)
{
	void **saved = (void **)&flight->layers[layer];
	struct mt_away *away = &flight->away[layer];

	MT_TRY(follow(e, e->offload_stream));
	for (int i = 0; i < MT_LAYER_TENSORS; i++) {
		size_t bytes = saved[i] ? mt_arena_bytes(e->arenas[ARENA_ACTIVATIONS], saved[i]) : 0;

		if (!saved[i])
			continue;
		MT_TRY(mt_arena_alloc(e->host_arena, bytes, &away->host[i]));
		MT_TRY(mt_device_copy(e->device, e->offload_stream, away->host[i], saved[i], bytes));
	}
	away->leaving = true;
	return mt_event_record(away->event, e->offload_stream);
}

enum mt_status mt_offload_settle(struct mt_engine *e, struct mt_flight *flight, int64_t layer)
{
	struct mt_away *away = &flight->away[layer];

	if (!away->leaving)
		return MT_OK;
	MT_TRY(mt_stream_wait(e->compute, away->event));
	away->leaving = false;
	mt_layer_free(e, &flight->layers[layer]);
	return MT_OK;
}

enum mt_status mt_offload_fetch(struct mt_engine *e, struct mt_flight *flight, int64_t layer)
{
	void **saved = (void **)&flight->layers[layer];
	struct mt_away *away = &flight->away[layer];

	if (away->coming)
		return MT_OK;
	for (int i = 0; i < MT_LAYER_TENSORS; i++) {
		if (away->host[i])
			MT_TRY(mt_arena_alloc(e->arenas[ARENA_ACTIVATIONS], mt_arena_bytes(e->host_arena, away->host[i]),
					      &saved[i]));
	}
	MT_TRY(follow(e, e->fetch_stream)); /* the memory may have been in use until now */
	for (int i = 0; i < MT_LAYER_TENSORS; i++) {
		if (away->host[i])
			MT_TRY(mt_device_copy(e->device, e->fetch_stream, saved[i], away->host[i],
					      mt_arena_bytes(e->host_arena, away->host[i])));
	}
	away->coming = true;
	return mt_event_record(away->event, e->fetch_stream);
}

enum mt_status mt_offload_await(struct mt_engine *e, struct mt_flight *flight, int64_t layer)
{
	MT_TRY(mt_offload_fetch(e, flight, layer));
	MT_TRY(mt_stream_wait(e->compute, flight->away[layer].event));
	mt_offload_drop(e, flight, layer);
	return MT_OK;
}

/* What is copied out next waits for the compute stream, which has waited for the copies in. */
void mt_offload_drop(struct mt_engine *e, struct mt_flight *flight, int64_t layer)
{
	struct mt_away *away = &flight->away[layer];

	for (int i = 0; i < MT_LAYER_TENSORS; i++) {
		mt_arena_free(e->host_arena, away->host[i]);
		away->host[i] = NULL;
	}
	away->leaving = away->coming = false;
}

size_t mt_engine_host_bytes(const struct mt_engine *engine)
{
	struct mt_arena_stats stats = {.peak_bytes = 0};

	if (engine->host_arena)
		mt_arena_stats(engine->host_arena, &stats);
	return stats.peak_bytes;
}
