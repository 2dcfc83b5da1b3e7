/* target: machines and stacks from files. A file holds one section; `like: NAME` starts from another file's values, so that a
 * cluster is its accelerator and what differs. */
#define _GNU_SOURCE
#include "profiles/target.h"

#include "base/catalog.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define M(f) offsetof(struct mt_target, f)
#define S(f) offsetof(struct mt_stack, f)
#define TEXT(n, o, h)                                                                                                              \
	{                                                                                                                          \
		n, MT_OPTION_STRING, o, NULL, 0, 0, NULL, h                                                                        \
	}
#define NUM(n, o, d, lo, hi, h)                                                                                                    \
	{                                                                                                                          \
		n, MT_OPTION_FLOAT, o, d, lo, hi, NULL, h                                                                          \
	}
#define INT(n, o, d, lo, hi, h)                                                                                                    \
	{                                                                                                                          \
		n, MT_OPTION_INT, o, d, lo, hi, NULL, h                                                                            \
	}
#define FLAG(n, o, d, h)                                                                                                           \
	{                                                                                                                          \
		n, MT_OPTION_BOOL, o, d, 0, 0, NULL, h                                                                             \
	}

static const struct mt_option machine_options[] = {
	TEXT("name", M(name), "name of the machine"),
	TEXT("like", M(like), "machine file whose values this one starts from"),
	TEXT("source", M(source), "where the numbers come from"),
	TEXT("accelerator", M(accelerator), "machine whose accelerators a cluster has"),
	INT("units", M(units), "108", 1, 4096, "multiprocessors of an accelerator"),
	NUM("tflops_16", M(tflops_16), "312", 1, 1e6, "dense peak of 16-bit products, TFLOP/s"),
	NUM("tflops_8", M(tflops_8), "0", 0, 1e6, "dense peak of 8-bit products, TFLOP/s; 0: none"),
	NUM("tflops_4", M(tflops_4), "0", 0, 1e6, "dense peak of 4-bit products, TFLOP/s; 0: none"),
	NUM("memory_gib", M(memory_gib), "80", 1, 1e5, "memory of an accelerator, GiB"),
	NUM("memory_gbps", M(memory_gbps), "2039", 1, 1e6, "its bandwidth, GB/s"),
	NUM("memory_frac", M(memory_frac), "0.85", 0.05, 1, "share of it that large copies reach"),
	NUM("product_frac", M(product_frac), "0.85", 0.05, 1, "share of the 16-bit peak in a tile's inner loop"),
	NUM("product_8_frac", M(product_8_frac), "0.65", 0.05, 1, "share of the 8-bit peak in a tile's inner loop"),
	NUM("product_4_frac", M(product_4_frac), "0", 0, 1, "share of the 4-bit peak; 0: that of 8 bits"),
	NUM("product_mx8_gain", M(product_mx8_gain), "0.92", 0.05, 1.5,
	    "rate of 8-bit products with a scale a block over those with one a tensor"),
	NUM("sustained_frac", M(sustained_frac), "0.9", 0.3, 1, "share of the rate of lone products that training keeps"),
	NUM("product_k0", M(product_k0), "128", 0, 4096, "prologue and epilogue of a tile, in steps of k"),
	NUM("product_memory_frac", M(product_memory_frac), "0.6", 0.05, 20,
	    "share of the bandwidth that products reach, caches included"),
	NUM("tile_128_frac", M(tile_128_frac), "0.9", 0.1, 1.2, "rate of 128x128 tiles over that of 256x128"),
	NUM("tile_64_frac", M(tile_64_frac), "0.7", 0.1, 1.2, "rate of 64x64 tiles over that of 256x128"),
	NUM("unaligned_frac", M(unaligned_frac), "0.35", 0.02, 1, "rate of products with rows that are no multiple of 8 elements"),
	NUM("product_us", M(product_us), "3", 0, 1000, "start of a product, us"),
	NUM("attention_frac", M(attention_frac), "0.7", 0.05, 1.2, "rate of fused attention over that of products"),
	NUM("attention_2_frac", M(attention_2_frac), "0.66", 0.05, 1.2, "the same of FlashAttention-2's kernels"),
	NUM("kernel_us", M(kernel_us), "3", 0, 1000, "shortest kernel, us"),
	INT("node_gpus", M(node_gpus), "8", 1, 1024, "accelerators of a node"),
	INT("domain_gpus", M(domain_gpus), "8", 1, 1024, "accelerators joined by fast links"),
	NUM("link_gbps", M(link_gbps), "300", 0.1, 1e5, "fast links of an accelerator, one direction, GB/s"),
	NUM("link_frac", M(link_frac), "0.7", 0.05, 1.5, "share of them that long collectives reach"),
	NUM("link_fast_frac", M(link_fast_frac), "0.4", 0.01, 1, "share of that in the quick protocol"),
	NUM("link_us", M(link_us), "10", 0, 1e4, "start of a collective, us"),
	NUM("link_hop_us", M(link_hop_us), "0.6", 0, 1e4, "each step of a collective, us"),
	NUM("link_bulk_us", M(link_bulk_us), "20", 0, 1e4, "further start of the bulk protocol, us"),
	NUM("switch_gain", M(switch_gain), "1", 0.1, 4, "gain of in-switch reduction"),
	NUM("nic_gbps", M(nic_gbps), "25", 0.01, 1e5, "network of an accelerator, one direction, GB/s"),
	NUM("nic_frac", M(nic_frac), "0.8", 0.05, 1, "share of it that long messages reach"),
	NUM("nic_us", M(nic_us), "8", 0, 1e5, "each hop between nodes, us"),
	INT("leaf_nodes", M(leaf_nodes), "32", 1, 1000000, "nodes below one leaf switch"),
	NUM("spine_frac", M(spine_frac), "0.9", 0.1, 1, "bandwidth left for each factor of 8 in leaves"),
};
const struct mt_option_table mt_target_options = {"machine", machine_options, sizeof machine_options / sizeof machine_options[0]};

static const struct mt_option stack_options[] = {
	TEXT("name", S(name), "name of the software"),
	TEXT("like", S(like), "stack file whose values this one starts from"),
	TEXT("source", S(source), "where the numbers come from"),
	TEXT("family", S(family), "software that this is a choice of options of: calibration and errors count it as that"),
	FLAG("fused_attention", S(fused_attention), "true", "attention never writes its scores"),
	FLAG("fused_elementwise", S(fused_elementwise), "true", "bias, dropout, activation and residual are fused"),
	FLAG("sp_default", S(sp_default), "true", "sequence parallelism wherever tp > 1 and nothing is said"),
	FLAG("balanced_stages", S(balanced_stages), "false", "layers are dealt to stages so that the head counts for its cost"),
	INT("recompute_default", S(recompute_default), "0", 0, 2, "recompute where nothing is said: 0 none, 1 selective, 2 full"),
	INT("vocab_multiple", S(vocab_multiple), "128", 1, 65536, "words a tensor-parallel rank that the vocabulary is padded to"),
	FLAG("pads_whole_vocab", S(pads_whole_vocab), "true", "the vocabulary is padded also where it is not split"),
	INT("attention_generation", S(attention_generation), "3", 2, 3, "fused attention: 3, made for the machine, or 2"),
	NUM("attention_gain", S(attention_gain), "1", 0.05, 4, "this software's fused attention over the machine's"),
	NUM("attention_8_gain", S(attention_8_gain), "1", 0.05, 4, "the same beside 8-bit products, models with experts"),
	NUM("product_8_gain", S(product_8_gain), "1", 0.05, 4, "rate of its 8-bit products over the machine's"),
	NUM("clamped_passes", S(clamped_passes), "2", 0, 100, "operations of 32 bits on clamped gates and values of experts"),
	FLAG("fused_experts", S(fused_experts), "false", "activation and casts are part of the experts' 8-bit products"),
	NUM("elementwise_passes", S(elementwise_passes), "1.2", 0.1, 10, "traffic of vector operations over the least"),
	NUM("host_forward_us", S(host_forward_us), "250", 0, 1e6, "host time of a layer's forward pass, us"),
	NUM("host_backward_us", S(host_backward_us), "300", 0, 1e6, "host time of a layer's backward pass, us"),
	NUM("host_comm_us", S(host_comm_us), "30", 0, 1e6, "host time of a collective, us"),
	NUM("host_expert_us", S(host_expert_us), "1500", 0, 1e6, "further host time of a layer of experts in a pass, us"),
	FLAG("experts_whole", S(experts_whole), "false", "tensor-parallel ranks do not split experts where nothing is said"),
	NUM("host_cast_us", S(host_cast_us), "0", 0, 1e6, "further host time of a product of 8 or 4 bits in a pass, us"),
	FLAG("blocking_launches", S(blocking_launches), "false", "the host waits for each kernel (CUDA_LAUNCH_BLOCKING=1)"),
	NUM("message_us", S(message_us), "0", 0, 1e6, "launches and wait of a pipeline message, us"),
	NUM("microbatch_us", S(microbatch_us), "1000", 0, 1e7, "host time of a micro-batch, us"),
	NUM("step_us", S(step_us), "10000", 0, 1e8, "host time of a step, us"),
	NUM("accumulate_bytes", S(accumulate_bytes), "0", 0, 100, "traffic of summing gradients, bytes a weight and micro-batch"),
	NUM("grad_bytes", S(grad_bytes), "4", 1, 8, "bytes of a gradient element on the wire"),
	NUM("dp_overlap_frac", S(dp_overlap_frac), "0.8", 0, 1, "share of a backward pass that hides reductions"),
	NUM("strided_nic_frac", S(strided_nic_frac), "1", 0.01, 1, "of the cards' rate for data-parallel groups apart in a node"),
	FLAG("gathers_narrow", S(gathers_narrow), "false", "sharded parameters are gathered in 8 bits where products want these"),
	NUM("sharded_overlap_frac", S(sharded_overlap_frac), "0.9", 0, 1, "the same under ZeRO-3, of each pass"),
	NUM("tp_overlap_frac", S(tp_overlap_frac), "0", 0, 1, "share of tensor-parallel communication that is hidden"),
	FLAG("tp_copies", S(tp_copies), "false", "what sequence parallelism gathers or scatters is copied once more"),
	FLAG("tp_gathers_wide", S(tp_gathers_wide), "false", "tensor-parallel ranks gather 16 bits also for 8-bit products"),
	NUM("tp_switch_frac", S(tp_switch_frac), "0", 0, 1, "the same where a switch is on that is off by default; 0: no switch"),
	NUM("tp_switch_buffers", S(tp_switch_buffers), "0", 0, 100, "a layer's gathered inputs that this switch keeps room for"),
	NUM("ep_overlap_frac", S(ep_overlap_frac), "0", 0, 1, "share of the exchange with experts that is hidden"),
	FLAG("ep_exposes_host", S(ep_exposes_host), "false", "that overlap leaves the host time of layers of experts open"),
	NUM("p2p_overlap_frac", S(p2p_overlap_frac), "0", 0, 1, "share of pipeline messages that is hidden"),
	FLAG("expert_dedup", S(expert_dedup), "false", "a token goes to a node once, however many of its experts are there"),
	FLAG("scatter_gather", S(scatter_gather), "true", "pipeline messages are split over tensor-parallel ranks"),
	NUM("broadcast_us", S(broadcast_us), "0", 0, 1e6, "each optimizer rank's own broadcast of what it updated, us"),
	NUM("optimizer_bytes", S(optimizer_bytes), "40", 1, 1000, "memory traffic of the update, bytes a parameter"),
	NUM("selective_frac", S(selective_frac), "0", 0, 1, "share of a layer's products that selective recompute repeats"),
	NUM("cast_passes", S(cast_passes), "1", 0, 10, "traffic of casts to 8 and 4 bits over one read and two writes"),
	NUM("jitter_frac", S(jitter_frac), "0.003", 0, 0.2, "time lost to the slowest rank for each factor of e in ranks"),
	NUM("context_gib", S(context_gib), "2", 0, 100, "context, libraries and communicators, GiB"),
	NUM("fragmentation_frac", S(fragmentation_frac), "0.03", 0, 1, "memory lost to fragmentation"),
	NUM("spread_frac", S(spread_frac), "0.25", 0.001, 2, "half of the 90% interval before calibration"),
	INT("most_tp", S(most_tp), "1048576", 1, 1 << 20, "widest tensor parallelism; 1: none"),
	INT("most_pp", S(most_pp), "1048576", 1, 1 << 20, "deepest pipeline; 1: none"),
	INT("most_cp", S(most_cp), "1048576", 1, 1 << 20, "widest context parallelism; 1: none"),
	INT("most_ep", S(most_ep), "1048576", 1, 1 << 20, "widest expert parallelism; 1: none"),
	INT("least_zero", S(least_zero), "0", 0, 3, "least ZeRO stage: 3 for fully sharded software"),
	INT("most_zero", S(most_zero), "3", 0, 3, "most that is sharded: ZeRO stage"),
	INT("seen_gpus", S(seen_gpus), "0", 0, 1 << 20, "accelerators of the largest run that the forecast was held against"),
	FLAG("interleaves", S(interleaves), "true", "several model chunks a stage"),
	FLAG("zero_bubble", S(zero_bubble), "false", "the schedule zb-h1: weight gradients apart"),
	FLAG("expert_tp", S(expert_tp), "false", "experts are split over other ranks than the rest of a layer: etp"),
	INT("most_less", S(most_less), "1", 0, 3, "layers that the first and the last stage may each have less than the others"),
	FLAG("cp_gathers", S(cp_gathers), "false", "context parallelism that gathers keys and values"),
	FLAG("cp_heads", S(cp_heads), "false", "context parallelism that exchanges heads (Ulysses)"),
	FLAG("cp_two_levels", S(cp_two_levels), "false", "heads exchanged by some ranks, a ring over the others"),
	FLAG("zero_groups", S(zero_groups), "false", "shards over a part of the ranks, copies across"),
	FLAG("pp_before_dp", S(pp_before_dp), "false", "ranks also in the order tp-cp-ep-pp-dp"),
	FLAG("selects_norms", S(selects_norms), "false", "selective recompute of the norms' outputs"),
	FLAG("selects_activation", S(selects_activation), "false", "selective recompute of the MLP activation's output"),
	FLAG("frees_attention", S(frees_attention), "false", "selective recompute frees the attention's output too"),
	FLAG("selects_layers", S(selects_layers), "false", "selective recompute of the first layers alone"),
	FLAG("kv_replicated", S(kv_replicated), "true", "tp beyond the key and value heads repeats them"),
};
const struct mt_option_table mt_stack_options = {"stack", stack_options, sizeof stack_options / sizeof stack_options[0]};

static const char *const factor_names[MT_FACTORS] = {"product", "low",  "attention", "memory", "host",   "link", "nic",
						     "exposed", "pipe", "step",      "jitter", "expert", "layer"};

const char *mt_factor_name(enum mt_factor factor)
{
	return factor_names[factor];
}

char *mt_target_path(const char *kind, const char *what)
{
	return strchr(what, '/') || strstr(what, ".yaml") ? strdup(what) : mt_catalog_path(kind, what);
}

enum { LIKE_DEPTH = 6 };

/* The file below first, then this one's own values over it. */
static enum mt_status read_file(const struct mt_option_table *table, void *values, const char *kind, const char *what, int depth)
{
	static const char *const known[] = {"machine", "stack"};
	char *path = mt_target_path(kind, what);
	struct mt_yaml *root = NULL;
	const struct mt_yaml *section, *like;
	const char *base;
	enum mt_status st = path ? MT_OK : mt_fail(MT_NOMEM, "no memory for a path");

	if (st == MT_OK && strcmp(path, what) != 0 && access(path, R_OK) != 0)
		st = mt_catalog_unknown(kind, what, "give the path of a YAML file");
	if (st == MT_OK && depth > LIKE_DEPTH)
		st = mt_fail(MT_INPUT, "%s: like: goes in a circle", path);
	if (st != MT_OK)
		goto out;
	MT_GOTO(out, mt_yaml_load(&root, path));
	MT_GOTO(out, mt_yaml_check_keys(root, known, 2));
	section = mt_yaml_get(root, table->name);
	if (!section) {
		st = mt_fail(MT_INPUT, "%s: no section '%s:'", path, table->name);
		goto out;
	}
	like = mt_yaml_get(section, "like");
	if (like) {
		MT_GOTO(out, mt_yaml_string(like, "like", &base));
		MT_GOTO(out, read_file(table, values, kind, base, depth + 1));
	}
	st = mt_options_read(table, values, section);
out:
	mt_yaml_free(root);
	free(path);
	return st;
}

enum mt_status mt_target_load(struct mt_target *target, const char *what)
{
	enum mt_status st;

	mt_options_default(&mt_target_options, target);
	st = read_file(&mt_target_options, target, "machines", what, 0);
	if (st != MT_OK)
		mt_target_free(target);
	return st;
}

enum mt_status mt_stack_load(struct mt_stack *stack, const char *what)
{
	enum mt_status st;

	mt_options_default(&mt_stack_options, stack);
	st = read_file(&mt_stack_options, stack, "stacks", what, 0);
	if (st != MT_OK)
		mt_stack_free(stack);
	return st;
}

void mt_target_free(struct mt_target *target)
{
	mt_options_free(&mt_target_options, target);
}

void mt_stack_free(struct mt_stack *stack)
{
	mt_options_free(&mt_stack_options, stack);
}

const char *mt_stack_family(const struct mt_stack *stack)
{
	return stack->family && *stack->family ? stack->family : stack->name;
}
