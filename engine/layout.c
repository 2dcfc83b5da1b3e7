/* layout: the option table, ranks and groups, and how words are cut.
 *
 * rank = tp + TP * (cp + CP * (dp + DP * pp)): tensor-parallel neighbours have neighbouring ranks, as they talk most. */
#include "engine/layout.h"

#include "engine/context.h"

#include <stdio.h>
#include <string.h>

static const char *const recomputes[] = {"none", "selective", "full", NULL};
static const char *const schedules[] = {
	[MT_SCHEDULE_1F1B] = "1f1b", [MT_SCHEDULE_ZB_H1] = "zb-h1", [MT_SCHEDULE_ZB_V] = "zb-v", NULL};
static const char *const contexts[] = {[MT_CONTEXT_RING] = "ring",
				       [MT_CONTEXT_ALL_GATHER] = "allgather",
				       [MT_CONTEXT_ULYSSES] = "ulysses",
				       [MT_CONTEXT_HYBRID] = "hybrid",
				       NULL};
static const char *const documents[] = {[MT_DOCUMENTS_JOINED] = "joined", [MT_DOCUMENTS_APART] = "apart", NULL};
static const char *const dtypes[] = {[MT_F32] = "f32", [MT_BF16] = "bf16", [MT_F64] = "f64", [MT_F16] = "f16", NULL};

static const char *const moments[] = {[MT_F32] = "f32", [MT_BF16] = "bf16", NULL};
const char *const mt_fp8_recipes[] = {"none", "delayed", "current", NULL};
static const char *const formats[] = {[MT_FP8_OFF] = "off", [MT_FP8_HYBRID] = "hybrid", [MT_FP8_E4M3] = "e4m3", NULL};
static const char *const amaxes[] = {"max", "latest", NULL};

#define INT(field, value, least, most, help)                                                                                       \
	{                                                                                                                          \
#field, MT_OPTION_INT, offsetof(struct mt_layout, field), value, least, most, NULL, help                           \
	}
#define CHOICE(field, value, choices, help)                                                                                        \
	{                                                                                                                          \
#field, MT_OPTION_CHOICE, offsetof(struct mt_layout, field), value, 0, 0, choices, help                            \
	}

#define BOOL(field, value, help)                                                                                                   \
	{                                                                                                                          \
#field, MT_OPTION_BOOL, offsetof(struct mt_layout, field), value, 0, 0, NULL, help                                 \
	}

/* Bounds are those of any machine; what a model allows is in the rules. */
enum { BUCKET_BYTES = 40 << 20 }; /* the default of bucket_bytes */

static const struct mt_option options[] = {
	INT(tp, "1", 1, 1 << 20, "tensor-parallel ranks: heads, MLP columns and words are split over them"),
	INT(pp, "1", 1, 1 << 20, "pipeline stages: layers are split over them"),
	INT(vp, "1", 1, 1 << 20, "model chunks a stage: above 1 the schedule is interleaved"),
	INT(vp_group, "0", 0, 1 << 20, "interleaved: micro-batches that a chunk takes before the next; 0: pp"),
	INT(first_layers, "0", 0, 1 << 20, "layers of the first model chunk, beside the embedding; 0: an even share"),
	INT(last_layers, "0", 0, 1 << 20, "layers of the last model chunk, beside the head; 0: an even share"),
	{"stage_layers", MT_OPTION_TEXT, offsetof(struct mt_layout, stage_layers), NULL, 0, 0, NULL,
	 "layers of each of the pp * vp model chunks in order, such as 3,4x6,2 (4x6: six chunks of 4); none: an even share"},
	INT(cp, "1", 1, 1 << 20, "context-parallel ranks: the tokens of each sequence are split over them"),
	CHOICE(cp_kind, "ring", contexts,
	       "how attention reaches the keys and values of other ranks: ring passes them on, allgather gathers them, ulysses "
	       "exchanges heads for rows, hybrid exchanges heads among cp_inner ranks and passes on among the others"),
	INT(cp_inner, "1", 1, 1 << 20, "hybrid: context-parallel ranks that exchange heads"),
	INT(ep, "1", 1, 1 << 20, "expert-parallel ranks, of the same tp * cp * dp: experts are split over them"),
	INT(etp, "0", 0, 1 << 20, "tensor-parallel ranks of an expert; 0: tp"),
	INT(dp, "1", 1, 1 << 20, "data-parallel ranks: sequences are split over them"),
	INT(mbs, "1", 1, 1 << 20, "sequences in a micro-batch"),
	INT(gbs, "8", 1, 1 << 30, "sequences in a step, all data-parallel ranks together"),
	INT(seq, "0", 0, 1 << 24, "tokens in a sequence; 0: the model's longest"),
	CHOICE(documents, "joined", documents,
	       "documents packed in one sequence; apart: attention and positions begin anew with each"),
	BOOL(sp, "false", "sequence parallelism: between products each tensor-parallel rank holds a part of the rows"),
	INT(zero, "0", 0, 3,
	    "what is sharded over the data- and context-parallel ranks: 1 optimizer state, 2 gradients too, 3 parameters too"),
	INT(zero_group, "0", 0, 1 << 20, "neighbouring ranks of these that shard between them, with copies across; 0: all"),
	CHOICE(recompute, "none", recomputes,
	       "full: keep only a layer's input and run its forward pass again before its backward pass; selective: do so for the "
	       "outputs named by recompute_attention, recompute_activation and recompute_norm"),
	BOOL(recompute_attention, "false", "selective: the attention's output, which costs its forward pass again"),
	BOOL(recompute_activation, "true", "selective: the output of the MLP's activation"),
	BOOL(recompute_norm, "true", "selective: the outputs of the norms"),
	INT(recompute_layers, "0", 0, 1 << 20, "the first layers of each model chunk that recompute; 0: all"),
	INT(recompute_stages, "0", 0, 1 << 20, "the first pipeline stages, which alone recompute; 0: all"),
	INT(offload_layers, "0", 0, 1 << 20,
	    "the first layers of each model chunk whose activations wait in host memory for their backward pass"),
	CHOICE(schedule, "1f1b", schedules,
	       "order of the micro-batches' passes on a stage; zb-h1, zb-v: zero bubble, weight gradients are passes of their own"),
	CHOICE(dtype, "f32", dtypes, "element type of parameters and activations; f64 on the reference device only"),
	CHOICE(reduce_dtype, "f32", moments,
	       "element type in which gradients are summed over the ranks that hold the same parameters; micro-batches are summed "
	       "in f32"),
	CHOICE(moment1_dtype, "f32", moments, "element type of the optimizer's first moment"),
	CHOICE(moment2_dtype, "f32", moments,
	       "element type of the optimizer's second moment; in bf16 beta2 above 0.99 stands still"),
	CHOICE(fp8, "none", mt_fp8_recipes,
	       "products of the layers in 8 bits, scaled by the greatest values of the last steps (delayed) or of the tensor "
	       "itself "
	       "(current)"),
	CHOICE(fp8_format, "hybrid", formats, "hybrid: gradients in e5m2, all else in e4m3; e4m3: gradients too"),
	INT(fp8_history, "16", 1, 1 << 16, "delayed: steps of which the greatest value counts"),
	CHOICE(fp8_amax, "max", amaxes, "delayed: the greatest value of fp8_history steps, or of the latest alone"),
	INT(fp8_margin, "0", 0, 16, "fp8: scales are divided by 2 to this power"),
	INT(fp8_skip_first, "0", 0, 1 << 20, "fp8: first layers of the model that stay in dtype"),
	INT(fp8_skip_last, "0", 0, 1 << 20, "fp8: last layers of the model that stay in dtype"),
	BOOL(fp8_wgrad, "true", "fp8: weight gradients too; false: they stay in dtype"),
	INT(threads, "0", 0, 4096, "host threads a rank; 0: all that the rank may use"),
	INT(bucket_bytes, "40Mi", 0, 1e15,
	    "gradient bucket in bytes of f32, reduced at once; 0: one bucket. With zero 2 and 3 whole layers, one at least"),
};

const struct mt_option_table mt_layout_options = {"layout", options, sizeof options / sizeof options[0]};

int64_t mt_layout_microbatches(const struct mt_layout *layout)
{
	return layout->gbs / (layout->dp * layout->mbs);
}

bool mt_layout_recomputes(const struct mt_layout *layout, int64_t stage, int64_t layer)
{
	return layout->recompute != MT_RECOMPUTE_NONE && (layout->recompute_layers == 0 || layer < layout->recompute_layers) &&
	       (layout->recompute_stages == 0 || stage < layout->recompute_stages);
}

int64_t mt_layout_world(const struct mt_layout *layout)
{
	const int64_t sizes[] = {layout->tp, layout->cp, layout->dp, layout->pp};
	int64_t world = 1;

	for (int i = 0; i < 4; i++) {
		if (__builtin_mul_overflow(world, sizes[i], &world))
			return INT64_MAX;
	}
	return world;
}

int64_t mt_layout_replicas(const struct mt_layout *layout)
{
	return layout->cp * layout->dp;
}

int mt_layout_replica(const struct mt_layout *layout, struct mt_coordinates at)
{
	return at.cp + (int)layout->cp * at.dp;
}

int64_t mt_layout_etp(const struct mt_layout *layout)
{
	return layout->etp > 0 ? layout->etp : layout->tp;
}

int64_t mt_layout_edp(const struct mt_layout *layout)
{
	int64_t parts = mt_layout_etp(layout) * layout->ep, ranks = layout->tp * layout->cp * layout->dp;

	return parts > 0 && ranks > parts ? ranks / parts : 1;
}

/* A rank's place among experts. */
static void fold(const struct mt_layout *layout, int rank, struct mt_coordinates *at)
{
	int within = rank % (int)(layout->tp * layout->cp * layout->dp);
	int etp = (int)mt_layout_etp(layout), ep = (int)layout->ep;

	at->etp = within % etp;
	at->ep = within / etp % ep;
	at->edp = within / etp / ep;
}

struct mt_coordinates mt_layout_coordinates(const struct mt_layout *layout, int rank)
{
	struct mt_coordinates at;
	int tp = (int)layout->tp, cp = (int)layout->cp, dp = (int)layout->dp;

	at.tp = rank % tp;
	at.cp = rank / tp % cp;
	at.dp = rank / tp / cp % dp;
	at.pp = rank / tp / cp / dp;
	fold(layout, rank, &at);
	return at;
}

int mt_layout_rank(const struct mt_layout *layout, struct mt_coordinates at)
{
	return at.tp + (int)layout->tp * (at.cp + (int)layout->cp * (at.dp + (int)layout->dp * at.pp));
}

int mt_layout_group(const struct mt_layout *layout, int rank, char axis, int *ranks, int *stride)
{
	const int tp = (int)layout->tp, cp = (int)layout->cp, dp = (int)layout->dp, inner = mt_context_inner(layout);
	const struct {
		char axis;
		int step, size;
	} axes[] = {{'t', 1, tp},       {'c', tp, cp},    {'d', tp * cp, dp},           {'p', tp * cp * dp, (int)layout->pp},
		    {'r', tp, cp * dp}, {'u', tp, inner}, {'o', tp * inner, cp / inner}};
	int step = 0, size = 0;

	for (size_t i = 0; i < sizeof axes / sizeof *axes; i++) {
		if (axes[i].axis == axis) {
			step = axes[i].step;
			size = axes[i].size;
		}
	}
	if (!size)
		return 0;
	int first = rank - rank / step % size * step;
	for (int i = 0; i < size; i++)
		ranks[i] = first + i * step;
	if (stride)
		*stride = step;
	return size;
}

int mt_layout_expert_group(const struct mt_layout *layout, int rank, char axis, int *ranks, int *stride)
{
	int etp = (int)mt_layout_etp(layout), ep = (int)layout->ep, edp = (int)mt_layout_edp(layout);
	int step = axis == 't' || axis == 'x' ? 1 : axis == 'e' ? etp : axis == 'd' ? etp * ep : 0;
	int size = axis == 't' ? etp : axis == 'e' ? ep : axis == 'd' ? edp : axis == 'x' ? etp * ep : 0;
	int first = step ? rank - rank / step % size * step : 0;

	for (int i = 0; i < size; i++)
		ranks[i] = first + i * step;
	if (stride)
		*stride = step;
	return size;
}

/* Appends to text of 96 bytes, a blank between; what does not fit is cut. */
static void append(char buf[96], const char *name, int64_t value)
{
	size_t used = strlen(buf);

	if (value < 0)
		snprintf(buf + used, 96 - used, "%s%s", used ? " " : "", name);
	else
		snprintf(buf + used, 96 - used, "%s%s%lld", used ? " " : "", name, (long long)value);
}

static void append_bucket(char buf[96], int64_t bytes)
{
	char word[40];

	if (bytes == 0)
		append(buf, "one-bucket", -1);
	else if (bytes % (1 << 20) != 0)
		append(buf, "bucket", bytes);
	else {
		snprintf(word, sizeof word, "bucket%lldMi", (long long)(bytes >> 20));
		append(buf, word, -1);
	}
}

void mt_layout_text(const struct mt_layout *layout, char buf[96])
{
	buf[0] = '\0';
	append(buf, "tp", layout->tp);
	append(buf, "pp", layout->pp);
	append(buf, "dp", layout->dp);
	if (layout->vp != 1)
		append(buf, "vp", layout->vp);
	if (layout->cp != 1) {
		append(buf, "cp", layout->cp);
		append(buf, contexts[layout->cp_kind], layout->cp_kind == MT_CONTEXT_HYBRID ? layout->cp_inner : -1);
	}
	if (layout->ep != 1)
		append(buf, "ep", layout->ep);
	if (layout->etp != 0)
		append(buf, "etp", layout->etp);
	if (layout->schedule != MT_SCHEDULE_1F1B)
		append(buf, schedules[layout->schedule], -1);
	if (layout->vp_group != 0)
		append(buf, "group", layout->vp_group);
	if (layout->first_layers != 0)
		append(buf, "head", layout->first_layers);
	if (layout->last_layers != 0)
		append(buf, "tail", layout->last_layers);
	append(buf, "mbs", layout->mbs);
	if (layout->documents == MT_DOCUMENTS_APART)
		append(buf, "apart", -1);
	if (layout->sp)
		append(buf, "sp", -1);
	if (layout->zero != 0)
		append(buf, "zero", layout->zero);
	if (layout->zero_group != 0)
		append(buf, "of", layout->zero_group);
	if (layout->recompute != MT_RECOMPUTE_NONE)
		append(buf, recomputes[layout->recompute], -1);
	if (layout->recompute_layers != 0)
		append(buf, "first", layout->recompute_layers);
	if (layout->recompute_stages != 0)
		append(buf, "stages", layout->recompute_stages);
	if (layout->offload_layers != 0)
		append(buf, "offload", layout->offload_layers);
	if (layout->dp * layout->cp > 1 && layout->bucket_bytes != BUCKET_BYTES)
		append_bucket(buf, layout->bucket_bytes);
	if (layout->dtype != MT_F32)
		append(buf, dtypes[layout->dtype], -1);
	if (layout->reduce_dtype != MT_F32)
		append(buf, "g-bf16", -1);
	if (layout->moment1_dtype != MT_F32)
		append(buf, "m-bf16", -1);
	if (layout->moment2_dtype != MT_F32)
		append(buf, "v-bf16", -1);
	if (layout->fp8 != MT_FP8_NONE)
		append(buf, layout->fp8 == MT_FP8_DELAYED ? "fp8" : "fp8-current", -1);
	if (layout->fp8 != MT_FP8_NONE && layout->fp8_format == MT_FP8_E4M3)
		append(buf, "e4m3", -1);
	if (layout->threads != 0)
		append(buf, "t", layout->threads);
	if (layout->stage_layers[0]) {
		append(buf, "layers", -1);
		append(buf, layout->stage_layers, -1);
	}
}

const char *mt_layout_recompute_name(const struct mt_layout *layout)
{
	return recomputes[layout->recompute];
}

const char *mt_layout_context_name(const struct mt_layout *layout)
{
	return contexts[layout->cp_kind];
}

const char *mt_layout_schedule_name(const struct mt_layout *layout)
{
	return schedules[layout->schedule];
}

struct mt_schedule_shape mt_layout_schedule(const struct mt_layout *layout)
{
	return (struct mt_schedule_shape){.kind = (enum mt_schedule)layout->schedule,
					  .stages = (int)layout->pp,
					  .chunks = (int)layout->vp,
					  .microbatches = mt_layout_microbatches(layout),
					  .group = layout->vp_group};
}

int mt_layout_head_stage(const struct mt_layout *layout)
{
	int stage, chunk;

	mt_schedule_place((enum mt_schedule)layout->schedule, (int)layout->pp, (int)(layout->pp * layout->vp) - 1, &stage, &chunk);
	return stage;
}

int64_t mt_layout_padded_vocab(const struct mt_model *model, const struct mt_layout *layout)
{
	int64_t unit = 128 * layout->tp;

	return (model->vocab + unit - 1) / unit * unit;
}
