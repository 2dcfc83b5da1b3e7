/* scratch: what the CUDA device holds beside its users' arenas, as functions of the operation: the device itself asks them how much
 * it takes, and the dry device of a GPU how much it would. For C and C++.
 *
 * Each compute stream has scratch that grows to the most that one of its operations needs: partial sums, the workspace of
 * cuBLASLt's products, the sort of a table's gradient. What cuDNN asks for beside it (MT_GPU_CUDNN_BYTES at most) is known only
 * where it is chosen, by measuring, so the dry device counts the most for every attention that may be its. */
#ifndef MT_KERNELS_SCRATCH_H
#define MT_KERNELS_SCRATCH_H

#include "kernels/op.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MT_GPU_MOST_PARTS  512                 /* that a sum over rows is cut in */
#define MT_GPU_CUDNN_BYTES ((size_t)256 << 20) /* most that a plan of cuDNN's may ask for */
/* Pinned host memory that copies go through: slots of small uploads, so that the host can run ahead, and of parts of large ones. */
#define MT_GPU_SMALL_SLOTS      64
#define MT_GPU_SMALL_SLOT_BYTES ((size_t)256 << 10)
#define MT_GPU_LARGE_SLOTS      2
#define MT_GPU_LARGE_SLOT_BYTES ((size_t)8 << 20)
#define MT_GPU_PINNED_BYTES     (MT_GPU_SMALL_SLOTS * MT_GPU_SMALL_SLOT_BYTES + MT_GPU_LARGE_SLOTS * MT_GPU_LARGE_SLOT_BYTES)

/* How the scratch of a table's gradient from R rows is laid out. */
#define MT_TABLE_RUN    32   /* sorted rows of a block */
#define MT_TABLE_TILE   1024 /* rows that a block of the sort takes */
#define MT_TABLE_DIGITS 256
struct mt_table_scratch {
	int64_t runs, tiles;
	size_t rows_bytes, offsets_bytes; /* of one of the two lists of rows; of the counts behind them */
	size_t bytes;                     /* of all, with (runs, C) f32 last */
};
struct mt_table_scratch mt_table_scratch_of(int64_t rows, int64_t cols);

/* What a kernel of our own needs; 0 for most. */
size_t mt_gpu_kernel_scratch_bytes(const struct mt_op *op);
/* The workspace of every product on a GPU of this architecture (80, 90, ..), whichever algorithm is chosen. */
size_t mt_gpu_workspace_bytes(int arch);
/* The most that an operation takes, however it is done. */
size_t mt_gpu_scratch_bytes(const struct mt_op *op, int arch);

#ifdef __cplusplus
}
#endif
#endif
