/* registration: tells the fabric of the memory of parameters and gradients, which is what is reduced, scattered and gathered over
 * the ranks that share it: the flat buffers, buckets gathered for a while (ZeRO-2 and 3), and gradients in bf16.
 *
 * A fabric wants all members of a group to use registered memory in a collective, or none. The two arenas of ranks that share
 * parameters see the same calls, so the same tensors lie below the peak on all of them. What is in use is told twice, by all ranks:
 * before the first step, when it is what lives as long as the engine, and before the second, when it is all that a step uses: later
 * peaks are the same. Activations are left out: with experts their peak is data, another one on each rank. */
#include "engine/internal.h"

static const int arenas[MT_REGISTERED] = {ARENA_PARAMETERS, ARENA_GRADIENTS};

/* What is on its way to or from a range must have arrived before the range goes. */
static enum mt_status wait_for_all(struct mt_engine *e)
{
	struct mt_stream *const streams[] = {e->compute, e->dp_stream, e->gather_stream, e->cp_stream, e->experts.stream};

	for (size_t i = 0; i < sizeof streams / sizeof streams[0]; i++)
		if (streams[i])
			MT_TRY(mt_stream_synchronize(streams[i]));
	return MT_OK;
}

enum mt_status mt_registration_follow(struct mt_engine *e)
{
	if (e->registrations == MT_REGISTRATIONS)
		return MT_OK;
	for (int i = 0; i < MT_REGISTERED; i++) {
		struct mt_arena_stats stats;

		mt_arena_stats(e->arenas[arenas[i]], &stats);
		if (e->registered[i])
			MT_TRY(wait_for_all(e));
		mt_fabric_unregister(e->config.fabric, e->registered[i]);
		MT_TRY(mt_fabric_register(e->config.fabric, stats.base, stats.peak_bytes, &e->registered[i]));
	}
	e->registrations++;
	return MT_OK;
}

void mt_registration_end(struct mt_engine *e)
{
	for (int i = 0; i < MT_REGISTERED; i++) {
		mt_fabric_unregister(e->config.fabric, e->registered[i]);
		e->registered[i] = NULL;
	}
}
