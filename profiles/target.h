/* target: a machine that is not at hand and the software that will run on it, as numbers from YAML files in profiles/machines and
 * profiles/stacks; and the seconds of an operation or a collective on them. Pure functions of plain structs: no allocation, so that
 * a search may call them from many threads. Products: GB/s are 1e9 bytes/s in one direction; peaks are dense. */
#ifndef MT_PROFILES_TARGET_H
#define MT_PROFILES_TARGET_H

#include "base/options.h"

/* Bits of an element of the operands: which peak a product has. */
/* Of the operands of products. MX8: 8 bits with a scale for each 32 elements. */
enum mt_width { MT_WIDTH_16, MT_WIDTH_8, MT_WIDTH_4, MT_WIDTH_MX8 };

struct mt_target {
	char *name, *like, *source; /* owned; like: the file whose values this one starts from */
	char *accelerator;          /* owned; of a cluster: the machine whose accelerators it has; NULL: its own */
	/* the accelerator */
	int64_t units;                               /* streaming multiprocessors or compute units */
	double tflops_16, tflops_8, tflops_4;        /* dense peaks; 0: the type is not there */
	double memory_gib, memory_gbps, memory_frac; /* memory_frac: of memory_gbps that large copies reach */
	double product_frac, product_8_frac;         /* of the peak, in the inner loop of the best tile */
	double product_4_frac;                       /* 0: product_8_frac */
	double product_mx8_gain;                     /* rate of MX8 products over that of 8 bits */
	double sustained_frac;                       /* of those rates kept in training: power, clocks, cold caches */
	double product_k0;                           /* inner steps' worth of prologue and epilogue a tile */
	double product_memory_frac, tile_128_frac, tile_64_frac, product_us;
	double unaligned_frac;   /* rate of products with rows that are no multiple of 8 elements */
	double attention_frac;   /* fused attention's forward rate over the product rate, long causal sequences, head size 128 */
	double attention_2_frac; /* the same of kernels of the generation before (FlashAttention-2) */
	double kernel_us;        /* shortest kernel */
	/* links of one node or NVLink domain */
	int64_t node_gpus, domain_gpus;
	double link_gbps, link_frac, link_fast_frac, link_us, link_hop_us, link_bulk_us, switch_gain;
	/* between nodes, a GPU's share */
	double nic_gbps, nic_frac, nic_us;
	int64_t leaf_nodes;
	double spine_frac; /* bandwidth that is left each time that a group is 8 times as many nodes as a leaf has */
};

struct mt_stack {
	char *name, *like, *source; /* owned */
	char *family;               /* owned; the software that this is a choice of options of; NULL: its own */
	bool fused_attention, fused_elementwise, sp_default;
	bool balanced_stages;         /* layers are dealt to stages so that the head counts for what it costs */
	int64_t recompute_default;    /* where nothing is said: 0 none, 1 selective, 2 full */
	int64_t vocab_multiple;       /* the vocabulary is padded to this many words a tensor-parallel rank; 1: to what divides */
	bool pads_whole_vocab;        /* also where one rank has it all */
	int64_t attention_generation; /* of its fused attention: 3, written for the machine, or 2 */
	double attention_gain;        /* of this software's fused attention over the machine's */
	double attention_8_gain;      /* the same where products have 8 or 4 bits, models with experts */
	double product_8_gain;        /* rate of its 8-bit products over the machine's */
	double clamped_passes;        /* operations of 32 bits on gates and values of experts with biases and clamps (gpt-oss) */
	bool fused_experts;           /* activation and casts are part of the experts' products, where these have 8 or 4 bits */
	double elementwise_passes;    /* traffic of the vector operations over the least that fused kernels need */
	double host_forward_us, host_backward_us, host_comm_us; /* host time a layer; of each collective in it */
	double host_expert_us;                                  /* further, a layer of experts */
	bool experts_whole;                                     /* where nothing is said, etp is 1 and not tp */
	double host_cast_us;           /* further, of each product with operands of 8 or 4 bits: scales and casts */
	bool blocking_launches;        /* the host waits for each kernel: its own time is never hidden */
	double message_us;             /* of a pipeline message, a pass of a chunk: launches and the wait for the other stage */
	bool expert_dedup;             /* a token goes to a node once */
	double microbatch_us, step_us; /* host time a micro-batch; a step */
	double accumulate_bytes;       /* memory traffic a weight and micro-batch of summing gradients; 0: the products do it */
	double grad_bytes;             /* bytes of a gradient element on the wire */
	double dp_overlap_frac;        /* of the last backward pass that may hide reductions */
	double strided_nic_frac;       /* of the cards' rate for data-parallel groups with several ranks on a node where tp > 1 */
	bool gathers_narrow;           /* sharded parameters are gathered in the 8 or 4 bits that products want */
	double sharded_overlap_frac;   /* the same where parameters are sharded (ZeRO-3): of each pass */
	double tp_overlap_frac;        /* of tensor-parallel communication hidden behind products */
	bool tp_copies;                /* what sequence parallelism gathers or scatters lies apart and is copied once more */
	bool tp_gathers_wide;          /* these are gathered in 16 bits also where products want 8 or 4, and cast after */
	double tp_switch_frac;         /* the same where a switch that is off by default is on; 0: there is none */
	double tp_switch_buffers;      /* gathered inputs of a layer that the switch keeps room for */
	double ep_overlap_frac;        /* of the exchange with experts hidden beside another micro-batch */
	bool ep_exposes_host;          /* what hides it waits for the host, layer by layer: its time is not hidden there */
	double p2p_overlap_frac;       /* of pipeline messages hidden */
	bool scatter_gather;           /* pipeline messages are split over the tensor-parallel ranks */
	double broadcast_us;    /* of updated weights: ranks that share the optimizer's state send theirs one after the other */
	double optimizer_bytes; /* memory traffic a parameter of the update */
	double selective_frac;  /* of a layer's products that selective recompute does again, beside the attention */
	double cast_passes;     /* traffic of casts to 8 and 4 bits: 1 where each operand is read once and written twice */
	double jitter_frac;     /* time lost to the slowest rank, each factor of e in ranks */
	double context_gib, fragmentation_frac;
	double spread_frac; /* half of the 90% interval of a prediction that no run has calibrated */
	/* what the software can do: the widest of each kind of parallelism, 1 for none; ZeRO stages */
	int64_t most_tp, most_pp, most_cp, most_ep, least_zero, most_zero;
	int64_t seen_gpus; /* accelerators of the largest run that the forecast was held against; beyond it extrapolates */
	int64_t most_less; /* layers that the first and the last stage may each have less than the others */
	bool interleaves, zero_bubble, kv_replicated, expert_tp;
	bool cp_gathers, cp_heads, cp_two_levels; /* kinds of context parallelism beside the ring (engine/layout.h) */
	bool zero_groups;                         /* shards over fewer ranks than hold the same parameters, copies across */
	bool pp_before_dp;                        /* also ranks in the order tp-cp-ep-pp-dp, stages next to one another */
	/* selective recompute: of the norms' and of the activation's outputs; the attention's output is freed too; of some layers
	 */
	bool selects_norms, selects_activation, frees_attention, selects_layers;
};

extern const struct mt_option_table mt_target_options, mt_stack_options;

/* `what`: a name in profiles/machines (profiles/stacks), or a path. MT_INPUT names the file, line, key. */
enum mt_status mt_target_load(struct mt_target *target, const char *what);
enum mt_status mt_stack_load(struct mt_stack *stack, const char *what);
void mt_target_free(struct mt_target *target);
void mt_stack_free(struct mt_stack *stack);
/* What calibration and errors count it as. */
const char *mt_stack_family(const struct mt_stack *stack);
/* The file NAME.yaml of a kind ("machines", "stacks", "maps"); free() it. Not there: the name itself. */
char *mt_target_path(const char *kind, const char *what);

/* What calibration may change: each multiplies one physical quantity, 1 when nothing is known better. */
enum mt_factor {
	MT_FACTOR_PRODUCT,   /* time of 16-bit products */
	MT_FACTOR_LOW,       /* further time of 8- and 4-bit products */
	MT_FACTOR_ATTENTION, /* time of attention */
	MT_FACTOR_MEMORY,    /* time of vector operations and the optimizer */
	MT_FACTOR_HOST,      /* host time */
	MT_FACTOR_LINK,      /* time of collectives within a node */
	MT_FACTOR_NIC,       /* time of collectives between nodes */
	MT_FACTOR_EXPOSED,   /* data-parallel communication that is not hidden */
	MT_FACTOR_PIPE,      /* time of pipeline messages */
	MT_FACTOR_STEP,      /* time of a step outside of the passes */
	MT_FACTOR_JITTER,    /* time lost to many ranks */
	MT_FACTOR_EXPERT,    /* time of dispatch and experts */
	MT_FACTOR_LAYER,     /* time of a layer, where layers of its shape were measured */
	MT_FACTORS
};
const char *mt_factor_name(enum mt_factor factor);
struct mt_factors {
	double of[MT_FACTORS];
};

double mt_target_width_bytes(enum mt_width width); /* of an element; 4 bits have a scale of 8 for each 16, MX8 for each 32 */
double mt_target_peak_tflops(const struct mt_target *target, enum mt_width width); /* 0: the machine has no such products */
/* `groups` products (m,k)(k,n), one kernel; seconds. A type that the machine has not is computed in 16 bits. */
double mt_target_product_s(const struct mt_target *target, enum mt_width width, double groups, double m, double n, double k);
/* A vector operation that moves `bytes`. */
double mt_target_vector_s(const struct mt_target *target, double bytes);

enum mt_collective { MT_ALL_REDUCE, MT_ALL_GATHER, MT_REDUCE_SCATTER, MT_ALL_TO_ALL };
/* A group: ranks, how many of them share a node (NVLink domain), and how many nodes on the next ones are; 0 as 1: neighbours. */
struct mt_span {
	double ranks, local, nodes_apart;
};
/* The group of `ranks` that are `stride` apart in rank order. */
struct mt_span mt_target_span(const struct mt_target *target, double ranks, double stride);
/* The same where members come in blocks: `block` ranks `stride` apart, the next block `apart` from where this one begins; the group
 * has every `step`th of them. */
struct mt_span mt_target_span_blocks(const struct mt_target *target, double ranks, double step, double block, double stride,
				     double apart);
/* Seconds of a collective of `bytes` (the whole buffer) while every GPU is in such a group; *link_s and *nic_s its parts. */
void mt_target_collective(const struct mt_target *target, enum mt_collective op, struct mt_span span, double bytes, double *link_s,
			  double *nic_s);
/* A message between ranks `stride` apart; crosses_node says which link. */
double mt_target_message_s(const struct mt_target *target, double bytes, double stride, bool *crosses_node);

#endif
