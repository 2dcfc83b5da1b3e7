/* block: a part of a fabric that looks like a whole one, so that jobs smaller than the world run side by side in it. */
#include "comm/fabric.h"

#include <stdlib.h>
#include <string.h>

enum mt_status mt_fabric_block(struct mt_fabric **block, struct mt_fabric *fabric, int size)
{
	struct mt_fabric *b;

	*block = NULL;
	if (size < 1 || fabric->size % size)
		return mt_fail(MT_INPUT, "a fabric of %d ranks cannot be cut into blocks of %d", fabric->size, size);
	b = calloc(1, sizeof *b);
	if (!b || !(b->hosts = calloc((size_t)size, sizeof *b->hosts))) {
		free(b);
		return mt_fail(MT_NOMEM, "no memory for a block of %d ranks", size);
	}
	b->ops = fabric->ops;
	b->parent = fabric;
	b->size = b->host_entries = size;
	b->rank = fabric->rank % size;
	b->first = fabric->rank - b->rank;
	memcpy(b->library, fabric->library, sizeof b->library);
	for (int i = 0; i < size; i++) {
		const char *host = mt_fabric_host(fabric, b->first + i);

		memcpy(b->hosts[i], host, strlen(host) + 1);
		if (strcmp(host, mt_fabric_host(fabric, fabric->rank)) == 0) {
			b->local_rank += i < b->rank;
			b->local_size++;
		}
	}
	*block = b;
	return MT_OK;
}
