/* experts: a layer whose MLP is a mixture of experts (Shazeer et al. 2017, arXiv:1701.06538).
 *
 *   h = norm(x2);  w, i = route(h);  y = x2 + sum over k of w_k E_ik(h) + shared(h) [* sigmoid(h g)]
 *   E(h) = Wdown activation(Wup h)
 *
 * Each row goes to its experts, wherever they are, and what comes back is summed. The weight of a choice travels with the row and
 * is applied to the activation, so that outputs of experts need not be kept for the backward pass.
 *
 * Ranks: those of a stage, tp*cp*dp, are etp*ep*edp for experts: ep groups have different experts, etp ranks a slice of the
 * width of each, edp ranks the same. Where ranks hold different rows, rows go to all etp slices of their expert and the
 * partial results are summed when they are back: one exchange over etp*ep. Where tensor-parallel ranks hold the same rows (no
 * sequence parallelism), etp is tp: rows go to the rank with their own slice, over ep, and the sum is that of the dense layer.
 *
 * What counts is counted by sequence, never by micro-batch or rank, so that the layout does not change the result: the balance
 * loss, and the capacity of an expert.
 *
 * Counts of rows are data. The host reads them once a layer and pass; on the dry device, which has no data, every expert gets an
 * even share of each rank's rows (rounded up for the first ones).
 *
 * Letters: S rows here, E experts, K choices of a row, L experts of this rank, P places of rows sorted by expert (S*K, with
 * padding E * capacity), N rows that this rank's experts got, F width here. */
#ifndef MT_ENGINE_EXPERTS_H
#define MT_ENGINE_EXPERTS_H

#include "comm/comm.h"

#include <stdbool.h>
#include <stdint.h>

struct mt_engine;
struct mt_layer_saved;

/* Of an engine. */
struct mt_experts {
	struct mt_group *etp;      /* the ranks with the other slices of the same experts */
	struct mt_group *exchange; /* those that rows are exchanged with; NULL: no experts */
	struct mt_stream *stream;  /* the exchange's, beside the shared expert */
	int64_t slices;            /* etp where each row goes to all slices, else 1 */
	int64_t here, ffn;         /* L; F of an expert */
	int64_t shared_cols;       /* width of the shared expert here */
	void *sums;                /* f32 (layers, B, E, 2): of the step, what the balance loss sees; NULL: nobody asks */
	void *loss;                /* f64 (2): balance and z loss of the step; NULL: there is none */
	bool again;                /* the forward pass is one that was done before */
	int32_t *host_counts;      /* owned: (ranks of the exchange, E) */
};

/* What the forward pass keeps for the backward pass, in the activation arena; behind that, what the host knows of it. */
struct mt_experts_saved {
	void *logits;        /* f32 (S,E) */
	void *index;         /* i32 (S,K) */
	void *place;         /* i32 (S,K): where a choice's row stands among the P */
	void *source;        /* i32 (P) */
	void *rows;          /* (N,C) what the experts got */
	void *weights;       /* f32 (N) */
	void *up;            /* (N,F or 2F) */
	void *activation;    /* (N,F), with the weight */
	void *sums;          /* f32 (B,E,2) */
	void *shared_up;     /* (R, F or 2F) of the shared expert */
	void *shared_act;    /* (R,F) */
	void *gate_logits;   /* f32 (R) */
	void *gate;          /* f32 (R) */
	void *gate_index;    /* i32 (R), zeros */
	int64_t places, got; /* P, N */
	int64_t *host;       /* owned: offsets of the groups and the plan of the exchange */
	int64_t *offsets;    /* (L+1), into host */
	int64_t *send_counts, *send_first, *recv_counts, *recv_first, *back_first; /* (ranks, L) rows, into host */
};

/* Life. The shape is set before groups are made. */
enum mt_status mt_experts_create(struct mt_engine *e);
enum mt_status mt_experts_make_buffers(struct mt_engine *e);
void mt_experts_destroy(struct mt_engine *e);

/* h(S,C) is the norm's output; *whole its rows gathered over tp, (R,C), for the shared expert (the same without sp). begin
 * leaves what is kept in `saved`; end gives the layer's output before the residual, (S,C), new. */
enum mt_status mt_experts_begin(struct mt_engine *e, int layer, struct mt_layer_saved *saved, const void *h);
enum mt_status mt_experts_end(struct mt_engine *e, int layer, struct mt_layer_saved *saved, void **output);
/* dy(S,C) -> *dh(S,C), new: the gradient of h. h as in begin. Frees what was kept. */
enum mt_status mt_experts_backward(struct mt_engine *e, int layer, struct mt_layer_saved *saved, const void *h, void *dy,
				   void **dh);
/* Frees what the forward pass can compute again, or, `act` true, the activations alone. */
void mt_experts_free(struct mt_engine *e, struct mt_experts_saved *saved, bool act);
enum mt_status mt_experts_activate(struct mt_engine *e, struct mt_experts_saved *saved);

/* experts_exchange.c. rows(P,cols) to the ranks of their experts: *got(N,cols), new. And back: got -> (slices * P, cols), new.
 * `start` enqueues it on the exchange's stream, `wait` lets the compute stream go on after it. */
enum mt_status mt_exchange_plan(struct mt_engine *e, struct mt_experts_saved *saved, const void *counts);
enum mt_status mt_exchange_start(struct mt_engine *e, const struct mt_experts_saved *saved, const void *rows, void *got,
				 int64_t cols, enum mt_dtype dtype);
enum mt_status mt_exchange_start_back(struct mt_engine *e, const struct mt_experts_saved *saved, const void *got, void *rows,
				      int64_t cols, enum mt_dtype dtype);
enum mt_status mt_exchange_wait(struct mt_engine *e);
/* Whether rows leave this rank at all. */
bool mt_exchange_needed(const struct mt_engine *e);

/* router.c */
enum mt_status mt_router_forward(struct mt_engine *e, int layer, struct mt_experts_saved *saved, const void *h, void **weights,
				 void **counts);
/* dweights f32 (S,K) -> adds to dh(S,C) and to the router's gradient; frees what the router kept. */
enum mt_status mt_router_backward(struct mt_engine *e, int layer, struct mt_experts_saved *saved, const void *h, void *dweights,
				  void *dh);

/* shared_expert.c: whole(R,C); *partial(R,C), new: this rank's part of the output, to be summed over tp. */
enum mt_status mt_shared_begin(struct mt_engine *e, const int *at, struct mt_experts_saved *saved, const void *whole);
enum mt_status mt_shared_activate(struct mt_engine *e, struct mt_experts_saved *saved);
enum mt_status mt_shared_end(struct mt_engine *e, const int *at, struct mt_experts_saved *saved, void **partial);
/* dy(R,C) -> *dh(R,C), new, this rank's part. */
enum mt_status mt_shared_backward(struct mt_engine *e, const int *at, struct mt_experts_saved *saved, const void *whole, void *dy,
				  void **dh);

/* Rows of a sequence that an expert takes; 0: all. */
int64_t mt_router_capacity(const struct mt_engine *e);

/* experts_balance.c: around a step, on all ranks: sums begin at zero; the losses, over all ranks; the biases follow the load. */
enum mt_status mt_experts_begin_step(struct mt_engine *e);
enum mt_status mt_experts_tell_losses(struct mt_engine *e, double losses[2]);
enum mt_status mt_experts_follow_load(struct mt_engine *e);

#endif
