/* attention_f16: the attention kernels of attention_forward.cu and attention_backward.cu with f16 elements. */
#include "kernels/cuda/attention.cuh"

#define MT_ATTENTION_ELEMENT  __half
#define MT_ATTENTION_FORWARD  attend
#define MT_ATTENTION_BACKWARD attend_bwd

namespace f16_forward
{
static enum mt_status attend(struct mt_cuda_launch *on, const struct mt_op *op);
#include "kernels/cuda/attention_forward.cu"
} // namespace f16_forward
namespace f16_backward
{
static enum mt_status attend_bwd(struct mt_cuda_launch *on, const struct mt_op *op);
#include "kernels/cuda/attention_backward.cu"
} // namespace f16_backward

enum mt_status mt_cuda_attention_f16(struct mt_cuda_launch *on, const struct mt_op *op)
{
	return f16_forward::attend(on, op);
}

enum mt_status mt_cuda_attention_f16_bwd(struct mt_cuda_launch *on, const struct mt_op *op)
{
	return f16_backward::attend_bwd(on, op);
}
