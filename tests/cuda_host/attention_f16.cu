/* attention_f16: the attention kernels for f16, which no type of the program names yet, for the test alone. */
#include "kernels/cuda/attention.cuh"

#define MT_ATTENTION_ELEMENT  __half
#define MT_ATTENTION_FORWARD  attend
#define MT_ATTENTION_BACKWARD attend_bwd

namespace forward
{
#include "kernels/cuda/attention_forward.cu"
}
namespace backward
{
#include "kernels/cuda/attention_backward.cu"
}

extern "C" {
enum mt_status cuda_host_attention_f16(struct mt_cuda_launch *on, const struct mt_op *op);
enum mt_status cuda_host_attention_f16_bwd(struct mt_cuda_launch *on, const struct mt_op *op);
uint16_t cuda_host_f16_from_f32(float value);
float cuda_host_f16_to_f32(uint16_t value);
}

enum mt_status cuda_host_attention_f16(struct mt_cuda_launch *on, const struct mt_op *op)
{
	return forward::attend(on, op);
}

enum mt_status cuda_host_attention_f16_bwd(struct mt_cuda_launch *on, const struct mt_op *op)
{
	return backward::attend_bwd(on, op);
}

uint16_t cuda_host_f16_from_f32(float value)
{
	return __float2half_rn(value).x;
}

float cuda_host_f16_to_f32(uint16_t value)
{
	__half h;
	h.x = value;
	return __half2float(h);
}
