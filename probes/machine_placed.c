/* machine_placed: a machine as ranks see it that were put in another order than the launcher's. What is of a rank goes with its
 * device: host, links, islands. Curves were measured on groups of the launcher's order; machine_comm.c takes them in the proportion
 * of what both orders do to the links. */
#include "probes/machine_flows.h"

#include <stdlib.h>

enum mt_status mt_machine_place(struct mt_machine *placed, const struct mt_machine *m, const int *device)
{
	size_t world = (size_t)m->world;
	enum mt_status st;

	*placed = *m;
	placed->launched = m;
	placed->islands = NULL;
	placed->rank_host = malloc(world * sizeof *placed->rank_host);
	placed->pair_class = m->pair_class ? malloc(world * world * sizeof *placed->pair_class) : NULL;
	if (!placed->rank_host || (m->pair_class && !placed->pair_class)) {
		mt_machine_unplace(placed);
		return mt_fail(MT_NOMEM, "no memory for the placement of %d ranks", m->world);
	}
	for (int a = 0; a < m->world; a++) {
		placed->rank_host[a] = m->rank_host[device[a]];
		for (int b = 0; b < m->world && m->pair_class; b++)
			placed->pair_class[(int64_t)a * m->world + b] = m->pair_class[(int64_t)device[a] * m->world + device[b]];
	}
	st = mt_machine_find_islands(placed);
	if (st != MT_OK)
		mt_machine_unplace(placed);
	return st;
}

void mt_machine_unplace(struct mt_machine *placed)
{
	if (placed->launched) {
		free(placed->rank_host);
		free(placed->pair_class);
		free(placed->islands);
	}
	*placed = (struct mt_machine){0};
}
