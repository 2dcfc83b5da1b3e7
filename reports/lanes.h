/* lanes: the timeline of a step as rows of bars, few enough to draw. Inside of this room only.
 *
 * A lane is one stream of one rank. A step has many more kernels than a picture has pixels: neighbours on a lane
 * that are too narrow to be seen are joined (to the kind of the longest), and the width that counts as narrow is doubled
 * until all bars are at most LANES_MOST_BARS; work and waits are never joined. What is wide enough to be seen stays a bar of its
 * own, at its exact place. */
#ifndef MT_REPORTS_LANES_H
#define MT_REPORTS_LANES_H

#include "reports/record.h"

#define LANES_MOST      24
#define LANES_MOST_BARS 1500

/* Kernels are told apart by what bounds them: products and attention compute, the others move memory. */
enum bar_kind { BAR_PRODUCT, BAR_ATTENTION, BAR_OTHER, BAR_OPTIMIZER, BAR_COLLECTIVE, BAR_WAIT, BAR_KINDS };
extern const char *const mt_lanes_kind_names[BAR_KINDS];

struct bar {
	double start_s, end_s; /* from the start of the first span of all */
	enum bar_kind kind;
	double longest_s; /* of the spans joined in it; kind and name are of that one */
	int spans;
	const char *name; /* borrowed */
};

struct lane {
	int rank, stage;    /* stage -1: unknown */
	const char *stream; /* borrowed */
	struct bar *bars;   /* owned, by start */
	int count, spans;
	double busy_s[BAR_KINDS]; /* time covered, before joining; overlaps within a lane count once a span */
};

struct lanes {
	struct lane *lanes;  /* owned */
	int count, left_out; /* left_out: lanes beyond LANES_MOST */
	double length_s;
};

/* No timeline, or nothing usable in it: count 0. MT_NOMEM. */
enum mt_status mt_lanes_read(struct lanes *lanes, const struct record *record);
void mt_lanes_free(struct lanes *lanes);
/* Lanes that would be read, without reading them. */
int mt_lanes_count(const struct record *record);
/* Time of everything but waits. */
double mt_lanes_busy_s(const struct lane *lane);
/* "rank 0 compute", "stage 1 rank 2 compute" where there are several stages. */
void mt_lanes_label(const struct lanes *lanes, const struct lane *lane, char buf[128]);

#endif
