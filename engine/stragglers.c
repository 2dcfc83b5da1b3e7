/* stragglers: see stragglers.h.
 *
 * Only compute is compared: a slow rank computes for longer, and the others show their waiting for it in the collectives. */
#include "engine/stragglers.h"

#include "base/json.h"

#include <stdlib.h>

#define SLOWER 1.1

static int by_value(const void *a, const void *b)
{
	const double *p = a, *q = b;

	return (*p > *q) - (*p < *q);
}

/* The lower median of the compute of a stage: of two ranks the faster one. */
static double usual_compute(const struct mt_layout *layout, const double *all, int size, int stage, double *scratch)
{
	size_t count = 0;

	for (int rank = 0; rank < size; rank++) {
		if (mt_layout_coordinates(layout, rank).pp == stage)
			scratch[count++] = all[rank * MT_PHASES];
	}
	qsort(scratch, count, sizeof *scratch, by_value);
	return count ? scratch[(count - 1) / 2] : 0;
}

enum mt_status mt_stragglers_find(json_t **report, struct mt_group *world, const struct mt_fabric *fabric,
				  const struct mt_layout *layout, const double phases[MT_PHASES])
{
	static const char *const names[MT_PHASES] = {"compute_s", "tp_s", "dp_s", "pp_s", "optimizer_s"};
	int size = mt_group_size(world);
	double *all = calloc((size_t)size * MT_PHASES, sizeof *all), *scratch = calloc((size_t)size, sizeof *scratch);
	json_t *ranks = json_array(), *slow = json_array();
	enum mt_status st;

	*report = NULL;
	if (!all || !scratch) {
		st = mt_fail(MT_NOMEM, "no memory for the phases of %d ranks", size);
		goto out;
	}
	MT_GOTO(out, mt_comm_host_all_gather(world, phases, all, MT_PHASES * sizeof *all));
	for (int rank = 0; rank < size; rank++) {
		int stage = mt_layout_coordinates(layout, rank).pp;
		json_t *entry = json_pack("{s:i, s:s, s:i}", "rank", rank, "host", mt_fabric_host(fabric, rank), "stage", stage);

		for (int i = 0; i < MT_PHASES; i++)
			json_object_set_new(entry, names[i], mt_json_number(all[rank * MT_PHASES + i]));
		json_array_append_new(ranks, entry);
		if (all[rank * MT_PHASES] > SLOWER * usual_compute(layout, all, size, stage, scratch))
			json_array_append_new(slow, json_integer(rank));
	}
	*report = json_pack("{s:O, s:O}", "rank", ranks, "stragglers", slow);
out:
	json_decref(slow);
	json_decref(ranks);
	free(scratch);
	free(all);
	return st;
}
