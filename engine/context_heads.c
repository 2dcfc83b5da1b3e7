/* context_heads: heads for rows (Ulysses; Jacobs et al. 2023, arXiv:2309.14509). The u ranks of a part hold T rows each of its
 * sequences with all heads; after one all-to-all each holds all u*T rows with a share of the heads.
 *
 * The columns for rank d are packed as one block (B,T,w), w a u-th of all columns; blocks that arrive come from ranks in
 * the order of their rows, so for one sequence they already lie as they should. */
#include "engine/context_private.h"

/* Columns of all, for one rank. */
static int64_t share_of(const struct mt_engine *e, const struct mt_context_columns *columns, int count)
{
	int64_t sum = 0;

	for (int i = 0; i < count; i++)
		sum += columns[i].cols;
	return sum / mt_context_inner(e->layout);
}

/* Between this rank's rows and the blocks (u, R, w): to the blocks, or back. */
static enum mt_status pack(struct mt_engine *e, const struct mt_context_columns *columns, int count, void *blocks, bool back)
{
	int inner = mt_context_inner(e->layout);
	int64_t w = share_of(e, columns, count);

	for (int d = 0; d < inner; d++) {
		int64_t column = d * e->rows * w;

		for (int i = 0; i < count; i++) {
			int64_t cols = columns[i].cols / inner;
			void *mine = mt_context_at(e, columns[i].base, d * cols), *block = mt_context_at(e, blocks, column);

			if (back)
				MT_TRY(mt_context_copy(e, block, w, mine, columns[i].stride, e->rows, cols));
			else
				MT_TRY(mt_context_copy(e, mine, columns[i].stride, block, w, e->rows, cols));
			column += cols;
		}
	}
	return MT_OK;
}

/* Between blocks (u, B, T, w) and sequences (B, u, T, w): of one sequence they are the same. */
static enum mt_status order(struct mt_engine *e, const void *from, void *to, int64_t w, bool back)
{
	int inner = mt_context_inner(e->layout);
	int64_t block = e->seq * w, mbs = e->layout->mbs;

	for (int s = 0; s < inner; s++) {
		int64_t in_blocks = s * mbs * block, in_sequences = s * block;

		if (back)
			MT_TRY(mt_context_copy(e, mt_context_at(e, from, in_sequences), inner * block,
					       mt_context_at(e, to, in_blocks), block, mbs, block));
		else
			MT_TRY(mt_context_copy(e, mt_context_at(e, from, in_blocks), block, mt_context_at(e, to, in_sequences),
					       inner * block, mbs, block));
	}
	return MT_OK;
}

static enum mt_status exchange(struct mt_engine *e, const void *send, void *receive, int64_t w)
{
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_comm_all_to_all(e->heads, e->compute, send, receive, e->rows * w, e->dtype));
	return mt_lap_end(e, &start, &e->cp_s);
}

enum mt_status mt_context_to_part(struct mt_engine *e, const struct mt_context_columns *columns, int count, void **whole)
{
	int64_t w = share_of(e, columns, count), elements = mt_context_inner(e->layout) * e->rows * w;
	void *send, *received;

	MT_TRY(mt_context_alloc(e, elements, &send));
	MT_TRY(pack(e, columns, count, send, false));
	MT_TRY(mt_context_alloc(e, elements, &received));
	MT_TRY(exchange(e, send, received, w));
	mt_engine_release(e, &send);
	*whole = received;
	if (e->layout->mbs == 1)
		return MT_OK;
	MT_TRY(mt_context_alloc(e, elements, whole));
	MT_TRY(order(e, received, *whole, w, false));
	mt_engine_release(e, &received);
	return MT_OK;
}

enum mt_status mt_context_from_part(struct mt_engine *e, const void *whole, const struct mt_context_columns *columns, int count)
{
	int64_t w = share_of(e, columns, count), elements = mt_context_inner(e->layout) * e->rows * w;
	void *ordered = NULL, *received;

	if (e->layout->mbs > 1) {
		MT_TRY(mt_context_alloc(e, elements, &ordered));
		MT_TRY(order(e, whole, ordered, w, true));
	}
	MT_TRY(mt_context_alloc(e, elements, &received));
	MT_TRY(exchange(e, ordered ? ordered : whole, received, w));
	if (ordered)
		mt_engine_release(e, &ordered);
	MT_TRY(pack(e, columns, count, received, true));
	mt_engine_release(e, &received);
	return MT_OK;
}
