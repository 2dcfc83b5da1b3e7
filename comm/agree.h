/* agree: what the members of a group must agree on in a collective, and the message that names the one that differs. */
#ifndef MT_COMM_AGREE_H
#define MT_COMM_AGREE_H

#include "comm/fabric.h"

/* Sent as bytes between the ranks of one job: fixed widths, no padding. */
struct mt_comm_signature {
	int32_t op, dtype, reduction, root;
	int64_t count;
	uint64_t sequence; /* of the collectives of the group, from 0 */
};

struct mt_comm_signature mt_comm_sign(const struct mt_comm_call *call, uint64_t sequence);
/* MT_FAILED when the signatures (one a group rank) are not all equal; the message names a rank that differs from most. */
enum mt_status mt_comm_agree(const struct mt_group *group, const struct mt_comm_signature *signatures);

#endif
