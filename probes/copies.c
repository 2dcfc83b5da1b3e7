/* copies: between the host and the device, within the device, and what its memory gives, all through the device's own functions,
 * so that one piece of code measures a processor and a GPU. All ranks of a host run at once; the rate kept is that of the
 * slowest rank. On a device whose memory is the host's, a copy to it is a copy in memory.
 *
 * Both ways at once is an upload on one stream and a download on another, without waiting between them; where the upload has to be
 * staged by the host the two overlap in part only, and that is what a training run would see too. */
#include "probes/parts.h"

#include "base/clock.h"
#include "base/stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES  (64ll << 20)
#define LEAST_BYTES (1ll << 20)

enum what { TO_DEVICE, FROM_DEVICE, BOTH, LOCAL, SUM, WHATS };

struct copies {
	struct mt_probe *probe;
	struct mt_stream *other; /* owned: for the way back */
	struct mt_arena *arena;  /* owned */
	char *host;              /* owned: two buffers */
	char *a, *b, *c;         /* device memory */
	int64_t bytes;
	enum what what;
};

static enum mt_status run_once(struct copies *x)
{
	struct mt_device *device = x->probe->device;
	struct mt_stream *stream = x->probe->stream;
	struct mt_op op = {.dtype = MT_F32};
	const int64_t count = x->bytes / 4;

	switch (x->what) {
	case TO_DEVICE:
		return mt_device_upload(device, stream, x->a, x->host, (size_t)x->bytes);
	case FROM_DEVICE:
		return mt_device_download(device, stream, x->host, x->a, (size_t)x->bytes);
	case BOTH:
		MT_TRY(mt_device_upload(device, stream, x->a, x->host, (size_t)x->bytes));
		return mt_device_download(device, x->other, x->host + x->bytes, x->b, (size_t)x->bytes);
	case LOCAL:
		op.kind = MT_OP_COPY;
		op.move = (struct mt_move){.count = count,
					   .rows = 1,
					   .cols = count,
					   .src_stride = count,
					   .dst_stride = count,
					   .src_dtype = MT_F32,
					   .dst_dtype = MT_F32,
					   .src = x->a,
					   .dst = x->b};
		return mt_device_enqueue(device, stream, &op);
	default:
		op.kind = MT_OP_ADD;
		op.add = (struct mt_add){.rows = count / 1024, .cols = 1024, .a = x->a, .b = x->b, .out = x->c};
		return mt_device_enqueue(device, stream, &op);
	}
}

static enum mt_status run_copies(void *context, int repeats, double *seconds)
{
	struct copies *x = context;
	double start_s = mt_clock_s();
	for (int i = 0; i < repeats; i++)
		MT_TRY(run_once(x));
	MT_TRY(mt_stream_synchronize(x->probe->stream));
	*seconds = (mt_clock_s() - start_s) / repeats;
	return MT_OK;
}

/* The same on all ranks: budget, and memory of the fullest host. */
static int64_t plan_bytes(const struct mt_probe *probe, double share_s)
{
	double bytes = fmin(MOST_BYTES, share_s / 10 * 1e9);
	bytes = fmin(bytes, (double)probe->machine->rank_memory_bytes / 16);
	return (int64_t)fmax(LEAST_BYTES, bytes) / 4096 * 4096;
}

static enum mt_status prepare(struct copies *x)
{
	struct mt_device *device = x->probe->device;
	x->host = malloc(2 * (size_t)x->bytes);
	if (!x->host)
		return mt_fail(MT_NOMEM, "probe: no memory for copies of %lld bytes", (long long)x->bytes);
	memset(x->host, 0, 2 * (size_t)x->bytes);
	MT_TRY(mt_stream_create(device, MT_STREAM_COMPUTE, "probe back", &x->other));
	MT_TRY(mt_arena_create(&x->arena, "probe copies", mt_device_memory(device), 3 * (size_t)x->bytes + (1u << 20)));
	MT_TRY(mt_arena_alloc(x->arena, (size_t)x->bytes, (void **)&x->a));
	MT_TRY(mt_arena_alloc(x->arena, (size_t)x->bytes, (void **)&x->b));
	MT_TRY(mt_arena_alloc(x->arena, (size_t)x->bytes, (void **)&x->c));
	MT_TRY(mt_device_upload(device, x->probe->stream, x->a, x->host, (size_t)x->bytes));
	MT_TRY(mt_device_upload(device, x->probe->stream, x->b, x->host, (size_t)x->bytes));
	MT_TRY(mt_device_upload(device, x->probe->stream, x->c, x->host, (size_t)x->bytes));
	return mt_stream_synchronize(x->probe->stream);
}

enum mt_status mt_probe_copies(struct mt_probe *probe, double share_s)
{
	static const double moved[WHATS] = {1, 1, 2, 2, 3}; /* times the bytes of an array */
	struct copies x = {.probe = probe, .bytes = plan_bytes(probe, share_s)};
	struct mt_machine_copies *kept = &probe->machine->copies;
	double *const rates[WHATS] = {&kept->to_device_gbps, &kept->from_device_gbps, &kept->both_ways_gbps, &kept->local_gbps,
				      &kept->memory_gbps};
	struct mt_probe_work work = {.run = run_copies, .context = &x};
	struct mt_probe_series series;
	enum mt_status st = MT_OK;
	if (!probe->device->info.executes)
		return MT_OK;
	MT_GOTO(out, mt_probe_agree(probe, prepare(&x)));
	for (x.what = TO_DEVICE; x.what < WHATS; x.what++) {
		MT_GOTO(out, mt_probe_sample(probe, &work, share_s / WHATS, &series));
		double median = mt_stats_median(series.slowest, (size_t)series.count);
		*rates[x.what] = median > 0 ? moved[x.what] * (double)x.bytes / median * 1e-9 : 0;
	}
	kept->bytes = x.bytes;
out:
	mt_arena_destroy(x.arena);
	mt_stream_destroy(x.other);
	free(x.host);
	return st;
}
