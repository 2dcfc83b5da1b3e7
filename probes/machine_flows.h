/* machine_flows: inside probes. Messages between ranks that are under way at once, and what links they share. */
#ifndef MT_PROBES_MACHINE_FLOWS_H
#define MT_PROBES_MACHINE_FLOWS_H

#include "probes/machine.h"

/* Who sends to whom in every group of `size` ranks `stride` apart (ranks r, r + stride, ...), all groups at once. */
struct mt_flows {
	enum {
		MT_FLOWS_EDGE,       /* one member, `from`, to another, `to` */
		MT_FLOWS_RING,       /* each to the next, the last to the first */
		MT_FLOWS_EVEN_PAIRS, /* 0 to 1, 2 to 3, ...: the two halves of the probe's sweep of messages */
		MT_FLOWS_ODD_PAIRS   /* 1 to 2, 3 to 4, ... */
	} pattern;
	int size, stride, from, to;
};

/* Of the slowest message. Both 0: nothing is known. */
struct mt_flow_cost {
	double latency_s, s_per_byte;
};
struct mt_flow_cost mt_machine_flows(const struct mt_machine *machine, const struct mt_flows *flows);

/* Fills machine->islands from its classes, and pair_class or else the hosts. */
enum mt_status mt_machine_find_islands(struct mt_machine *machine);

#endif
