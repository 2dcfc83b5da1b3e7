/* gpu_device: the device that a program of gpu-check or gpu-bench works on, by name: any kind of the program's own, or "late", the
 * stand-in on the host of tests/late_device.h. So the same programs run where there is no GPU. And "wrong", which is "late" but
 * leaves out gradients of biases: what finds nothing wrong with it is no check. */
#ifndef TESTS_GPU_DEVICE_H
#define TESTS_GPU_DEVICE_H

#include "tests/late_device.h"

enum { NOT_POSSIBLE = 77 };

static inline enum mt_status wrong_enqueue(struct mt_device *device, struct mt_stream *stream, const struct mt_op *op)
{
	struct mt_op without = *op;
	if (mt_op_is_fused(op))
		without.linear.dbias = NULL;
	return op->kind == MT_OP_BIAS_GRAD ? MT_OK : late_enqueue(device, stream, &without);
}

static inline enum mt_status gpu_device_open(struct mt_device **device, const char *kind, int local_rank)
{
	if (strcmp(kind, "late") == 0)
		return late_device_create(device, "cpu", 0);
	if (strcmp(kind, "wrong") == 0) {
		static struct mt_device_ops ops;
		ops = late_ops;
		ops.enqueue = wrong_enqueue;
		return mt_device_create_from(device, &ops, &(struct mt_device_config){.kind = "cpu"});
	}
	/* The host's devices use what OMP_NUM_THREADS says. */
	return mt_device_create(device, &(struct mt_device_config){.kind = kind, .local_rank = local_rank});
}

/* What a program that cannot have its device ends with: its reason on stdout, its count, the exit status. */
static inline int gpu_device_missing(enum mt_status st)
{
	printf("%s\n0 passed, %d failed, %d skipped\n", mt_error_message(), st != MT_UNAVAILABLE, st == MT_UNAVAILABLE);
	return st == MT_UNAVAILABLE ? NOT_POSSIBLE : 4;
}

#endif
