/* context: context parallelism. The rows of each sequence are split over cp ranks; everything but attention works row by row.
 *
 * cp = inner * outer ranks, inner fastest. A sequence is cut into `outer` parts, each of two halves: part i has the i-th and
 * the (2*outer-1-i)-th of 2*outer chunks, so that each has as much to do under the causal mask (zig-zag). The inner ranks of a part
 * share its rows, cut as they lie. For attention they exchange heads for rows (Ulysses: each gets all rows of the part and a share
 * of the heads; Jacobs et al. 2023, arXiv:2309.14509), and the parts reach each other's keys and values by a ring (Liu et al. 2023,
 * arXiv:2310.01889) or by gathering them. ring, allgather: inner = 1; ulysses: outer = 1; hybrid: both, with a ring. */
#ifndef MT_ENGINE_CONTEXT_H
#define MT_ENGINE_CONTEXT_H

#include "engine/layout.h"

int mt_context_inner(const struct mt_layout *layout); /* at least 1, whatever the layout says */
int mt_context_outer(const struct mt_layout *layout);
/* Rows of a sequence on a rank, and of a part. */
int64_t mt_context_rank_rows(const struct mt_layout *layout);
int64_t mt_context_part_rows(const struct mt_layout *layout);
/* Where row `row` of part `part` is in the sequence; and of context-parallel rank `cp`. It grows with the row. */
int64_t mt_context_part_row(const struct mt_layout *layout, int part, int64_t row);
int64_t mt_context_rank_row(const struct mt_layout *layout, int cp, int64_t row);
/* The first row of a part that is at or after row `at` of the sequence; the part's rows when there is none. */
int64_t mt_context_first_at(const struct mt_layout *layout, int part, int64_t at);
/* With documents apart: for the attention of the rows of `part` (kernels/op.h), how many arrays of first rows there are, each of a
 * part's rows a sequence: one for each part whose keys come by, or one for all when they are gathered. */
int mt_context_start_arrays(const struct mt_layout *layout);
/* Bytes of a micro-batch's positions and first rows, those of a window too; 0: documents are joined. */
int64_t mt_context_document_bytes(const struct mt_layout *layout, int64_t window);
/* Those arrays, (arrays, mbs, part rows), from starts(mbs, seq): where the document of each row begins in the sequence; NULL: it is
 * one document. `window` rows are seen at most (0: no limit): for rings, whose keys do not lie one after the other. */
void mt_context_starts(const struct mt_layout *layout, int part, const int32_t *starts, int64_t window, int32_t *arrays);
/* Whether windows are seen to by such arrays and not by the operation. */
bool mt_context_windows_apart(const struct mt_layout *layout);

#endif
