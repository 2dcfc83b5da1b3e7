/* staging: copies between the host and the GPU through pinned memory.
 *
 * The GPU's copy engines read and write only memory that stays where it is, so an upload goes through a slot of pinned memory and
 * the caller may reuse its buffer at once; the host is held up only when all slots are on their way. A step's small uploads (the
 * tokens of a micro-batch) have many small slots, so that the host can run ahead of the GPU; large ones share two. */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { SMALL_SLOTS = MT_GPU_SMALL_SLOTS, LARGE_SLOTS = MT_GPU_LARGE_SLOTS, SLOTS = SMALL_SLOTS + LARGE_SLOTS };
#define SMALL_BYTES MT_GPU_SMALL_SLOT_BYTES
#define LARGE_BYTES MT_GPU_LARGE_SLOT_BYTES

struct slot {
	char *memory;
	cudaEvent_t free; /* recorded behind the last copy from it */
};

struct cuda_staging {
	char *memory; /* owned, pinned: all slots */
	struct slot slots[SLOTS];
	unsigned next_small, next_large;
};

enum mt_status cuda_staging_open(struct cuda_device *cuda)
{
	struct cuda_staging *s = calloc(1, sizeof *s);
	if (!s)
		return mt_fail(MT_NOMEM, "CUDA: no host memory for staging");
	cuda->staging = s;
	void *memory;
	CUDA_TRY(cudaStreamCreateWithFlags(&cuda->transfer, cudaStreamNonBlocking));
	CUDA_TRY(cudaMallocHost(&memory, MT_GPU_PINNED_BYTES));
	s->memory = memory;
	for (int i = 0; i < SLOTS; i++) {
		s->slots[i].memory = i < SMALL_SLOTS
					     ? s->memory + (size_t)i * SMALL_BYTES
					     : s->memory + SMALL_SLOTS * SMALL_BYTES + (size_t)(i - SMALL_SLOTS) * LARGE_BYTES;
		CUDA_TRY(cudaEventCreateWithFlags(&s->slots[i].free, cudaEventDisableTiming));
	}
	return MT_OK;
}

void cuda_staging_close(struct cuda_device *cuda)
{
	struct cuda_staging *s = cuda->staging;
	if (!s)
		return;
	if (cuda->transfer)
		cudaStreamDestroy(cuda->transfer);
	for (int i = 0; i < SLOTS; i++)
		if (s->slots[i].free)
			cudaEventDestroy(s->slots[i].free);
	if (s->memory)
		cudaFreeHost(s->memory);
	free(s);
	cuda->staging = NULL;
}

/* The next slot in turn, when what it held has gone. */
static enum mt_status take(struct cuda_staging *s, size_t bytes, struct slot **slot)
{
	*slot = bytes <= SMALL_BYTES ? &s->slots[s->next_small++ % SMALL_SLOTS]
				     : &s->slots[SMALL_SLOTS + s->next_large++ % LARGE_SLOTS];
	CUDA_TRY(cudaEventSynchronize((*slot)->free));
	return MT_OK;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

enum mt_status cuda_upload(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	struct slot *slot;
	for (size_t at = 0; at < bytes; at += LARGE_BYTES) {
		size_t count = least(bytes - at, LARGE_BYTES);
		MT_TRY(take(cuda_of(device)->staging, count, &slot));
		memcpy(slot->memory, (const char *)src + at, count);
		CUDA_TRY(cudaMemcpyAsync((char *)dst + at, slot->memory, count, cudaMemcpyHostToDevice, cuda_stream(stream)));
		CUDA_TRY(cudaEventRecord(slot->free, cuda_stream(stream)));
	}
	return MT_OK;
}

/* While one slot is copied out by the host, the next is on its way. */
enum mt_status cuda_download(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	struct slot *slot = NULL, *before = NULL;
	size_t before_at = 0, before_count = 0;
	for (size_t at = 0; at < bytes || before;) {
		size_t count = at < bytes ? least(bytes - at, LARGE_BYTES) : 0;
		slot = NULL;
		if (count) {
			MT_TRY(take(cuda_of(device)->staging, count, &slot));
			CUDA_TRY(cudaMemcpyAsync(slot->memory, (const char *)src + at, count, cudaMemcpyDeviceToHost,
						 cuda_stream(stream)));
			CUDA_TRY(cudaEventRecord(slot->free, cuda_stream(stream)));
		}
		if (before) {
			CUDA_TRY(cudaEventSynchronize(before->free));
			memcpy((char *)dst + before_at, before->memory, before_count);
		}
		before = slot;
		before_at = at;
		before_count = count;
		at += count;
	}
	return MT_OK;
}

enum mt_status cuda_copy(struct mt_device *device, struct mt_stream *stream, void *dst, const void *src, size_t bytes)
{
	if (bytes && dst != src)
		CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, cuda_stream(stream))); /* pinned host memory too */
	return MT_OK;
}

static enum mt_status copy_now(struct mt_device *device, void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
	struct cuda_device *cuda = cuda_of(device);
	CUDA_TRY(cudaSetDevice(cuda->index)); /* the thread may have another, or none */
	CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, kind, cuda->transfer));
	CUDA_TRY(cudaStreamSynchronize(cuda->transfer));
	return MT_OK;
}

enum mt_status cuda_fetch(struct mt_device *device, void *dst, const void *src, size_t bytes)
{
	return copy_now(device, dst, src, bytes, cudaMemcpyDeviceToHost);
}

enum mt_status cuda_store(struct mt_device *device, void *dst, const void *src, size_t bytes)
{
	return copy_now(device, dst, src, bytes, cudaMemcpyHostToDevice);
}
