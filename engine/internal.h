/* internal: the state of one rank, shared by the files of the engine and by nobody else.
 *
 * Letters: T rows of a sequence on this rank (seq/cp), R rows of a micro-batch (mbs*T), S rows this rank holds between layers (R/tp
 * under sequence parallelism, else R). */
#ifndef MT_ENGINE_INTERNAL_H
#define MT_ENGINE_INTERNAL_H

#include "engine/engine.h"
#include "engine/experts.h"
#include "engine/fp8.h"
#include "engine/latent.h"
#include "engine/mtp.h"
#include "engine/loader.h"
#include "engine/loss_scale.h"
#include "engine/param.h"
#include "engine/schedule.h"
#include "engine/shard.h"

#include <stddef.h>

enum { ARENA_PARAMETERS, ARENA_GRADIENTS, ARENA_OPTIMIZER, ARENA_ACTIVATIONS, ARENA_WORKSPACE };

/* Arenas that the fabric is told of, and how often. */
enum { MT_REGISTERED = 2, MT_REGISTRATIONS = 2 };

/* What one layer's forward pass keeps for its backward pass; all from the activation arena. */
struct mt_layer_saved {
	void *x;               /* (S,C) input; owned by the chain of layers */
	void *norm1, *norm2;   /* (S,C) outputs of the norms */
	void *stats1, *stats2; /* (2,S) f32: mean, rstd */
	void *qkv;             /* (R, (H+2G)*D) local heads, after RoPE */
	void *exchanged;       /* (B, part's rows, a share of qkv's heads) in its place, where heads are exchanged (context.h) */
			       /* of latent attention the queries alone */
	void *qk, *qk_stats;   /* (R, (H+G)*D) heads before their norm, (2,R*(H+G)) f32: qk_norm.c */
	struct mt_latent_saved latent;
	void *attention;  /* (R, H*E) */
	void *lse;        /* (B,H,T) f32 */
	void *x2;         /* (S,C) after the attention's residual */
	void *up;         /* (R, F or 2F) before the activation */
	void *activation; /* (R, F) after it */
	struct mt_experts_saved experts;
	int64_t window; /* of this layer's attention */
};

/* What is done to each of a layer's saved tensors goes over them as an array: nothing but pointers may stand before those of
 * experts, which come last, with what the host knows behind. */
#define MT_LAYER_TENSORS ((int)(offsetof(struct mt_layer_saved, experts.places) / sizeof(void *)))

/* What of a layer is in host memory, see offload.c. */
struct mt_away {
	void *host[MT_LAYER_TENSORS];
	struct mt_event *event; /* owned: of the copies that were started last */
	bool leaving, coming;   /* copies out not waited for; copies in started */
};

/* A gradient of weights put off: its operation, and the chunk's layer it belongs to. It owns what the operation reads. Under
 * sequence parallelism an operand may be this rank's rows alone, (S,cols), to be gathered when the operation runs. */
enum mt_wgrad_rows { MT_ROWS_WHOLE, MT_ROWS_OF_X, MT_ROWS_OF_DY };
struct mt_wgrad {
	struct mt_op op;
	enum mt_wgrad_rows shard;
	int layer;
};
struct mt_wgrads {
	struct mt_wgrad *notes; /* owned */
	int count, next, room;
};

/* One micro-batch in flight on one chunk of this stage. */
struct mt_flight {
	bool live;
	void *tokens, *targets;        /* (R) i32, first and last stage */
	void *positions, *starts;      /* documents apart: (R) i32, and mt_context_starts' arrays */
	void *window_starts;           /* the same where a window is too, in a ring */
	struct mt_layer_saved *layers; /* owned: one a layer of the chunk */
	int64_t layer_count;
	void *input;                 /* (S,C) what the stage began with */
	void *output;                /* (S,C) of the last local layer; last stage: input of the final norm */
	void *final, *final_stats;   /* (S,C) and (2,S), last stage */
	void *logits;                /* (R,V/tp), after the loss: their gradient; from logits_arena */
	void *gradient;              /* (S,C) gradient that came from the next stage, or goes to the previous one */
	struct mt_event *arrived[2]; /* of the input and of the gradient received: both can be on their way at once */
	bool awaited[2];             /* a receive was posted and not waited for yet */
	struct mt_wgrads wgrads;     /* of the backward pass, until their own pass */
	struct mt_away *away;        /* owned: one a layer that is offloaded; NULL: none is */
	struct mt_mtp_saved *mtp;    /* owned: of the model's modules, with the head */
	int mtp_count;
	int depth;  /* 0: the model's own head; k: that of its k-th module */
	void *more; /* (S,C) what the module after this head adds to the gradient of its final norm, or NULL */
};

/* A buffer on its way to another stage: freed when it has arrived and a later one is sent. */
struct mt_sent {
	void *buffer;
	struct mt_event *event;
};

/* A run of parameters of one bucket's shard that the optimizer treats alike. */
struct mt_segment {
	int bucket;
	int64_t offset;       /* elements into the flat buffers */
	int64_t shard_offset; /* elements into the optimizer's buffers */
	int64_t count;
	int64_t moment2_offset; /* elements into the second moments; -1: this rule has none */
	enum mt_optimizer rule;
	bool ends;           /* of word embedding or head: they may have learning rates of their own */
	bool decay, counted; /* weight decay applies; counts in the gradient norm of this rank */
};

/* Muon's workspace: a matrix, its product, and two Gram matrices. */
struct mt_muon {
	void *x, *product, *gram, *square, *norm2;
};

/* A bucket that is reduced in bf16. */
enum { MT_NARROW_SLOTS = 2 };
struct mt_narrow {
	void *buffer; /* of the largest bucket; NULL: nothing is reduced in bf16 */
	struct mt_event *reduced;
	int bucket; /* whose sum is on its way or not taken yet; -1: none */
};

struct mt_engine {
	struct mt_engine_config config;
	const struct mt_model *model;
	const struct mt_layout *layout;
	struct mt_device *device;
	struct mt_coordinates at;
	enum mt_dtype dtype;
	bool first, last, sp;
	int64_t seq, rows, shard_rows;     /* T, R, S */
	int64_t q_cols, kv_cols, ffn_cols; /* local widths: H*D, G*D, F */
	int64_t o_cols;                    /* of what attention gives: H*E, E the size of a head's values */
	int64_t vocab_first, vocab_count;
	int logits_arena;
	int64_t microbatches, step, gbs; /* of the running step: fewer while the batch grows */
	int64_t samples;                 /* sequences taken before this step: where the data goes on */
	int64_t skipped;                 /* steps that changed no parameter */
	struct mt_loss_scale loss_scale;
	struct mt_fp8 fp8;
	double loss_limit; /* a larger loss is a spike; 0: none is */

	struct mt_arena *arenas[MT_ENGINE_ARENAS];
	void *registered[MT_REGISTERED];                   /* owned: the fabric's handles; NULL: nothing to do */
	int registrations;                                 /* so far */
	struct mt_stream *compute, *dp_stream, *cp_stream; /* cp_stream: NULL without context parallelism */
	struct mt_stream *gather_stream;                   /* NULL but with ZeRO-3; on virtual clocks dp_stream */
	struct mt_stream *send_stream[MT_SCHEDULE_LANES], *recv_stream[MT_SCHEDULE_LANES];
	struct mt_stream *offload_stream, *fetch_stream; /* NULL: nothing is offloaded */
	struct mt_arena *host_arena;
	struct mt_event *event;                            /* scratch: recorded and waited for at once */
	struct mt_group *world, *tp, *pp, *pp_back, *ends; /* ends: first and last stage, tied embedding; NULL where not needed */
	struct mt_group *heads, *parts;                    /* of cp: those that exchange heads, those that have the other parts */
	int32_t *rows_taken;                               /* owned: (T) which rows of a sequence are here; NULL: all */
	struct mt_experts experts;
	void *window_starts;             /* mt_context_starts' arrays of windows in a ring, documents joined; else NULL */
	void *positions;                 /* (R) i32: where this rank's rows are in their sequences; NULL: as they lie */
	const struct mt_flight *running; /* the micro-batch whose pass runs; NULL in a bench */
	double counted, token_scale;     /* targets of the step on this rank; (gbs * seq) / those of all ranks */

	struct mt_share shares[MT_SHARES];
	struct mt_shard *shards; /* owned: one a bucket */
	struct mt_narrow narrow[MT_NARROW_SLOTS];
	int narrow_next;

	struct mt_param_table table;
	void *param_flat; /* dtype (param_elements): what is kept of each bucket */
	void *grad_flat;  /* f32 (grad_elements) */
	int64_t param_elements, grad_elements;
	int scattered_last; /* bucket of the reduction that was started last; -1: none of this step */
	void *master, *moment1,
		*moment2; /* f32, moments f32 or bf16, by bucket shard; NULL: none. master: parameters that are f32 are their own */
	struct mt_segment *segments; /* owned, in bucket order */
	int segment_count;
	struct mt_op *updates;  /* owned: one a segment */
	int64_t shard_elements; /* of the optimizer's buffers */
	int64_t moment2_elements;
	struct mt_muon muon;

	struct mt_flight *flights; /* owned: one a chunk and micro-batch of the step: [chunk][micro-batch] */
	int64_t flight_count;
	struct mt_action_list schedule;
	struct mt_sent *sent[MT_SCHEDULE_LANES]; /* owned: rings of schedule.sends, those in use from sent_first on */
	int64_t sent_first[MT_SCHEDULE_LANES], sent_count[MT_SCHEDULE_LANES];
	struct mt_wgrads *collecting; /* the backward pass that runs puts weight gradients off; else NULL */
	int collecting_layer;
	void *losses;                           /* f32 (1 + mtp, microbatches * R), last stage */
	void *numbers;                          /* f64 (4): square sum of gradients, sum of losses, sum of those of mtp */
	int32_t *host_tokens;                   /* owned: what a micro-batch is without a data set */
	int32_t *host_rows;                     /* owned: positions, then starts, on their way to the device */
	const int32_t *mtp_next;                /* (mtp,2,R) tokens and targets of the modules, of the micro-batch at work */
	int32_t *mtp_none;                      /* owned: the same without data */
	struct mt_loader *loader, *eval_loader; /* NULL: no data set, or a stage that needs no tokens; none evaluated yet */
	bool evaluating;                        /* only losses are wanted */
	void *host_losses;                      /* owned: of the gradients' type */

	/* seconds of the running step, by cause; gather_s: of the parameters, a part of optimizer_s */
	double tp_s, cp_s, dp_s, pp_s, ep_s, optimizer_s, gather_s, data_s;
	struct mt_lap *laps; /* owned: those whose times are not known yet */
	int lap_count, lap_room;
	bool last_microbatch; /* the backward pass of the last micro-batch runs: finished units are reduced */
	int next_bucket;      /* of those in order of completion */
	int *bucket_order;    /* owned: bucket indices by unit */
};

/* Statistics, gradients and optimizer state are f32; f64 on the reference device when everything is f64. */
static inline enum mt_dtype mt_grad_dtype(enum mt_dtype dtype)
{
	return dtype == MT_F64 ? MT_F64 : MT_F32;
}

/* Of AdamW's moments. */
static inline enum mt_dtype mt_moment_dtype(const struct mt_engine *e, int choice)
{
	return choice == MT_BF16 ? MT_BF16 : mt_grad_dtype(e->dtype);
}

/* registration.c: parameters' and gradients' memory, as far as it is in use; before a step, and before the groups go */
enum mt_status mt_registration_follow(struct mt_engine *e);
void mt_registration_end(struct mt_engine *e);

/* memory.c */
enum mt_status mt_engine_alloc(struct mt_engine *e, int arena, int64_t elements, enum mt_dtype dtype, void **pointer);
void mt_engine_release(struct mt_engine *e, void **pointer); /* activation arena; sets NULL */
void *mt_engine_param(const struct mt_engine *e, int index); /* NULL for -1 */
void *mt_engine_grad(const struct mt_engine *e, int index);
enum mt_status mt_engine_enqueue(struct mt_engine *e, const struct mt_op *op); /* on the compute stream */

/* laps.c: the compute stream's time between two points, added to *sum by mt_laps_read at the latest */
enum mt_status mt_lap_begin(struct mt_engine *e, struct mt_mark *start);
enum mt_status mt_lap_end(struct mt_engine *e, const struct mt_mark *start, double *sum_s);
enum mt_status mt_laps_read(struct mt_engine *e); /* waits for the compute stream where it runs behind */

/* tensor.c: products and the collectives around them */
enum mt_status mt_tp_gather(struct mt_engine *e, const void *shard, void **whole, int64_t cols); /* SP: new (R,cols) */
enum mt_status mt_tp_reduce(struct mt_engine *e, void **partial, int64_t cols); /* (R,cols) -> summed, SP: (S,cols) */
enum mt_status mt_linear_forward(struct mt_engine *e, const void *x, int weight, int bias, int64_t in, int64_t out, void *y);
enum mt_status mt_linear_dgrad(struct mt_engine *e, const void *dy, int weight, int64_t in, int64_t out, void *dx);
/* With the bias' gradient, column sums of dy (bias -1: without). */
enum mt_status mt_linear_wgrad(struct mt_engine *e, const void *dy, const void *x, int weight, int bias, int64_t in, int64_t out);
/* Whether a weight's gradient is put off and takes its operands' shards; then by mt_linear_wgrad_shard, which gathers one later. */
bool mt_wgrad_of_shards(const struct mt_engine *e, int weight);
enum mt_status mt_linear_wgrad_shard(struct mt_engine *e, const void *dy, const void *x, enum mt_wgrad_rows shard, int weight,
				     int bias, int64_t in, int64_t out);
/* The forward product with GELU behind it, pre(R,out) the input of that (NULL: without); and the input's gradient through the GELU
 * that made it of pre(R,in), with that of the bias before it (-1: without). */
enum mt_status mt_linear_gelu(struct mt_engine *e, const void *x, int weight, int bias, int64_t in, int64_t out, void *pre,
			      void *y);
enum mt_status mt_linear_dgelu(struct mt_engine *e, const void *dy, int weight, int64_t in, int64_t out, const void *pre, int bias,
			       void *dx);
enum mt_status mt_bias_grad(struct mt_engine *e, const void *dy, int bias, int64_t rows, int64_t cols);

/* layer.c, ends.c: one layer; embedding, final norm, head and loss */
enum mt_status mt_layer_forward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **output);
enum mt_status mt_layer_backward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **gradient);
void mt_layer_free(struct mt_engine *e, struct mt_layer_saved *saved);
/* Rotates `heads` heads `head_dim` apart, in lines of `stride` elements; sign -1: their gradients back. */
enum mt_status mt_rotate(struct mt_engine *e, void *x, int64_t heads, int64_t head_dim, int64_t stride, int sign);
/* qk_norm.c: heads in saved->qkv are normalised, kept in saved->qk as they were; and gradients back, both in place. */
enum mt_status mt_qk_norm_forward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved);
enum mt_status mt_qk_norm_backward(struct mt_engine *e, const int *at, struct mt_layer_saved *saved, void *dqkv);
enum mt_status mt_embedding_forward(struct mt_engine *e, struct mt_flight *flight);
enum mt_status mt_embedding_backward(struct mt_engine *e, struct mt_flight *flight);
enum mt_status mt_head_forward(struct mt_engine *e, struct mt_flight *flight, int64_t microbatch);
enum mt_status mt_head_backward(struct mt_engine *e, struct mt_flight *flight);
void mt_logits_free(struct mt_engine *e, struct mt_flight *flight); /* NULL is fine */

/* context.c: attention over all rows of the sequences, wherever they are. `plain` is that over this rank's rows alone. */
enum mt_status mt_context_create(struct mt_engine *e); /* groups, positions */
void mt_context_destroy(struct mt_engine *e);
enum mt_status mt_context_load(struct mt_engine *e, struct mt_flight *flight, const struct mt_batch *batch);
const void *mt_context_positions(const struct mt_engine *e); /* of the running micro-batch's rows; NULL: as they lie */
/* Where heads are exchanged: s->exchanged, new, from q, k and v, which are not read again. */
enum mt_status mt_context_exchange(struct mt_engine *e, const struct mt_attention *plain, struct mt_layer_saved *s);
/* o and lse, both there. */
enum mt_status mt_context_attend(struct mt_engine *e, const struct mt_attention *plain, struct mt_layer_saved *s);
/* dq, dk and dv, all there, from do. */
enum mt_status mt_context_attend_backward(struct mt_engine *e, const struct mt_attention *plain, struct mt_layer_saved *s);

/* stage.c: the passes of one chunk over one micro-batch */
enum mt_status mt_stage_forward(struct mt_engine *e, int chunk, int64_t microbatch, struct mt_flight *flight);
enum mt_status mt_stage_backward(struct mt_engine *e, int chunk, struct mt_flight *flight);
enum mt_status mt_stage_wgrad(struct mt_engine *e, int chunk, struct mt_flight *flight);
void mt_flight_free(struct mt_engine *e, struct mt_flight *flight);

/* offload.c: a layer's activations to host memory and back. start - settle, then fetch - await. */
enum mt_status mt_offload_open(struct mt_engine *e);
void mt_offload_close(struct mt_engine *e);
enum mt_status mt_offload_create(struct mt_engine *e, struct mt_flight *flight);
void mt_offload_destroy(struct mt_engine *e, struct mt_flight *flight);
bool mt_offloads(const struct mt_engine *e, const struct mt_flight *flight, int64_t layer);
enum mt_status mt_offload_start(struct mt_engine *e, struct mt_flight *flight, int64_t layer);
enum mt_status mt_offload_settle(struct mt_engine *e, struct mt_flight *flight, int64_t layer);
enum mt_status mt_offload_fetch(struct mt_engine *e, struct mt_flight *flight, int64_t layer);
enum mt_status mt_offload_await(struct mt_engine *e, struct mt_flight *flight, int64_t layer);
void mt_offload_drop(struct mt_engine *e, struct mt_flight *flight, int64_t layer);

/* wgrad.c: weight gradients put off. `hold`: a note reads this tensor, so it is not to be freed or overwritten. */
enum mt_status mt_wgrads_create(struct mt_wgrads *list, int64_t layers);
void mt_wgrads_destroy(struct mt_wgrads *list);
enum mt_status mt_wgrads_note(struct mt_engine *e, const struct mt_op *op, enum mt_wgrad_rows shard);
bool mt_wgrads_hold(const struct mt_engine *e, const void *tensor);
enum mt_status mt_wgrads_run_first(struct mt_engine *e, struct mt_wgrads *list); /* one, if there is any */
enum mt_status mt_wgrads_run(struct mt_engine *e, struct mt_wgrads *list, int layer);
void mt_wgrads_drop(struct mt_engine *e, struct mt_wgrads *list); /* after a failure */

/* pipeline.c: runs the schedule's actions; or the forward passes alone, nothing kept */
enum mt_status mt_pipeline_run(struct mt_engine *e);
enum mt_status mt_pipeline_forward(struct mt_engine *e);

/* reduce.c: gradient buckets over the ranks that share them, under the backward pass */
enum mt_status mt_reduce_unit(struct mt_engine *e, int unit);
enum mt_status mt_reduce_finish(struct mt_engine *e);

/* reduce_narrow.c: the same in bf16 */
enum mt_status mt_narrow_open(struct mt_engine *e);
void mt_narrow_close(struct mt_engine *e);
enum mt_status mt_narrow_reduce(struct mt_engine *e, int bucket); /* of one that several ranks hold */
enum mt_status mt_narrow_finish(struct mt_engine *e);

/* values.c: initial values */
enum mt_status mt_initialize(struct mt_engine *e);
enum mt_status mt_values_set(struct mt_engine *e, int index,
			     const void *values); /* a whole local parameter, in the engine's type */

/* evaluate.c: a loader of this rank's share of a data set */
enum mt_status mt_engine_open_loader(struct mt_engine *e, struct mt_dataset *dataset, struct mt_loader **loader);

/* shard.c: the groups that share parameters, and this rank's part of each bucket */
void mt_shares_count(struct mt_engine *e); /* their sizes; done by create */
enum mt_status mt_shares_create(struct mt_engine *e);
void mt_shares_destroy(struct mt_engine *e);
enum mt_status mt_shards_create(struct mt_engine *e); /* the numbers; open: streams and events */
enum mt_status mt_shards_open(struct mt_engine *e);
void mt_shards_destroy(struct mt_engine *e);
bool mt_bucket_used_by(const struct mt_engine *e, int bucket, int unit);
const struct mt_share *mt_share_of(const struct mt_engine *e, int bucket);
/* The address of an element of the flat buffer, which must lie in this rank's part of the bucket; and of a whole bucket, NULL while
 * it is not here. */
void *mt_shard_param(const struct mt_engine *e, int bucket, int64_t offset);
void *mt_shard_grad(const struct mt_engine *e, int bucket, int64_t offset);
void *mt_whole_param(const struct mt_engine *e, int bucket);
void *mt_whole_grad(const struct mt_engine *e, int bucket);

/* shard_gather.c: the parameters of a unit are whole from its enter to another's; `next`: the unit after it in this pass, -1: none
 */
enum mt_status mt_params_enter(struct mt_engine *e, int unit, int next);
enum mt_status mt_params_leave(struct mt_engine *e); /* none is whole, before they change */
/* A whole bucket, gathered on the compute stream, until it is dropped. */
enum mt_status mt_shard_gather_param(struct mt_engine *e, int bucket, void **whole);
void mt_shard_drop_param(struct mt_engine *e, int bucket, void **whole);

/* shard_scatter.c: whole gradients of a unit are there, zero at first, from its enter to its leave in each backward pass. */
enum mt_status mt_grads_begin(struct mt_engine *e); /* of a step */
enum mt_status mt_grads_enter(struct mt_engine *e, int unit);
enum mt_status mt_grads_leave(struct mt_engine *e, int unit);
enum mt_status mt_grads_finish(struct mt_engine *e);
/* The reduced gradients of a whole bucket, gathered on the compute stream, until it is dropped. */
enum mt_status mt_shard_gather_grad(struct mt_engine *e, int bucket, void **whole);
void mt_shard_drop_grad(struct mt_engine *e, int bucket, void **whole);

/* segments.c: cuts this rank's shards into runs */
enum mt_status mt_segments_create(struct mt_engine *e);

/* engine.c: what is kept by micro-batch, and the schedule. rampup.c: made anew for a batch of another size */
enum mt_status mt_flights_create(struct mt_engine *e);
void mt_flights_destroy(struct mt_engine *e);
enum mt_status mt_batch_resize(struct mt_engine *e, int64_t gbs);

/* muon.c */
bool mt_muon_takes(const struct mt_engine *e, const struct mt_param *p);
enum mt_status mt_muon_create(struct mt_engine *e);
enum mt_status mt_muon_update(struct mt_engine *e, int bucket, double lr, double decay, double grad_scale);

/* optimizer.c */
enum mt_status mt_optimizer_step(struct mt_engine *e, struct mt_step_stats *stats);
/* Of the micro-batches of this rank, on the last stage. */
enum mt_status mt_losses_sum(struct mt_engine *e, double *sum);

#endif
