/* shard: how the ranks that hold the same parameters share them out.
 *
 * The gradients of a bucket are summed over all ranks that hold it. With ZeRO each keeps the optimizer state of a part only
 * (Rajbhandari et al. 2020, arXiv:1910.02054). The ranks form a rectangle: the bucket is cut over the `inner` group, and what the
 * inner groups hold is the same across the `outer` ones. So plain data parallelism is an inner group of one, ZeRO one outer
 * rank, and what lies between is hybrid sharding: parts inside a node, copies across (zero_group).
 *
 * ZeRO-2 keeps of the gradients the part alone: the whole bucket is there from the first of its units in a backward pass until
 * that pass has finished the last, and each micro-batch's is reduced into the part (shard_scatter.c). ZeRO-3 keeps of the
 * parameters the part alone: the whole bucket is gathered a unit ahead and dropped after use, in each pass (shard_gather.c). A
 * bucket then holds whole units. What every tensor-parallel rank holds whole, small as it is, stays whole under both. */
#ifndef MT_ENGINE_SHARD_H
#define MT_ENGINE_SHARD_H

#include "comm/comm.h"

struct mt_share {
	struct mt_group *inner, *outer; /* owned; NULL: of one rank */
	struct mt_group *gather;        /* owned: inner again, for gathers beside reductions; NULL but with ZeRO-3 */
	int parts, part;                /* the size of inner, and this rank's place there */
	int copies, copy;               /* the same of outer */
};

/* This rank's part of one bucket, and what of the whole is here. */
struct mt_shard {
	int64_t offset, count;     /* elements of the flat buffer */
	int64_t place;             /* its first element in the optimizer's buffers */
	bool gathers, scatters;    /* only the part is kept: of the parameters, of the gradients */
	int64_t param_at, grad_at; /* where what is kept begins, elements into the engine's buffers */
	/* while the whole is here: of the parameters until no unit needs them, of the gradients until they are reduced */
	void *param, *grad;
	struct mt_event *gathered, *scattered; /* owned; NULL where not needed */
	bool awaited;                          /* the gather was started and not waited for yet */
	bool pending;                          /* the reduction was started and its result is not taken yet */
	bool summed;                           /* the part has the sum of an earlier micro-batch of this step */
};

#endif
