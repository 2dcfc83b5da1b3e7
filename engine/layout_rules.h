/* layout_rules: the rows of the table of rules (layout.h), so that a search can name one: MT_RULE_heads_divisible_by_tp is its
 * index in mt_layout_rules. A row: name, the options it reads, what must be. */
#ifndef MT_ENGINE_LAYOUT_RULES_H
#define MT_ENGINE_LAYOUT_RULES_H

#include "engine/layout.h"

#define MT_LAYOUT_RULES(ROW)                                                                                                       \
	ROW(sizes_at_least_one, "tp pp vp cp ep dp mbs gbs seq", "every size must be at least 1")                                  \
	ROW(world_fits, "tp cp dp pp", "tp * cp * dp * pp must be at most 1,048,576 ranks")                                        \
	ROW(vp_needs_pp, "vp pp", "several model chunks a stage need a pipeline: vp above 1 needs pp above 1")                     \
	ROW(vp_groups_fit_microbatches, "gbs dp mbs vp_group pp",                                                                  \
	    "interleaved, the micro-batches gbs / (dp * mbs) must be vp_group (0: pp) or more, and a multiple of it or such that " \
	    "pp or more are left over")                                                                                            \
	ROW(vp_group_at_least_pp, "vp_group pp", "vp_group must be 0 or at least pp")                                              \
	ROW(vp_group_is_of_interleaved, "vp_group vp schedule", "vp_group is of the interleaved schedule: 1f1b with vp above 1")   \
	ROW(cp_kind_is_known, "cp_kind", "cp_kind must be ring, allgather, ulysses or hybrid")                                     \
	ROW(seq_divisible_by_cp, "seq cp cp_kind",                                                                                 \
	    "with context parallelism seq must be a multiple of 2 * cp (each rank has two halves), for ulysses of cp")             \
	ROW(cp_inner_divides_cp, "cp cp_inner", "hybrid context parallelism: cp must be a multiple of cp_inner")                   \
	ROW(cp_inner_is_of_hybrid, "cp_inner cp_kind", "cp_inner is of cp_kind hybrid: elsewhere it is 1")                         \
	ROW(heads_divisible_by_exchange, "heads kv_heads tp cp cp_inner",                                                          \
	    "ranks that exchange heads need as many each: heads and kv_heads must be multiples of tp * cp (ulysses) or tp * "      \
	    "cp_inner (hybrid)")                                                                                                   \
	ROW(documents_is_known, "documents", "documents must be joined or apart")                                                  \
	ROW(ep_needs_experts, "ep etp experts", "ep above 1 and etp are of a model with experts")                                  \
	ROW(experts_divisible_by_ep, "experts ep", "experts must be a multiple of ep")                                             \
	ROW(expert_ffn_divisible_by_etp, "expert_ffn etp tp", "the experts' width must be a multiple of etp (0: tp)")              \
	ROW(shared_ffn_divisible_by_tp, "shared_ffn tp", "the shared expert's width must be a multiple of tp")                     \
	ROW(expert_ranks_fold, "tp cp dp etp ep",                                                                                  \
	    "tp * cp * dp must be a multiple of etp * ep (etp 0: tp): experts use the same ranks")                                 \
	ROW(experts_of_whole_rows_are_split_as_tp, "tp etp sp",                                                                    \
	    "without sp all tensor-parallel ranks have the same tokens: experts need sp, or etp as tp")                            \
	ROW(capacity_needs_whole_sequences, "cp", "a capacity counts the rows of whole sequences: cp must be 1")                   \
	ROW(capacity_pad_needs_whole_rows, "tp sp", "capacity_pad needs whole sequences on each rank: tp must be 1, or sp off")    \
	ROW(layers_at_least_pp, "layers pp vp",                                                                                    \
	    "every model chunk must have a layer, but by stage_layers: layers must be at least pp * vp")                           \
	ROW(end_layers_fit, "layers pp vp first_layers last_layers",                                                               \
	    "first_layers and last_layers must leave at least a layer for each other model chunk")                                 \
	ROW(stage_layers_fit, "stage_layers layers pp vp",                                                                         \
	    "stage_layers must be the layers of pp * vp model chunks, commas between (4x6: six of 4), and all layers of the "      \
	    "model")                                                                                                               \
	ROW(stage_layers_name_the_ends, "stage_layers first_layers last_layers",                                                   \
	    "stage_layers names the ends too: first_layers and last_layers must be 0")                                             \
	ROW(hidden_divisible_by_heads, "hidden heads", "hidden must be a multiple of heads unless head_dim is given")              \
	ROW(heads_divisible_by_tp, "heads tp", "attention heads must be a multiple of tp")                                         \
	ROW(kv_heads_divisible_by_tp, "kv_heads tp", "key and value heads must be a multiple of tp")                               \
	ROW(mtp_tokens_within_seq, "mtp seq", "a sequence must have more tokens than the model has multi-token modules")           \
	ROW(ffn_divisible_by_tp, "ffn tp", "the inner width of the MLP must be a multiple of tp")                                  \
	ROW(gbs_divisible_by_dp_mbs, "gbs dp mbs", "gbs must be a multiple of dp * mbs")                                           \
	ROW(microbatches_at_least_one, "gbs dp mbs",                                                                               \
	    "gbs must be at least dp * mbs: every data-parallel rank needs a micro-batch")                                         \
	ROW(microbatch_tokens_fit, "mbs seq", "mbs * seq must be below 2^31 tokens")                                               \
	ROW(seq_within_positions, "seq model.seq", "seq must be at most the model's learned positions")                            \
	ROW(sp_needs_tp, "sp tp", "sequence parallelism needs tp above 1")                                                         \
	ROW(sp_rows_divisible_by_tp, "mbs seq cp tp", "with sequence parallelism mbs * seq / cp must be a multiple of tp")         \
	ROW(zero_is_known, "zero", "zero must be 0, 1, 2 or 3")                                                                    \
	ROW(zero_2_needs_whole_backward_passes, "zero schedule",                                                                   \
	    "zero 2 and 3 reduce gradients in every backward pass: not with a zero-bubble schedule, which puts them off")          \
	ROW(zero_needs_dp, "zero dp cp", "zero shards over data- and context-parallel ranks: it needs dp or cp above 1")           \
	ROW(zero_group_divides_dp, "zero_group dp cp", "dp * cp must be a multiple of zero_group")                                 \
	ROW(zero_group_needs_zero, "zero_group zero", "zero_group is of ranks that shard: it needs zero and at least 2 of them")   \
	ROW(recompute_is_known, "recompute", "recompute must be none, selective or full")                                          \
	ROW(recompute_layers_need_recompute, "recompute_layers recompute", "recompute_layers needs recompute selective or full")   \
	ROW(recompute_stages_are_of_a_pipeline, "recompute_stages recompute pp",                                                   \
	    "recompute_stages needs recompute selective or full, and is below pp (0: all stages)")                                 \
	ROW(selective_names_something, "recompute_attention recompute_activation recompute_norm",                                  \
	    "selective recompute needs one of recompute_attention, recompute_activation and recompute_norm")                       \
	ROW(offload_layers_not_negative, "offload_layers", "offload_layers must be at least 0")                                    \
	ROW(schedule_is_known, "schedule", "schedule must be 1f1b, zb-h1 or zb-v")                                                 \
	ROW(zero_bubble_needs_pp, "schedule pp", "a zero-bubble schedule needs a pipeline: pp above 1")                            \
	ROW(zb_h1_has_one_chunk, "schedule vp", "schedule zb-h1 has one model chunk a stage: vp must be 1")                        \
	ROW(zb_v_has_two_chunks, "schedule vp", "schedule zb-v has two model chunks a stage: vp must be 2")                        \
	ROW(dtype_is_real, "dtype", "dtype must be f32, bf16, f16 or f64")                                                         \
	ROW(moments_are_f32_or_bf16, "moment1_dtype moment2_dtype dtype", "moments must be f32 or bf16, and f32 beside dtype f64") \
	ROW(reduce_dtype_fits, "reduce_dtype dtype zero",                                                                          \
	    "reduce_dtype must be f32 or bf16, and f32 beside dtype f64 and with zero 2 and 3")                                    \
	ROW(fp8_needs_half, "fp8 dtype", "fp8 needs dtype bf16 or f16 for what is not a product of a layer")                       \
	ROW(fp8_format_is_known, "fp8 fp8_format", "fp8 must be none, delayed or current, and fp8_format hybrid or e4m3")          \
	ROW(fp8_widths_are_multiples_of_16, "fp8 hidden heads kv_heads ffn tp",                                                    \
	    "in fp8 hidden, and the widths of a rank's heads (queries, and all) and MLP must be multiples of 16")                  \
	ROW(fp8_experts_are_multiples_of_16, "fp8 expert_ffn shared_ffn etp tp",                                                   \
	    "in fp8 a rank's widths of an expert and of the shared expert must be multiples of 16")                                \
	ROW(fp8_rows_are_a_multiple_of_16, "fp8 mbs seq cp", "in fp8 mbs * seq must be a multiple of 16 * cp")                     \
	ROW(fp8_history_at_least_one, "fp8 fp8_history", "fp8_history must be at least 1")                                         \
	ROW(threads_not_negative, "threads", "threads must be at least 0")                                                         \
	ROW(bucket_bytes_not_negative, "bucket_bytes", "bucket_bytes must be at least 0")

#define MT_RULE_INDEX(rule, values, text) MT_RULE_##rule,
enum mt_rule { MT_LAYOUT_RULES(MT_RULE_INDEX) MT_RULES };

#endif
