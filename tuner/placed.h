/* placed: candidates whose ranks run in another order than the launcher's, on the session's machine where its links differ. */
#ifndef MT_TUNER_PLACED_H
#define MT_TUNER_PLACED_H

#include "tuner/session.h"

/* What a candidate costs where its ranks are. */
struct mt_placed {
	struct mt_machine machine; /* owned: of a candidate that is placed */
	struct mt_cost_model own;
	struct mt_cost_model *cost; /* to predict with: the session's, or `own` */
};
/* MT_OK also for a candidate in the launcher's order. Close it; not after a failure. */
enum mt_status mt_placed_open(struct mt_placed *placed, struct mt_session *session, const struct mt_candidate *candidate);
void mt_placed_close(struct mt_placed *placed);

/* After all candidates were predicted in the launcher's order, and sorted: of each tp, cp, pp and dp as many as are dry
 * run are predicted anew by cards, in a few orders of ranks. Those that gain keep the best; the candidates are sorted again.
 * Nothing where links are alike, or not known between so many ranks. */
enum mt_status mt_placed_search(struct mt_session *session);
/* A candidate predicted by cards in the launcher's order: in that of `like` too, of the same sizes, which it keeps where that is
 * faster. */
enum mt_status mt_placed_alike(struct mt_session *session, struct mt_candidate *candidate, const struct mt_candidate *like);
/* Dry run; of a candidate that is placed in both orders: the faster one stays. */
enum mt_status mt_placed_dry_run(struct mt_session *session, struct mt_candidate *candidate);
/* {launcher_s, placed_s, gain_frac, rank_order, launcher_step_s, step_s} of a candidate for which a placement was looked for. */
json_t *mt_placed_json(const struct mt_session *session, const struct mt_candidate *candidate);

#endif
