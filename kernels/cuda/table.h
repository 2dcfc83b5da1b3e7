/* table: the operations that are kernels of our own, and the function of each. X(kind, function) for every one: expanded where a
 * device of them is made, on a GPU (cuda.c) and in the emulator (tests/cuda_host/device.h). Products and attention are not here. */
#ifndef MT_KERNELS_CUDA_TABLE_H
#define MT_KERNELS_CUDA_TABLE_H

#define MT_CUDA_KERNELS(X)                                                                                                         \
	X(MT_OP_NORM, mt_cuda_norm)                                                                                                \
	X(MT_OP_NORM_BWD, mt_cuda_norm_bwd)                                                                                        \
	X(MT_OP_ACTIVATION, mt_cuda_activation)                                                                                    \
	X(MT_OP_ACTIVATION_BWD, mt_cuda_activation_bwd)                                                                            \
	X(MT_OP_ROPE, mt_cuda_rope)                                                                                                \
	X(MT_OP_EMBEDDING, mt_cuda_embedding)                                                                                      \
	X(MT_OP_EMBEDDING_BWD, mt_cuda_embedding_bwd)                                                                              \
	X(MT_OP_ADD, mt_cuda_add)                                                                                                  \
	X(MT_OP_BIAS_GRAD, mt_cuda_bias_grad)                                                                                      \
	X(MT_OP_LOSS_STATS, mt_cuda_loss_stats)                                                                                    \
	X(MT_OP_LOSS, mt_cuda_loss)                                                                                                \
	X(MT_OP_CAST, mt_cuda_cast)                                                                                                \
	X(MT_OP_FILL, mt_cuda_fill)                                                                                                \
	X(MT_OP_COPY, mt_cuda_copy)                                                                                                \
	X(MT_OP_SUMSQ, mt_cuda_sumsq)                                                                                              \
	X(MT_OP_ADAMW, mt_cuda_adamw)                                                                                              \
	X(MT_OP_SGD, mt_cuda_sgd)                                                                                                  \
	X(MT_OP_COMBINE, mt_cuda_combine)                                                                                          \
	X(MT_OP_AMAX, mt_cuda_amax)                                                                                                \
	X(MT_OP_FP8_SCALE, mt_cuda_fp8_scale)                                                                                      \
	X(MT_OP_QUANTIZE, mt_cuda_quantize)                                                                                        \
	X(MT_OP_ROUTE, mt_cuda_route)                                                                                              \
	X(MT_OP_ROUTE_SUMS, mt_cuda_route_sums)                                                                                    \
	X(MT_OP_ROUTE_LOSS, mt_cuda_route_loss)                                                                                    \
	X(MT_OP_ROUTE_BWD, mt_cuda_route_bwd)                                                                                      \
	X(MT_OP_DROP, mt_cuda_drop)                                                                                                \
	X(MT_OP_DISPATCH, mt_cuda_dispatch)                                                                                        \
	X(MT_OP_GATHER_ROWS, mt_cuda_gather_rows)                                                                                  \
	X(MT_OP_SUM_ROWS, mt_cuda_sum_rows)                                                                                        \
	X(MT_OP_EXPERT_ACT, mt_cuda_expert_act)                                                                                    \
	X(MT_OP_EXPERT_ACT_BWD, mt_cuda_expert_act)                                                                                \
	X(MT_OP_SPREAD, mt_cuda_spread)                                                                                            \
	X(MT_OP_SPREAD_BWD, mt_cuda_spread)

#endif
