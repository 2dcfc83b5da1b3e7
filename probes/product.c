/* product: the rate of a cube's matrix product through the device, in f32 and bf16, with all ranks of each host busy and with one
 * rank a host alone. The rate kept is that of the slowest rank, as a step waits for it. The cube is 1024 wide on processors, 8192
 * on devices that run behind the host: a GPU is not filled by less, and a processor takes seconds for more. */
#include "probes/parts.h"

#include "base/clock.h"
#include "base/stats.h"

#include <math.h>
#include <stdlib.h>

enum { HOST_CUBE = 1024, GPU_CUBE = 8192 };

static int64_t cube_of(const struct mt_device *device)
{
	return device->ops->async ? GPU_CUBE : HOST_CUBE;
}

struct product {
	struct mt_probe *probe;
	struct mt_op op;
	bool idle;
};

static enum mt_status run_product(void *context, int repeats, double *seconds)
{
	struct product *p = context;
	*seconds = 0;
	if (p->idle)
		return MT_OK;
	double start_s = mt_clock_s();
	for (int r = 0; r < repeats; r++)
		MT_TRY(mt_device_enqueue(p->probe->device, p->probe->stream, &p->op));
	MT_TRY(mt_stream_synchronize(p->probe->stream));
	*seconds = (mt_clock_s() - start_s) / repeats;
	return MT_OK;
}

/* Slowest rank's median and its MAD, in TFLOP/s. */
static enum mt_status add_rate(struct mt_probe *probe, const struct mt_probe_series *series, enum mt_dtype dtype, int busy)
{
	struct mt_machine *m = probe->machine;
	double median = mt_stats_median(series->own, (size_t)series->count);
	double v[2] = {median, median > 0 ? mt_stats_mad(series->own, (size_t)series->count) / median : 0};
	MT_TRY(mt_comm_host_all_reduce(probe->world, v, 2, MT_MAX));
	struct mt_machine_rate *rates = realloc(m->rates, (size_t)(m->rate_count + 1) * sizeof *rates);
	if (!rates)
		return mt_fail(MT_NOMEM, "probe: no memory for the rates");
	m->rates = rates;
	double cube = (double)cube_of(probe->device), tflops = 2 * cube * cube * cube / v[0] * 1e-12;
	m->rates[m->rate_count++] = (struct mt_machine_rate){dtype, probe->threads, busy, tflops, tflops * v[1]};
	return MT_OK;
}

static int most_local_ranks(const struct mt_machine *machine)
{
	int most = 1;
	for (int h = 0; h < machine->host_count; h++)
		most = machine->hosts[h].ranks > most ? machine->hosts[h].ranks : most;
	return most;
}

/* x, w and y in one range of the arena; x and w hold small numbers, never denormal ones, which some units multiply slowly. */
static enum mt_status prepare(struct mt_probe *probe, struct mt_arena *arena, enum mt_dtype dtype, struct mt_op *op, void **memory)
{
	const int64_t cube = cube_of(probe->device);
	size_t bytes = (size_t)(cube * cube) * mt_dtype_bytes(dtype);
	MT_TRY(mt_arena_alloc(arena, 3 * bytes, memory));
	char *x = *memory;
	struct mt_op fill = {.kind = MT_OP_FILL, .dtype = dtype};
	fill.move = (struct mt_move){.count = 3 * cube * cube,
				     .rows = 1,
				     .cols = 3 * cube * cube,
				     .dst_dtype = dtype,
				     .src_dtype = dtype,
				     .value = 0.03125,
				     .dst = x};
	MT_TRY(mt_device_enqueue(probe->device, probe->stream, &fill));
	*op = (struct mt_op){.kind = MT_OP_LINEAR, .dtype = dtype};
	op->linear = (struct mt_linear){.rows = cube, .in = cube, .out = cube, .x = x, .w = x + bytes, .y = x + 2 * bytes};
	return MT_OK;
}

static enum mt_status measure(struct mt_probe *probe, struct mt_arena *arena, enum mt_dtype dtype, double share_s)
{
	struct product p = {.probe = probe};
	struct mt_probe_series series;
	void *memory = NULL;
	int busy = most_local_ranks(probe->machine);
	enum mt_status st = prepare(probe, arena, dtype, &p.op, &memory);
	MT_GOTO(out, mt_probe_agree(probe, st));
	struct mt_probe_work work = {.run = run_product, .context = &p};
	MT_GOTO(out, mt_probe_sample(probe, &work, busy > 1 ? share_s / 2 : share_s, &series));
	MT_GOTO(out, add_rate(probe, &series, dtype, busy));
	if (busy > 1) {
		work.passive = p.idle = mt_fabric_local_rank(probe->fabric) != 0;
		MT_GOTO(out, mt_probe_sample(probe, &work, share_s / 2, &series));
		MT_GOTO(out, add_rate(probe, &series, dtype, 1));
	}
out:
	mt_arena_free(arena, memory);
	return st;
}

enum mt_status mt_probe_product(struct mt_probe *probe, double share_s)
{
	struct mt_arena *arena = NULL;
	const size_t most_bytes = 3 * (size_t)(cube_of(probe->device) * cube_of(probe->device)) * mt_dtype_bytes(MT_F32);
	enum mt_status st = mt_arena_create(&arena, "probe product", mt_device_memory(probe->device), most_bytes + (1u << 20));
	MT_GOTO(out, mt_probe_agree(probe, st));
	MT_GOTO(out, measure(probe, arena, MT_F32, share_s / 2));
	MT_GOTO(out, measure(probe, arena, MT_BF16, share_s / 2));
out:
	mt_arena_destroy(arena);
	return st;
}
