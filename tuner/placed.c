/* placed: the placement of a layout on the session's machine, where its links differ. */
#include "base/json.h"
#include "base/log.h"
#include "tuner/placement.h"
#include "tuner/session.h"

#include <stdlib.h>

char *mt_session_rank_order(const struct mt_session *session, const struct mt_layout *layout, json_t **document)
{
	struct mt_placement p;
	char *text = NULL;

	if (document)
		*document = NULL;
	if (!mt_placement_matters(&session->machine) || mt_layout_world(layout) != session->machine.world)
		return NULL;
	if (mt_placement_find(&p, &session->machine, &session->model, layout) != MT_OK) {
		mt_warn("no placement: %s", mt_error_message());
		mt_error_clear();
		return NULL;
	}
	if (document)
		*document = json_pack("{s:f,s:f,s:f}", "launcher_s", p.launcher_s, "placed_s", p.placed_s, "gain_frac",
				      p.launcher_s > 0 ? 1 - p.placed_s / p.launcher_s : 0.0);
	if (p.placed_s < p.launcher_s)
		text = mt_placement_text(&p);
	if (document && *document)
		json_object_set_new(*document, "rank_order", text ? json_string(text) : json_null());
	mt_placement_free(&p);
	return text;
}
