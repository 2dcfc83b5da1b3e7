/* cpu: the fast host device. Matrix products through oneDNN (products.c), everything else through the kernels of the best
 * instruction set the processor has (isa/), shared out to OpenMP threads (elementwise.c).
 *
 * The environment variable MEGATUNE_ISA = avx512, avx2 or baseline lowers the instruction set, never raises it; below avx512
 * bf16 products are computed in f32. It governs this file's kernels; oneDNN has its own, ONEDNN_MAX_CPU_ISA.
 * Results do not depend on the number of threads, and are the same bits from run to run. */
#include "kernels/cpu/cpu.h"

#include "base/log.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#define SCRATCH_ALIGN 4096

/* Best last. */
static size_t available(const struct cpu_kernels *kernels[3])
{
	size_t count = 0;
#if defined(__x86_64__)
	__builtin_cpu_init();
	kernels[count++] = &mt_cpu_kernels_v2;
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
		kernels[count++] = &mt_cpu_kernels_v3;
	if (count == 2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
		kernels[count++] = &mt_cpu_kernels_v4;
#else
	kernels[count++] = &mt_cpu_kernels_base;
#endif
	return count;
}

static const struct cpu_kernels *choose(void)
{
	const struct cpu_kernels *kernels[3];
	const size_t count = available(kernels);
	const char *wanted = getenv("MEGATUNE_ISA");
	if (!wanted || !*wanted)
		return kernels[count - 1];
	for (size_t i = 0; i < count; i++)
		if (strcmp(kernels[i]->name, wanted) == 0)
			return kernels[i];
	mt_warn("MEGATUNE_ISA=%s is not one of avx512, avx2, baseline that this processor has: using %s", wanted,
		kernels[count - 1]->name);
	return kernels[count - 1];
}

/* True where oneDNN has bf16 instructions to use. */
static bool multiplies_bf16(const struct cpu_kernels *kernels)
{
#if defined(__x86_64__)
	if (strcmp(kernels->name, "avx512") != 0)
		return false;
	dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
	return isa == dnnl_cpu_isa_avx512_core_bf16 || isa == dnnl_cpu_isa_avx512_core_amx;
#else
	(void)kernels;
	return false;
#endif
}

static void read_name(char *name, size_t size)
{
	char line[256];
	FILE *file = fopen("/proc/cpuinfo", "r");
	snprintf(name, size, "CPU");
	while (file && fgets(line, sizeof line, file)) {
		const char *colon = strchr(line, ':');
		if (strncmp(line, "model name", 10) == 0 && colon) {
			snprintf(name, size, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
			break;
		}
	}
	if (file)
		fclose(file);
}

static void cpu_close(struct mt_device *device)
{
	struct cpu_device *cpu = device->backend;
	if (!cpu)
		return;
	mt_cpu_products_destroy(cpu);
	free(cpu->rope.values);
	free(cpu->sums);
	free(cpu->scratch);
	free(cpu);
	device->backend = NULL;
}

static enum mt_status cpu_open(struct mt_device *device, const struct mt_device_config *config)
{
	const dnnl_version_t *version = dnnl_version();
	struct cpu_device *cpu = calloc(1, sizeof *cpu);
	int threads = config->threads > 0 ? config->threads : omp_get_max_threads();
	if (!cpu)
		return mt_fail(MT_NOMEM, "cpu device: no memory");
	device->backend = cpu;
	cpu->threads = threads < CPU_MOST_THREADS ? threads : CPU_MOST_THREADS;
	cpu->kernels = choose();
	cpu->bf16_native = multiplies_bf16(cpu->kernels);
	enum mt_status st = mt_cpu_products_create(cpu);
	if (st != MT_OK) {
		cpu_close(device);
		return st;
	}
	device->info.kind = "cpu";
	read_name(device->info.name, sizeof device->info.name);
	snprintf(device->info.isa, sizeof device->info.isa, "%s", cpu->kernels->name);
	snprintf(device->info.libraries, sizeof device->info.libraries, "oneDNN %d.%d.%d", version->major, version->minor,
		 version->patch);
	device->info.threads = cpu->threads;
	device->info.bf16_native = cpu->bf16_native;
	device->info.executes = true;
	device->info.real_time = true;
	return MT_OK;
}

enum mt_status mt_cpu_reserve(struct cpu_device *cpu, size_t bytes)
{
	const size_t slice = (bytes / SCRATCH_ALIGN + 1) * SCRATCH_ALIGN, wanted = slice * (size_t)cpu->threads;
	if (cpu->scratch_bytes >= wanted)
		return MT_OK;
	free(cpu->scratch);
	cpu->scratch_bytes = 0;
	cpu->scratch = aligned_alloc(SCRATCH_ALIGN, wanted);
	if (!cpu->scratch)
		return mt_fail(MT_NOMEM, "cpu device: no memory for %zu bytes of scratch (%d threads)", wanted, cpu->threads);
	cpu->scratch_bytes = wanted;
	return MT_OK;
}

static bool is_float(enum mt_dtype dtype)
{
	return dtype == MT_F32 || mt_dtype_is_half(dtype);
}

/* Dtypes this device computes an op in. */
static bool has(const struct mt_op *op)
{
	const struct mt_move *move = &op->move;
	switch (op->kind) {
	case MT_OP_FILL:
	case MT_OP_COPY:
		return true;
	case MT_OP_CAST:
		return move->src_dtype == move->dst_dtype || (is_float(move->src_dtype) && is_float(move->dst_dtype));
	default:
		return is_float(op->dtype);
	}
}

static enum mt_status cpu_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op);

/* A product with an epilogue as the product and the kernels after it, so that it has their bits: its blocks are cut along the sum
 * too, where an epilogue would have to wait for the last. */
static enum mt_status enqueue_parts(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	struct mt_op parts[MT_OP_MOST_PARTS];
	int count = mt_op_parts(op, parts);
	for (int i = 0; i < count; i++)
		MT_TRY(cpu_enqueue(device, stream, &parts[i]));
	return MT_OK;
}

static enum mt_status cpu_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	if (!has(op))
		return mt_fail(MT_UNAVAILABLE,
			       "cpu device: %s has no %s form here (f32, bf16 and f16 only; the reference device has f64)",
			       mt_op_name(op->kind), mt_dtype_name(op->dtype));
	switch (op->kind) {
	case MT_OP_LINEAR:
	case MT_OP_LINEAR_DGRAD:
	case MT_OP_LINEAR_WGRAD:
		if (mt_op_is_fused(op))
			return enqueue_parts(device, stream, op);
		return mt_cpu_linear(device->backend, op);
	case MT_OP_GROUPED ... MT_OP_EXPERT_ACT_BWD:
		return mt_cpu_experts(device->backend, op);
	default:
		return mt_cpu_elementwise(device->backend, op);
	}
}

static const struct mt_arena_backing *cpu_memory(struct mt_device *device)
{
	(void)device;
	return &mt_arena_host;
}

const struct mt_device_ops mt_device_cpu_ops = {
	.kind = "cpu",
	.open = cpu_open,
	.close = cpu_close,
	.enqueue = cpu_enqueue,
	.upload = mt_host_copy,
	.download = mt_host_copy,
	.copy = mt_host_copy,
	.memory = cpu_memory,
};
