/* embedding: y(R,C) = table[token - first] for tokens in [first, first + count), else 0, plus position[t];
 *            dtable[token - first] += dy,  dposition[t] += dy, in row order.
 * table (count,C), position (T,C); row i of the R given is row first_row + i of the micro-batch, at t = that mod T, or at
 * t = positions[i] when those are given.
 * The zeros of the other ranks' words make the sum over ranks the whole lookup: Shoeybi et al. 2019, arXiv:1909.08053. */
#include "kernels/reference/reference.h"

/* Row of the table that holds the word at row r, or -1. */
static int64_t table_row(const struct mt_embedding *e, int64_t r)
{
	int64_t word = ((const int32_t *)e->tokens)[r] - e->first;
	return word >= 0 && word < e->count ? word : -1;
}

static int64_t position_of(const struct mt_embedding *e, int64_t r)
{
	return e->positions ? ((const int32_t *)e->positions)[r] : (e->first_row + r) % e->seq;
}

enum mt_status mt_reference_embedding(const struct mt_op *op)
{
	const struct mt_embedding *e = &op->embedding;
	enum mt_dtype dtype = op->dtype;
	for (int64_t r = 0; r < e->rows; r++) {
		int64_t word = table_row(e, r), t = position_of(e, r);
		for (int64_t c = 0; c < e->cols; c++) {
			double y = word < 0 ? 0 : load(dtype, e->table, word * e->cols + c);
			if (e->position)
				y += load(dtype, e->position, t * e->cols + c);
			store(dtype, e->y, r * e->cols + c, y);
		}
	}
	return MT_OK;
}

enum mt_status mt_reference_embedding_bwd(const struct mt_op *op)
{
	const struct mt_embedding *e = &op->embedding;
	for (int64_t r = 0; r < e->rows; r++) {
		int64_t word = table_row(e, r), t = position_of(e, r);
		for (int64_t c = 0; c < e->cols; c++) {
			double dy = load(op->dtype, e->dy, r * e->cols + c);
			if (e->dtable && word >= 0)
				accumulate(wide(op), e->dtable, word * e->cols + c, dy);
			if (e->dposition)
				accumulate(wide(op), e->dposition, t * e->cols + c, dy);
		}
	}
	return MT_OK;
}
