/* context_rows: which rows of a sequence are where, see context.h. */
#include "engine/context.h"

int mt_context_inner(const struct mt_layout *layout)
{
	int64_t inner = layout->cp_kind == MT_CONTEXT_ULYSSES  ? layout->cp
			: layout->cp_kind == MT_CONTEXT_HYBRID ? layout->cp_inner
							       : 1;

	return inner < 1 || inner > layout->cp ? 1 : (int)inner;
}

int mt_context_outer(const struct mt_layout *layout)
{
	return (int)layout->cp / mt_context_inner(layout);
}

int64_t mt_context_rank_rows(const struct mt_layout *layout)
{
	return layout->seq / layout->cp;
}

int64_t mt_context_part_rows(const struct mt_layout *layout)
{
	return layout->seq / mt_context_outer(layout);
}

int64_t mt_context_part_row(const struct mt_layout *layout, int part, int64_t row)
{
	int outer = mt_context_outer(layout);
	int64_t half = layout->seq / (2 * outer);

	return row < half ? part * half + row : (2 * outer - 1 - part) * half + row - half;
}

int64_t mt_context_rank_row(const struct mt_layout *layout, int cp, int64_t row)
{
	int inner = mt_context_inner(layout);

	return mt_context_part_row(layout, cp / inner, cp % inner * mt_context_rank_rows(layout) + row);
}

int64_t mt_context_first_at(const struct mt_layout *layout, int part, int64_t at)
{
	int outer = mt_context_outer(layout);
	int64_t half = layout->seq / (2 * outer), rows = mt_context_part_rows(layout);
	int64_t first = part * half, second = (2 * outer - 1 - part) * half, row;

	if (at < first + half)
		return at > first ? at - first : 0;
	row = at > second ? half + at - second : half;
	return row < rows ? row : rows;
}

int mt_context_start_arrays(const struct mt_layout *layout)
{
	return layout->cp_kind == MT_CONTEXT_ALL_GATHER ? 1 : mt_context_outer(layout);
}

int64_t mt_context_document_bytes(const struct mt_layout *layout, int64_t window)
{
	int64_t arrays = mt_context_start_arrays(layout) * (window > 0 && mt_context_windows_apart(layout) ? 2 : 1);
	int64_t rows = mt_context_rank_rows(layout) + arrays * mt_context_part_rows(layout);

	return layout->documents == MT_DOCUMENTS_APART ? layout->mbs * rows * (int64_t)sizeof(int32_t) : 0;
}

bool mt_context_windows_apart(const struct mt_layout *layout)
{
	return mt_context_outer(layout) > 1 && layout->cp_kind != MT_CONTEXT_ALL_GATHER;
}

void mt_context_starts(const struct mt_layout *layout, int part, const int32_t *starts, int64_t window, int32_t *arrays)
{
	int64_t rows = mt_context_part_rows(layout);
	bool gathered = layout->cp_kind == MT_CONTEXT_ALL_GATHER;

	for (int source = 0; source < mt_context_start_arrays(layout); source++) {
		for (int64_t b = 0; b < layout->mbs; b++) {
			for (int64_t row = 0; row < rows; row++) {
				int64_t at = mt_context_part_row(layout, part, row);
				int64_t start = starts ? starts[b * layout->seq + at] : 0;

				if (window > 0 && start < at - window + 1)
					start = at - window + 1;
				*arrays++ = (int32_t)(gathered ? start : mt_context_first_at(layout, source, start));
			}
		}
	}
}
