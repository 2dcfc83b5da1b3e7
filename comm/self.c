/* self: the fabric of a job of one rank. Every group has one member, so comm.c does all of it locally. */
#include "comm/fabric.h"

#include <stdio.h>

static enum mt_status self_open(struct mt_fabric *fabric, const struct mt_fabric_config *config)
{
	fabric->rank = 0;
	fabric->size = 1;
	fabric->local_rank = 0;
	fabric->local_size = 1;
	snprintf(fabric->library, sizeof fabric->library, "one process");
	return mt_fabric_one_host(fabric);
}

const struct mt_fabric_ops mt_fabric_self = {
	.kind = "self",
	.open = self_open,
	.executes = true,
};
