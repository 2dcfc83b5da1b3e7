/* embedding: how the scratch of its backward pass is laid out. */
#ifndef MT_KERNELS_CUDA_EMBEDDING_CUH
#define MT_KERNELS_CUDA_EMBEDDING_CUH

#include "kernels/cuda/vector.cuh"
#include "kernels/scratch.h"

#define RUN         MT_TABLE_RUN
#define RUN_THREADS 128
#define MOST_RUNS   65535 /* blocks across a grid's second dimension */
#define TILE        MT_TABLE_TILE
#define DIGITS      MT_TABLE_DIGITS

/* A row and its word; a row whose word is not in the table has the word `count`. */
struct sorted_row {
	unsigned word, row;
};

struct embedding_scratch {
	struct sorted_row *from, *to; /* (R) each: a pass of the sort reads one and writes the other */
	int *offsets;                 /* (DIGITS, tiles) */
	float *parts;                 /* (runs, C) */
	int64_t runs, tiles;
};

static inline struct embedding_scratch embedding_scratch_of(void *scratch, const struct mt_embedding *e)
{
	const struct mt_table_scratch sizes = mt_table_scratch_of(e->rows, e->cols);
	struct embedding_scratch s;
	char *base = static_cast<char *>(scratch);
	s.runs = sizes.runs, s.tiles = sizes.tiles;
	s.from = reinterpret_cast<struct sorted_row *>(base);
	s.to = reinterpret_cast<struct sorted_row *>(base + sizes.rows_bytes);
	s.offsets = reinterpret_cast<int *>(base + 2 * sizes.rows_bytes);
	s.parts = reinterpret_cast<float *>(base + 2 * sizes.rows_bytes + sizes.offsets_bytes);
	return s;
}

#endif
