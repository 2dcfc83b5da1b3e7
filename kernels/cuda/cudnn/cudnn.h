/* cudnn: the plugin `cudnn`, attention through cuDNN's fused kernels. Its table, reached by mt_plugin_open; no CUDA header needed.
 *
 * cuDNN is asked through its C backend interface: an operation is a graph of small operations that its engines recognise as
 * attention, and a plan is what an engine makes of the graph. Plans are kept by shape. Only engines that give the same bits every
 * time are used. What cuDNN does not do, or not for this GPU, is MT_UNAVAILABLE: f32, packed documents, tensors that do not lie at
 * multiples of 16 bytes, a workspace over MT_GPU_CUDNN_BYTES, head sizes beyond its own limits.
 *
 * One mt_cudnn serves one device and one thread at a time. */
#ifndef MT_KERNELS_CUDA_CUDNN_CUDNN_H
#define MT_KERNELS_CUDA_CUDNN_CUDNN_H

#include "base/status.h"
#include "kernels/op.h"
#include "kernels/scratch.h"

#include <stddef.h>

#define MT_CUDNN_ABI 1

struct mt_cudnn;
struct mt_cudnn_plan; /* belongs to its mt_cudnn and lives as long */

struct mt_cudnn_ops {
	/* For the current CUDA device, or for a GPU that is not here, `described` in cuDNN's JSON (sm_90 and so on): then plans can
	 * be looked for and not run. MT_UNAVAILABLE: no driver, no GPU, or this cuDNN does not know it. */
	enum mt_status (*open)(const char *described, struct mt_cudnn **cudnn);
	void (*close)(struct mt_cudnn *cudnn);
	/* The plan for an ATTENTION or ATTENTION_BWD of this shape, made when first asked for; the workspace it needs. Looks at the
	 * alignment of the pointers, not at what they point at. */
	enum mt_status (*plan)(struct mt_cudnn *cudnn, const struct mt_op *op, const struct mt_cudnn_plan **plan,
			       size_t *workspace_bytes);
	/* Enqueues it on a cudaStream_t. The workspace is aligned to 256 bytes. */
	enum mt_status (*run)(struct mt_cudnn *cudnn, const struct mt_cudnn_plan *plan, void *stream, const struct mt_op *op,
			      void *workspace);
	int (*version)(void); /* of the library that was loaded: 91900 is 9.19.0 */
};

#endif
