/* placement: which device each rank of a layout runs on, from the links that were measured between pairs. */
#ifndef MT_TUNER_PLACEMENT_H
#define MT_TUNER_PLACEMENT_H

#include "engine/run.h"
#include "probes/machine.h"

/* Orders of ranks that have a name: which dimension varies faster, tp first. The engine numbers its ranks in the first, in which
 * the replicas of a stage lie together; in the second the stages of a pipeline do. */
enum mt_rank_order { MT_RANKS_DP_PP, MT_RANKS_PP_DP, MT_RANK_ORDERS };
extern const char *const mt_rank_order_names[]; /* "tp-cp-ep-dp-pp", as Megatron-Core has it */

/* What the ranks of a layout send in a step, and where. */
struct mt_placement {
	int world;
	int *device;       /* owned: of each rank; devices are numbered in the launcher's order */
	double launcher_s; /* communication of a step with rank r on device r */
	double placed_s;   /* with this placement; never more */
};

/* True when pairs of devices differ, so that the order matters. */
bool mt_placement_matters(const struct mt_machine *machine);
/* Greedy, then annealing with a fixed seed: the same input gives the same placement. The machine must have been probed with as many
 * ranks as the layout has: MT_UNAVAILABLE otherwise. */
enum mt_status mt_placement_find(struct mt_placement *placement, const struct mt_machine *machine, const struct mt_model *model,
				 const struct mt_layout *layout);
/* The devices of a machine whose pairs are known, neighbours next to one another: each the nearest to the one before that is left.
 * In a hierarchy of links that is host by host, rack by rack. device: an entry a rank. */
enum mt_status mt_placement_sorted(const struct mt_machine *machine, int *device);
void mt_placement_free(struct mt_placement *placement);
/* Seconds of communication of a step for a given device of each rank; collectives of one kind at once, the slowest counts. */
double mt_placement_cost(const struct mt_machine *machine, const struct mt_model *model, const struct mt_layout *layout,
			 const int *device);
/* "0,2,1,3" (free() it), and back into an entry a rank of the layout: the name of an order too; MT_INPUT unless that, or each
 * device once. */
char *mt_placement_text(const struct mt_placement *placement);
enum mt_status mt_placement_read(const char *text, const struct mt_layout *layout, int *device);
/* The named order that the text says for the layout, by name or number by number; -1: none, or it cannot be read. */
int mt_placement_named(const char *text, const struct mt_layout *layout);

#endif
