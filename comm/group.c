/* group: ordered subsets of the world's ranks. */
#include "comm/fabric.h"

#include <stdlib.h>
#include <string.h>

static enum mt_status check_ranks(const struct mt_fabric *fabric, const char *name, const int *ranks, int count, int *mine)
{
	*mine = -1;
	for (int i = 0; i < count; i++) {
		if (ranks[i] < 0 || ranks[i] >= fabric->size)
			return mt_fail(MT_INPUT, "group %s: member %d is rank %d, but the world has ranks 0..%d", name, i, ranks[i],
				       fabric->size - 1);
		if (ranks[i] == fabric->rank)
			*mine = i;
	}
	if (*mine < 0)
		return mt_fail(MT_INPUT, "group %s: rank %d makes a group that it is not in; only members make a group", name,
			       fabric->rank);
	return MT_OK;
}

static enum mt_status check_distinct(const struct mt_fabric *fabric, const char *name, const int *ranks, int count)
{
	char *seen = calloc((size_t)fabric->size, 1);
	enum mt_status st = MT_OK;
	if (!seen)
		return mt_fail(MT_NOMEM, "group %s: no memory for %d ranks", name, fabric->size);
	for (int i = 0; i < count && st == MT_OK; i++) {
		if (seen[ranks[i]])
			st = mt_fail(MT_INPUT, "group %s: rank %d is in it twice", name, ranks[i]);
		seen[ranks[i]] = 1;
	}
	free(seen);
	return st;
}

/* Distance of neighbours when all are as far apart, else 0. */
static int regular_stride(const int *ranks, int count)
{
	int stride = count > 1 ? ranks[1] - ranks[0] : 0;
	for (int i = 1; i < count; i++)
		if (ranks[i] - ranks[i - 1] != stride)
			return 0;
	return stride > 0 ? stride : 0;
}

/* FNV-1a of name and ranks. */
static uint64_t identify(const char *name, const int *ranks, int count)
{
	uint64_t hash = 14695981039346656037u;
	for (const char *c = name; *c; c++)
		hash = (hash ^ (uint64_t)(unsigned char)*c) * 1099511628211u;
	for (int i = 0; i < count; i++)
		hash = (hash ^ (uint64_t)ranks[i]) * 1099511628211u;
	return hash ? hash : 1;
}

/* A group of a block is one of the larger fabric, whose ranks begin elsewhere; of an order, one of the fabric in its own order. */
static enum mt_status create_in_parent(struct mt_fabric *block, const char *name, const int *ranks, int count,
				       struct mt_group **group)
{
	int *shifted = malloc((size_t)count * sizeof *shifted);
	enum mt_status st;

	if (!shifted)
		return mt_fail(MT_NOMEM, "group %s: no memory for %d ranks", name, count);
	for (int i = 0; i < count; i++)
		shifted[i] = block->order ? block->order[ranks[i]] : ranks[i] + block->first;
	st = mt_group_create(block->parent, name, shifted, count, group);
	if (st == MT_OK) {
		(*group)->first = block->first;
		(*group)->place = block->place;
	}
	free(shifted);
	return st;
}

enum mt_status mt_group_create(struct mt_fabric *fabric, const char *name, const int *ranks, int count, struct mt_group **group)
{
	struct mt_group *g = NULL;
	enum mt_status st;
	int mine;
	*group = NULL;
	if (!name || strlen(name) > 15)
		return mt_fail(MT_INPUT, "group name '%s' is longer than 15 characters; shorten it", name ? name : "(null)");
	if (count < 1 || count > fabric->size)
		return mt_fail(MT_INPUT, "group %s: %d members of a world of %d ranks", name, count, fabric->size);
	MT_TRY(check_ranks(fabric, name, ranks, count, &mine));
	if (fabric->parent)
		return create_in_parent(fabric, name, ranks, count, group);
	MT_TRY(check_distinct(fabric, name, ranks, count));

	g = calloc(1, sizeof *g);
	if (!g || !(g->ranks = malloc((size_t)count * sizeof *ranks))) {
		st = mt_fail(MT_NOMEM, "group %s: no memory for %d ranks", name, count);
		goto fail;
	}
	g->fabric = fabric;
	strcpy(g->name, name);
	g->rank = mine;
	g->size = count;
	g->stride = regular_stride(ranks, count);
	g->id = identify(name, ranks, count);
	memcpy(g->ranks, ranks, (size_t)count * sizeof *ranks);
	if (count > 1 && fabric->ops->group_open)
		MT_GOTO(fail, fabric->ops->group_open(g));
	fabric->groups++;
	*group = g;
	return MT_OK;
fail:
	if (g)
		free(g->ranks);
	free(g);
	return st;
}

enum mt_status mt_group_create_all(struct mt_fabric *fabric, const char *name, struct mt_group **group)
{
	int size = mt_fabric_size(fabric), *ranks = malloc((size_t)size * sizeof *ranks);
	enum mt_status st;

	*group = NULL;
	if (!ranks)
		return mt_fail(MT_NOMEM, "group %s: no memory for %d ranks", name, size);
	for (int i = 0; i < size; i++)
		ranks[i] = i;
	st = mt_group_create(fabric, name, ranks, size, group);
	free(ranks);
	return st;
}

void mt_group_destroy(struct mt_group *group)
{
	if (!group)
		return;
	if (group->size > 1 && group->fabric->ops->group_close)
		group->fabric->ops->group_close(group);
	group->fabric->groups--;
	free(group->ranks);
	free(group);
}

int mt_group_rank(const struct mt_group *group)
{
	return group->rank;
}

int mt_group_size(const struct mt_group *group)
{
	return group->size;
}

int mt_group_world_rank(const struct mt_group *group, int group_rank)
{
	return group->place ? group->place[group->ranks[group_rank]] : group->ranks[group_rank] - group->first;
}
