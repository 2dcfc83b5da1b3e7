/* layout: how a training job is spread over ranks, and the rules a layout must keep.
 *
 * world = tp * cp * dp * pp; rank order, fastest first: tp, cp, dp, pp (Megatron's). Experts fold onto the same ranks: the
 * tp * cp * dp of a stage are etp * ep * edp for them, etp fastest. */
#ifndef MT_ENGINE_LAYOUT_H
#define MT_ENGINE_LAYOUT_H

#include "base/options.h"
#include "base/status.h"
#include "engine/model.h"
#include "engine/schedule.h"
#include "kernels/fp8.h"

#include <stdbool.h>
#include <stdint.h>

/* How attention reaches the keys and values of the other context-parallel ranks (context.h). */
enum mt_context_kind { MT_CONTEXT_RING, MT_CONTEXT_ALL_GATHER, MT_CONTEXT_ULYSSES, MT_CONTEXT_HYBRID };

/* Documents packed in one sequence: one text, or apart: attention and positions begin anew with each. */
enum mt_documents_kind { MT_DOCUMENTS_JOINED, MT_DOCUMENTS_APART };

enum mt_recompute { MT_RECOMPUTE_NONE, MT_RECOMPUTE_SELECTIVE, MT_RECOMPUTE_FULL };

/* How scales are found. */
enum mt_fp8_recipe { MT_FP8_NONE, MT_FP8_DELAYED, MT_FP8_CURRENT };
enum mt_fp8_amax { MT_FP8_AMAX_MAX, MT_FP8_AMAX_LATEST };

struct mt_layout {
	int64_t tp, pp, vp, cp, ep, dp;
	int cp_kind;                       /* enum mt_context_kind */
	int64_t cp_inner;                  /* hybrid: ranks that exchange heads; the rings go over the others */
	int64_t etp;                       /* tensor-parallel ranks of an expert; 0: tp */
	int64_t vp_group;                  /* interleaved: micro-batches that a chunk takes before the next; 0: pp */
	int64_t first_layers, last_layers; /* layers of the first and of the last virtual stage; 0: an even share */
	/* layers of every virtual stage in order, "3,4x6,2" (4x6: six of 4 each); empty: even but for the ends above */
	char stage_layers[MT_OPTION_TEXT_BYTES];
	int64_t mbs;        /* sequences in a micro-batch */
	int64_t gbs;        /* sequences in a step, all data-parallel ranks together */
	int64_t seq;        /* tokens in a sequence */
	int documents;      /* enum mt_documents_kind */
	bool sp;            /* sequence parallelism beside tensor parallelism */
	int64_t zero;       /* sharded over dp * cp: 1 optimizer state, 2 gradients too, 3 parameters too */
	int64_t zero_group; /* ranks that shard between them, copies across; 0: all of dp * cp */
	int recompute;      /* enum mt_recompute */
	/* selective: the outputs that are not kept. Never the scores: attention stores none. */
	bool recompute_attention, recompute_activation, recompute_norm;
	int64_t recompute_layers;         /* the first layers of each model chunk that recompute; 0: all */
	int64_t recompute_stages;         /* only on the first pipeline stages, which hold most micro-batches at once; 0: on all */
	int64_t offload_layers;           /* the first layers of each model chunk whose activations wait in host memory */
	int schedule;                     /* enum mt_schedule */
	int dtype;                        /* enum mt_dtype of parameters and activations: f32, bf16, f16 or f64 */
	int reduce_dtype;                 /* enum mt_dtype that gradients are summed over ranks in: f32 or bf16 */
	int moment1_dtype, moment2_dtype; /* enum mt_dtype of AdamW's moments: f32 or bf16 */
	/* products of the layers in 8 bits, see engine/fp8.c */
	int fp8, fp8_format, fp8_amax;         /* enum mt_fp8_recipe, enum mt_fp8_format, enum mt_fp8_amax */
	int64_t fp8_history, fp8_margin;       /* steps that a delayed scale looks back; scales are divided by 2^margin */
	int64_t fp8_skip_first, fp8_skip_last; /* layers at the ends that stay in dtype */
	bool fp8_wgrad;                        /* weight gradients too */
	int64_t threads;                       /* host threads a rank; 0: all that the rank may use */
	int64_t bucket_bytes;                  /* gradient bucket size (f32 bytes); 0: one bucket */
};

extern const struct mt_option_table mt_layout_options;

/* The micro-batches of a step on each data-parallel rank: gbs / (dp * mbs). */
int64_t mt_layout_microbatches(const struct mt_layout *layout);
int64_t mt_layout_world(const struct mt_layout *layout);
/* Whether a layer, the layer'th of its model chunk, recomputes on that pipeline stage. */
bool mt_layout_recomputes(const struct mt_layout *layout, int64_t stage, int64_t layer);

/* This rank's coordinates, and back. */
struct mt_coordinates {
	int tp, cp, dp, pp;
	int etp, ep, edp; /* of the same rank among experts: its number among the tp*cp*dp of a stage, cut anew */
};
struct mt_coordinates mt_layout_coordinates(const struct mt_layout *layout, int rank);
int mt_layout_rank(const struct mt_layout *layout, struct mt_coordinates at);
/* World ranks of the group of `rank` along one axis: 't','c','d','p'; 'r': all that hold the same parameters, cp and dp together;
 * 'u', 'o': those of cp that exchange heads, and that make a ring (context.h). ranks[] must hold the axis' size; returns it.
 * Axis ranks are `stride` apart (stride may be NULL). */
int mt_layout_group(const struct mt_layout *layout, int rank, char axis, int *ranks, int *stride);

/* The same for experts: 't' tensor-parallel, 'e' expert-parallel, 'd' data-parallel ranks, 'x' the first two together. */
int mt_layout_expert_group(const struct mt_layout *layout, int rank, char axis, int *ranks, int *stride);
int64_t mt_layout_etp(const struct mt_layout *layout);
int64_t mt_layout_edp(const struct mt_layout *layout);

/* One rule that a layout must keep for a model. The table is the same for the check of a run file and for the search's why-not
 * list. */
struct mt_layout_rule {
	const char *name; /* "heads_divisible_by_tp" */
	const char *text; /* "attention heads must be a multiple of tp" */
	bool (*broken)(const struct mt_model *model, const struct mt_layout *layout);
	const char *values; /* the options it reads, blanks between: "heads tp"; "model.seq" where both have one */
};
extern const struct mt_layout_rule mt_layout_rules[];
extern const int mt_layout_rule_count;
/* Index of the first rule that is broken, or -1. */
int mt_layout_first_broken(const struct mt_model *model, const struct mt_layout *layout);
/* MT_INPUT listing every broken rule with the values. `where` starts the message. */
enum mt_status mt_layout_check(const struct mt_model *model, const struct mt_layout *layout, const char *where);

/* Short text, the same everywhere: "tp2 pp1 dp1 mbs4 sp zero1 full t1" (only what differs from the plain case). */
void mt_layout_text(const struct mt_layout *layout, char buf[96]);

/* Ranks that hold the same parameters, and this one's place among them. */
int64_t mt_layout_replicas(const struct mt_layout *layout);
int mt_layout_replica(const struct mt_layout *layout, struct mt_coordinates at);

/* The schedule's shape on this layout. */
struct mt_schedule_shape mt_layout_schedule(const struct mt_layout *layout);
/* The pipeline stage that has the head: the last, in a V the first. */
int mt_layout_head_stage(const struct mt_layout *layout);
/* As the options name them: "selective", "zb-h1". */
const char *mt_layout_recompute_name(const struct mt_layout *layout);
const char *mt_layout_context_name(const struct mt_layout *layout); /* "ring", "hybrid" */
const char *mt_layout_schedule_name(const struct mt_layout *layout);
extern const char *const mt_fp8_recipes[]; /* "none", "delayed", "current", NULL: by enum mt_fp8_recipe */

/* layout_cut.c: how the layers are cut, as runs of virtual stages that have as many layers each. Those that first_layers and
 * last_layers leave are spread evenly; a remainder goes one each to the middle first (the ends hold embedding and head). */
struct mt_layout_run {
	int64_t stages, layers;
};
enum { MT_LAYOUT_RUNS = MT_OPTION_TEXT_BYTES / 2 };
/* In order; returns how many, 0: stage_layers is no such list. That the runs are of pp*vp stages and all layers is a rule. */
int mt_layout_cut(const struct mt_model *model, const struct mt_layout *layout, struct mt_layout_run runs[MT_LAYOUT_RUNS]);
/* The list of these counts into stage_layers; false, and nothing done: it is too long for it. */
bool mt_layout_list(struct mt_layout *layout, const int64_t *counts, int64_t stages);
/* Layers of a virtual stage (0 .. pp*vp-1): first and count. */
void mt_layout_stage_layers(const struct mt_model *model, const struct mt_layout *layout, int virtual_stage, int64_t *first,
			    int64_t *count);
/* Vocabulary padded to a multiple of 128 * tp, as Megatron does. */
int64_t mt_layout_padded_vocab(const struct mt_model *model, const struct mt_layout *layout);

#endif
