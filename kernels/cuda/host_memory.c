/* host_memory: host memory that the GPU reads and writes by itself. An arena's addresses are reserved as any host memory is;
 * what is in use is pinned in steps, as it grows: pinned memory cannot be paged out, so no more of it than needed. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>

struct cuda_pinned {
	struct cuda_pinned *next;
	void *base;
};

static enum mt_status reserve(void *context, size_t bytes, void **base)
{
	return mt_arena_host.reserve(NULL, bytes, base);
}

static void release(void *context, void *base, size_t bytes)
{
	struct cuda_device *cuda = context;
	struct cuda_pinned **at = &cuda->pinned;
	while (*at) {
		struct cuda_pinned *piece = *at;
		if ((char *)piece->base < (char *)base || (char *)piece->base >= (char *)base + bytes) {
			at = &piece->next;
			continue;
		}
		cudaHostUnregister(piece->base);
		*at = piece->next;
		free(piece);
	}
	mt_arena_host.release(NULL, base, bytes);
}

static enum mt_status commit(void *context, void *base, size_t from_bytes, size_t to_bytes, char why[160])
{
	struct cuda_device *cuda = context;
	struct cuda_pinned *piece = malloc(sizeof *piece);
	cudaError_t error = cudaErrorMemoryAllocation;
	if (piece) {
		piece->base = (char *)base + from_bytes;
		error = cudaHostRegister(piece->base, to_bytes - from_bytes, cudaHostRegisterDefault);
	}
	if (error != cudaSuccess) {
		cudaGetLastError();
		snprintf(why, 160, "no more host memory can be pinned (%s): see ulimit -l", cudaGetErrorString(error));
		free(piece);
		return MT_NOMEM;
	}
	piece->next = cuda->pinned;
	cuda->pinned = piece;
	return MT_OK;
}

void cuda_host_memory_open(struct cuda_device *cuda)
{
	cuda->host_memory = (struct mt_arena_backing){
		.name = "pinned host", .reserve = reserve, .release = release, .context = cuda, .commit = commit, .resident = true};
}
