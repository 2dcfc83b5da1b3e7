/* stage_clock: the clocks of one rank's streams while it runs the passes of its model chunks, as the engine enqueues them:
 * engine/stage.c with what it calls of shard_gather.c, shard_scatter.c, reduce.c, reduce_narrow.c and offload.c. */
#ifndef MT_TUNER_STAGE_CLOCK_H
#define MT_TUNER_STAGE_CLOCK_H

#include "tuner/pipeline.h"

enum { MT_CLOCK_NARROW_SLOTS = 2 };

/* Of one bucket: its whole parameters and gradients, as struct mt_shard has them. */
struct mt_bucket_clock {
	bool here, awaited, grad, pending, summed;
	double gathered_s, scattered_s;
};

/* Indices of buckets, ascending. */
struct mt_clock_list {
	int *items;
	int count;
};

struct mt_stage_clock {
	const struct mt_pipeline_stage *stage;
	double now_s;                    /* of the compute stream */
	double dp_s, offload_s, fetch_s; /* of the other streams: when what is enqueued ends */
	struct mt_bucket_clock *buckets; /* owned, with the lists' items behind them */
	struct mt_clock_list here, pending;
	int next_bucket, scattered_last;
	double narrow_s[MT_CLOCK_NARROW_SLOTS];
	int narrow_bucket[MT_CLOCK_NARROW_SLOTS], narrow_next; /* -1: none */
	bool each;                                             /* every pass is run block by block */
	double begun_s;                                        /* of the next pass of weights' gradients: what is done of it */
	double dp_wait_s, dp_total_s, tp_sum_s, more_compute_s;
};

enum mt_status mt_stage_clock_open(struct mt_stage_clock *clock, const struct mt_pipeline_stage *stage);
void mt_stage_clock_close(struct mt_stage_clock *clock);

/* `last`: of the last micro-batch; `puts_off`: gradients of weights have passes of their own. */
void mt_stage_clock_forward(struct mt_stage_clock *clock, int chunk);
void mt_stage_clock_backward(struct mt_stage_clock *clock, int chunk, bool last, bool puts_off);
void mt_stage_clock_wgrad_first(struct mt_stage_clock *clock, int chunk); /* a product of the next such pass */
void mt_stage_clock_wgrad(struct mt_stage_clock *clock, int chunk, bool last);
/* After all passes: reductions that are left. */
void mt_stage_clock_finish(struct mt_stage_clock *clock);

#endif
