/* reference: private to kernels/reference. Elements of any type as doubles, and one function an operation.
 *
 * Everything is read into double, computed and summed in double, and rounded once where it is stored, so the answer of
 * each operation is defined up to that one rounding. */
#ifndef MT_KERNELS_REFERENCE_REFERENCE_H
#define MT_KERNELS_REFERENCE_REFERENCE_H

#include "base/status.h"
#include "kernels/fp8.h"
#include "kernels/op.h"

#include <math.h>

static inline double load(enum mt_dtype dtype, const void *base, int64_t i)
{
	switch (dtype) {
	case MT_F32:
		return ((const float *)base)[i];
	case MT_BF16:
		return mt_bf16_to_f32(((const uint16_t *)base)[i]);
	case MT_F64:
		return ((const double *)base)[i];
	case MT_F16:
		return mt_f16_to_f32(((const uint16_t *)base)[i]);
	case MT_E4M3:
		return mt_e4m3_to_f32(((const uint8_t *)base)[i]);
	case MT_E5M2:
		return mt_e5m2_to_f32(((const uint8_t *)base)[i]);
	default:
		return ((const int32_t *)base)[i];
	}
}

/* Integers are rounded to nearest; what does not fit saturates, NaN becomes 0. */
static inline int32_t to_i32(double value)
{
	if (!(value > INT32_MIN))
		return isnan(value) ? 0 : INT32_MIN;
	return value < INT32_MAX ? (int32_t)lrint(value) : INT32_MAX;
}

static inline void store(enum mt_dtype dtype, void *base, int64_t i, double value)
{
	switch (dtype) {
	case MT_F32:
		((float *)base)[i] = (float)value;
		break;
	case MT_BF16:
		((uint16_t *)base)[i] = mt_bf16_from_f32((float)value);
		break;
	case MT_F64:
		((double *)base)[i] = value;
		break;
	case MT_F16:
		((uint16_t *)base)[i] = mt_f16_from_f32((float)value);
		break;
	case MT_E4M3:
		((uint8_t *)base)[i] = mt_e4m3_from_f32((float)value);
		break;
	case MT_E5M2:
		((uint8_t *)base)[i] = mt_e5m2_from_f32((float)value);
		break;
	default:
		((int32_t *)base)[i] = to_i32(value);
		break;
	}
}

/* base[i] += value */
static inline void accumulate(enum mt_dtype dtype, void *base, int64_t i, double value)
{
	store(dtype, base, i, load(dtype, base, i) + value);
}

/* The type of what op.h calls f32. */
static inline enum mt_dtype wide(const struct mt_op *op)
{
	return op->dtype == MT_F64 ? MT_F64 : MT_F32;
}

double mt_reference_gelu(double x);
double mt_reference_gelu_slope(double x);
/* A result of a product, where the product has GELU or its gradient: what op.h says of `pre` and, of dgrad, `dbias`. */
void mt_reference_store_y(const struct mt_op *op, int64_t i, double sum);
void mt_reference_store_dx(const struct mt_op *op, int64_t row, int64_t col, double sum);

enum mt_status mt_reference_linear(const struct mt_op *op);
enum mt_status mt_reference_linear_dgrad(const struct mt_op *op);
enum mt_status mt_reference_linear_wgrad(const struct mt_op *op);
enum mt_status mt_reference_attention(const struct mt_op *op);
enum mt_status mt_reference_attention_bwd(const struct mt_op *op);
enum mt_status mt_reference_norm(const struct mt_op *op);
enum mt_status mt_reference_norm_bwd(const struct mt_op *op);
enum mt_status mt_reference_activation(const struct mt_op *op);
enum mt_status mt_reference_activation_bwd(const struct mt_op *op);
enum mt_status mt_reference_rope(const struct mt_op *op);
enum mt_status mt_reference_embedding(const struct mt_op *op);
enum mt_status mt_reference_embedding_bwd(const struct mt_op *op);
enum mt_status mt_reference_add(const struct mt_op *op);
enum mt_status mt_reference_bias_grad(const struct mt_op *op);
enum mt_status mt_reference_loss_stats(const struct mt_op *op);
enum mt_status mt_reference_loss(const struct mt_op *op);
enum mt_status mt_reference_cast(const struct mt_op *op);
enum mt_status mt_reference_fill(const struct mt_op *op);
enum mt_status mt_reference_copy(const struct mt_op *op);
enum mt_status mt_reference_sumsq(const struct mt_op *op);
enum mt_status mt_reference_adamw(const struct mt_op *op);
enum mt_status mt_reference_sgd(const struct mt_op *op);
enum mt_status mt_reference_combine(const struct mt_op *op);
enum mt_status mt_reference_amax(const struct mt_op *op);
enum mt_status mt_reference_fp8_scale(const struct mt_op *op);
enum mt_status mt_reference_quantize(const struct mt_op *op);
enum mt_status mt_reference_grouped(const struct mt_op *op); /* all three kinds */
enum mt_status mt_reference_route(const struct mt_op *op);
enum mt_status mt_reference_route_sums(const struct mt_op *op);
enum mt_status mt_reference_route_loss(const struct mt_op *op);
enum mt_status mt_reference_route_bwd(const struct mt_op *op);
enum mt_status mt_reference_drop(const struct mt_op *op);
enum mt_status mt_reference_dispatch(const struct mt_op *op);
enum mt_status mt_reference_gather_rows(const struct mt_op *op);
enum mt_status mt_reference_sum_rows(const struct mt_op *op);
enum mt_status mt_reference_expert_act(const struct mt_op *op); /* and its backward */
enum mt_status mt_reference_spread(const struct mt_op *op);
enum mt_status mt_reference_spread_bwd(const struct mt_op *op);

#endif
