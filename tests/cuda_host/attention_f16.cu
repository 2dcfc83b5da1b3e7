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
}

enum mt_status cuda_host_attention_f16(struct mt_cuda_launch *on, const struct mt_op *op)
{
	return forward::attend(on, op);
}

enum mt_status cuda_host_attention_f16_bwd(struct mt_cuda_launch *on, const struct mt_op *op)
{
	return backward::attend_bwd(on, op);
}
