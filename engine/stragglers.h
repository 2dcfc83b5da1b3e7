/* stragglers: what every rank's step is made of, and which ranks hold the others up. */
#ifndef MT_ENGINE_STRAGGLERS_H
#define MT_ENGINE_STRAGGLERS_H

#include "comm/comm.h"
#include "engine/layout.h"

#include <jansson.h>

enum { MT_PHASES = 5 }; /* compute, tp, dp, pp, optimizer seconds of a step */

/* Collective. `phases`: this rank's medians. *report: {"rank": [{"rank", "host", "stage", "compute_s", ...}], "stragglers":
 * [rank]}. A straggler computes for more than a tenth longer than the median rank of its stage, whose ranks all do the same work.
 */
enum mt_status mt_stragglers_find(json_t **report, struct mt_group *world, const struct mt_fabric *fabric,
				  const struct mt_layout *layout, const double phases[MT_PHASES]);

#endif
