/* block: a part of a fabric that looks like a whole one, so that jobs smaller than the world run side by side in it; and a fabric
 * whose ranks are numbered in another order. */
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

enum mt_status mt_fabric_order(struct mt_fabric **ordered, struct mt_fabric *fabric, const int *order)
{
	struct mt_fabric *f = calloc(1, sizeof *f);
	size_t size = (size_t)fabric->size;

	*ordered = NULL;
	if (!f || !(f->hosts = calloc(size, sizeof *f->hosts)) || !(f->order = malloc(size * sizeof *f->order)) ||
	    !(f->place = malloc(size * sizeof *f->place))) {
		mt_fabric_destroy(f);
		return mt_fail(MT_NOMEM, "no memory for the order of %d ranks", fabric->size);
	}
	f->ops = fabric->ops;
	f->parent = fabric;
	f->size = f->host_entries = fabric->size;
	f->local_rank = fabric->local_rank; /* the device stays */
	f->local_size = fabric->local_size;
	memcpy(f->library, fabric->library, sizeof f->library);
	memset(f->place, -1, size * sizeof *f->place);
	for (int i = 0; i < f->size; i++) {
		const char *host;

		if (order[i] < 0 || order[i] >= f->size || f->place[order[i]] >= 0) {
			mt_fabric_destroy(f);
			return mt_fail(MT_INPUT, "an order of ranks must name each of 0..%d once: %d does not fit at place %d",
				       fabric->size - 1, order[i], i);
		}
		f->order[i] = order[i];
		f->place[order[i]] = i;
		host = mt_fabric_host(fabric, order[i]);
		memcpy(f->hosts[i], host, strlen(host) + 1);
	}
	f->rank = f->place[fabric->rank];
	*ordered = f;
	return MT_OK;
}
