/* memory: tensors of a rank and the way to its parameters. */
#include "engine/internal.h"

enum mt_status mt_engine_alloc(struct mt_engine *e, int arena, int64_t elements, enum mt_dtype dtype, void **pointer)
{
	return mt_arena_alloc(e->arenas[arena], (size_t)elements * mt_dtype_bytes(dtype), pointer);
}

void mt_engine_release(struct mt_engine *e, void **pointer)
{
	if (!mt_wgrads_hold(e, *pointer))
		mt_arena_free(e->arenas[ARENA_ACTIVATIONS], *pointer);
	*pointer = NULL;
}

/* Addresses only: on the dry device they are never touched. */
static void *at_element(void *base, int64_t element, enum mt_dtype dtype)
{
	return (void *)((uintptr_t)base + (uintptr_t)element * mt_dtype_bytes(dtype));
}

void *mt_engine_param(const struct mt_engine *e, int index)
{
	const struct mt_param *p = &e->table.params[index];

	if (index < 0)
		return NULL;
	return at_element(mt_whole_param(e, p->bucket), p->offset - e->table.buckets[p->bucket].offset, e->dtype);
}

void *mt_engine_grad(const struct mt_engine *e, int index)
{
	const struct mt_param *p = &e->table.params[index];

	if (index < 0)
		return NULL;
	return at_element(mt_whole_grad(e, p->bucket), p->offset - e->table.buckets[p->bucket].offset, mt_grad_dtype(e->dtype));
}

enum mt_status mt_engine_enqueue(struct mt_engine *e, const struct mt_op *op)
{
	return mt_device_enqueue(e->device, e->compute, op);
}

void mt_engine_memory(const struct mt_engine *engine, struct mt_arena_stats stats[MT_ENGINE_ARENAS])
{
	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		mt_arena_stats(engine->arenas[i], &stats[i]);
}

size_t mt_engine_peak_bytes(const struct mt_engine *engine)
{
	struct mt_arena_stats stats[MT_ENGINE_ARENAS];
	size_t sum = 0;

	mt_engine_memory(engine, stats);
	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		sum += stats[i].peak_bytes;
	return sum;
}
