/* embedding: how the scratch of its backward pass is laid out. */
#ifndef MT_KERNELS_CUDA_EMBEDDING_CUH
#define MT_KERNELS_CUDA_EMBEDDING_CUH

#include "kernels/cuda/vector.cuh"

#define RUN         32 /* sorted rows of a block */
#define RUN_THREADS 128
#define MOST_RUNS   65535 /* blocks across a grid's second dimension */
#define TILE        1024  /* rows that a block of the sort takes */
#define DIGITS      256

/* A row and its word; a row whose word is not in the table has the word `count`. */
struct sorted_row {
	unsigned word, row;
};

struct embedding_scratch {
	struct sorted_row *from, *to; /* (R) each: a pass of the sort reads one and writes the other */
	int *offsets;                 /* (DIGITS, tiles) */
	float *parts;                 /* (runs, C) */
	int64_t runs, tiles;
	size_t bytes;
};

static inline size_t round_256(size_t bytes)
{
	return (bytes + 255) / 256 * 256;
}

static inline struct embedding_scratch embedding_scratch_of(void *scratch, const struct mt_embedding *e)
{
	struct embedding_scratch s;
	char *base = static_cast<char *>(scratch);
	s.runs = divide_up(e->rows, RUN), s.tiles = divide_up(e->rows, TILE);
	const size_t rows_bytes = round_256((size_t)e->rows * sizeof(struct sorted_row));
	const size_t offsets_bytes = round_256((size_t)(DIGITS * s.tiles) * sizeof(int));
	s.bytes = 2 * rows_bytes + offsets_bytes + (size_t)(s.runs * e->cols) * sizeof(float);
	s.from = reinterpret_cast<struct sorted_row *>(base);
	s.to = reinterpret_cast<struct sorted_row *>(base + rows_bytes);
	s.offsets = reinterpret_cast<int *>(base + 2 * rows_bytes);
	s.parts = reinterpret_cast<float *>(base + 2 * rows_bytes + offsets_bytes);
	return s;
}

#endif
