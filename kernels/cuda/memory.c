/* memory: ranges of device addresses, of which only what is used has memory behind it.
 *
 * An arena reserves addresses for as much as the GPU has, which costs nothing, and takes memory in steps of 2 MiB as its peak
 * grows; so the arenas need not be told beforehand how they share the GPU, what is taken is what they count (rounded up to a
 * step each), and what does not fit is known with the arena's name. Nothing moves and nothing is copied when a range grows.
 * These are functions of the driver; the runtime hands out their addresses, so that libcuda is not linked. */
#include "kernels/cuda/cuda.h"

#include "base/units.h"

#include <cuda.h>
#include <cudaTypedefs.h>
#include <stdio.h>
#include <stdlib.h>

struct piece {
	CUmemGenericAllocationHandle handle;
	size_t bytes;
};

struct cuda_range {
	struct cuda_range *next;
	CUdeviceptr base;
	size_t reserved_bytes, committed_bytes;
	struct piece *pieces; /* owned */
	int piece_count, piece_room;
	bool is_scratch; /* of a stream, beside the arenas */
};

/* The process' entry points of the driver: the same for every device, and found anew for each call of `find` at no cost to speak
 * of. */
struct driver {
	PFN_cuMemAddressReserve_v10020 reserve;
	PFN_cuMemAddressFree_v10020 release;
	PFN_cuMemCreate_v10020 create;
	PFN_cuMemRelease_v10020 destroy;
	PFN_cuMemMap_v10020 map;
	PFN_cuMemUnmap_v10020 unmap;
	PFN_cuMemSetAccess_v10020 set_access;
	PFN_cuGetErrorName_v6000 error_name;
};

static enum mt_status find(struct driver *driver)
{
	const struct {
		const char *name;
		void **function;
		unsigned version;
	} wanted[] = {
		{"cuMemAddressReserve", (void **)&driver->reserve, 10020},
		{"cuMemAddressFree", (void **)&driver->release, 10020},
		{"cuMemCreate", (void **)&driver->create, 10020},
		{"cuMemRelease", (void **)&driver->destroy, 10020},
		{"cuMemMap", (void **)&driver->map, 10020},
		{"cuMemUnmap", (void **)&driver->unmap, 10020},
		{"cuMemSetAccess", (void **)&driver->set_access, 10020},
		{"cuGetErrorName", (void **)&driver->error_name, 6000},
	};
	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
		enum cudaDriverEntryPointQueryResult found;
		CUDA_TRY(cudaGetDriverEntryPointByVersion(wanted[i].name, wanted[i].function, wanted[i].version, cudaEnableDefault,
							  &found));
		if (found != cudaDriverEntryPointSuccess || !*wanted[i].function)
			return mt_fail(MT_UNAVAILABLE, "CUDA: the driver has no %s: update it", wanted[i].name);
	}
	return MT_OK;
}

static const char *name_of(const struct driver *driver, CUresult result)
{
	const char *name = NULL;
	return driver->error_name(result, &name) == CUDA_SUCCESS && name ? name : "unknown error";
}

static enum mt_status make_range(struct cuda_device *cuda, size_t bytes, struct cuda_range **range)
{
	struct driver driver;
	MT_TRY(find(&driver));
	struct cuda_range *made = calloc(1, sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "CUDA: no host memory for a range of device memory");
	made->reserved_bytes = (bytes + MT_ARENA_COMMIT_BYTES - 1) / MT_ARENA_COMMIT_BYTES * MT_ARENA_COMMIT_BYTES;
	CUresult result = driver.reserve(&made->base, made->reserved_bytes, MT_ARENA_COMMIT_BYTES, 0, 0);
	if (result != CUDA_SUCCESS) {
		free(made);
		return mt_fail(MT_NOMEM, "CUDA: %zu bytes of device addresses are not to be had: %s", bytes,
			       name_of(&driver, result));
	}
	made->next = cuda->ranges;
	cuda->ranges = *range = made;
	return MT_OK;
}

/* Waits for the GPU, in case a failure left work under way: memory is taken from under it at once. Failures have nobody to be told
 * to; the context's end frees all. */
static void free_range(struct cuda_device *cuda, struct cuda_range *range)
{
	struct driver driver;
	struct cuda_range **at = &cuda->ranges;
	while (*at && *at != range)
		at = &(*at)->next;
	if (*at)
		*at = range->next;
	if (cudaDeviceSynchronize() != cudaSuccess)
		cudaGetLastError();
	if (find(&driver) == MT_OK) {
		if (range->committed_bytes)
			driver.unmap(range->base, range->committed_bytes);
		for (int i = 0; i < range->piece_count; i++)
			driver.destroy(range->pieces[i].handle);
		driver.release(range->base, range->reserved_bytes);
	}
	free(range->pieces);
	free(range);
}

/* Memory of this GPU; exportable where the system allows, which NCCL needs to register it. */
static CUresult create(struct cuda_device *cuda, const struct driver *driver, size_t bytes, CUmemGenericAllocationHandle *handle)
{
	CUmemAllocationProp property = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
					.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->index}};
	if (cuda->exportable) {
		property.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
		CUresult result = driver->create(handle, bytes, &property, 0);
		if (result == CUDA_SUCCESS || result == CUDA_ERROR_OUT_OF_MEMORY)
			return result;
		cuda->exportable = false;
		property.requestedHandleTypes = CU_MEM_HANDLE_TYPE_NONE;
	}
	return driver->create(handle, bytes, &property, 0);
}

static CUresult map(struct cuda_device *cuda, const struct driver *driver, struct cuda_range *range, const struct piece *piece)
{
	CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->index},
				  .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUdeviceptr at = range->base + range->committed_bytes;
	CUresult result = driver->map(at, piece->bytes, 0, piece->handle, 0);
	if (result != CUDA_SUCCESS)
		return result;
	result = driver->set_access(at, piece->bytes, &access, 1);
	if (result != CUDA_SUCCESS)
		driver->unmap(at, piece->bytes);
	return result;
}

static size_t scratch_of(const struct cuda_device *cuda)
{
	size_t bytes = 0;
	for (const struct cuda_range *range = cuda->ranges; range; range = range->next)
		bytes += range->is_scratch ? range->committed_bytes : 0;
	return bytes;
}

/* What the GPU has left, and what of the rest no arena counts, for whoever did not fit. */
static void tell_left(const struct cuda_device *cuda, char why[160], const char *error)
{
	char left[MT_UNITS_TEXT], all[MT_UNITS_TEXT], beside[MT_UNITS_TEXT];
	size_t free_bytes = 0, total_bytes = 0, scratch_bytes = scratch_of(cuda);
	if (cudaMemGetInfo(&free_bytes, &total_bytes) != cudaSuccess)
		cudaGetLastError();
	snprintf(why, 160, "the GPU has %s left of %s, scratch of streams %s (%s)", mt_units_bytes(left, (double)free_bytes),
		 mt_units_bytes(all, (double)total_bytes), mt_units_bytes(beside, (double)scratch_bytes), error);
}

static enum mt_status grow(struct cuda_device *cuda, struct cuda_range *range, size_t to_bytes, char why[160])
{
	struct driver driver;
	struct piece piece = {.bytes = to_bytes - range->committed_bytes};
	if (range->piece_count == range->piece_room) {
		int room = range->piece_room ? 2 * range->piece_room : 64;
		struct piece *pieces = realloc(range->pieces, (size_t)room * sizeof *pieces);
		if (!pieces) {
			snprintf(why, 160, "no host memory for its records");
			return MT_NOMEM;
		}
		range->pieces = pieces;
		range->piece_room = room;
	}
	if (find(&driver) != MT_OK)
		return MT_FAILED;
	if (to_bytes > range->reserved_bytes) {
		snprintf(why, 160, "more than the GPU has");
		return MT_NOMEM;
	}
	CUresult result = create(cuda, &driver, piece.bytes, &piece.handle);
	if (result == CUDA_SUCCESS && (result = map(cuda, &driver, range, &piece)) != CUDA_SUCCESS)
		driver.destroy(piece.handle);
	if (result != CUDA_SUCCESS) {
		tell_left(cuda, why, name_of(&driver, result));
		return MT_NOMEM;
	}
	range->pieces[range->piece_count++] = piece;
	range->committed_bytes = to_bytes;
	return MT_OK;
}

static struct cuda_range *range_at(struct cuda_device *cuda, const void *base)
{
	struct cuda_range *range = cuda->ranges;
	while (range && range->base != (CUdeviceptr)(uintptr_t)base)
		range = range->next;
	return range;
}

static enum mt_status reserve(void *context, size_t bytes, void **base)
{
	struct cuda_range *range;
	MT_TRY(make_range(context, bytes, &range));
	*base = (void *)(uintptr_t)range->base;
	return MT_OK;
}

static void release(void *context, void *base, size_t bytes)
{
	struct cuda_range *range = range_at(context, base);
	if (range)
		free_range(context, range);
}

static enum mt_status commit(void *context, void *base, size_t from_bytes, size_t to_bytes, char why[160])
{
	struct cuda_range *range = range_at(context, base);
	return range ? grow(context, range, to_bytes, why) : MT_FAILED;
}

enum mt_status cuda_memory_open(struct cuda_device *cuda)
{
	struct driver driver;
	cuda->exportable = true; /* until it is refused */
	cuda->memory =
		(struct mt_arena_backing){.name = "GPU", .reserve = reserve, .release = release, .context = cuda, .commit = commit};
	return find(&driver);
}

void cuda_memory_close(struct cuda_device *cuda)
{
	while (cuda->ranges)
		free_range(cuda, cuda->ranges);
}

enum mt_status cuda_scratch(struct mt_stream *stream, size_t bytes, void **scratch)
{
	struct cuda_device *cuda = cuda_of(stream->device);
	struct cuda_stream *kept = stream->backend;
	char why[160] = "", asked[MT_UNITS_TEXT];
	*scratch = NULL;
	if (!kept->scratch) {
		if (!bytes)
			return MT_OK;
		MT_TRY(make_range(cuda, stream->device->info.memory_bytes, &kept->scratch));
		kept->scratch->is_scratch = true;
	}
	*scratch = (void *)(uintptr_t)kept->scratch->base;
	if (bytes <= kept->scratch->committed_bytes)
		return MT_OK;
	bytes = (bytes + MT_ARENA_COMMIT_BYTES - 1) / MT_ARENA_COMMIT_BYTES * MT_ARENA_COMMIT_BYTES;
	enum mt_status st = grow(cuda, kept->scratch, bytes, why);
	if (st != MT_OK)
		return mt_fail(st, "scratch of stream %s: no GPU memory for %s: %s; use a smaller micro-batch", stream->name,
			       mt_units_bytes(asked, (double)bytes), why);
	bytes = scratch_of(cuda);
	if (bytes > stream->device->scratch_bytes)
		stream->device->scratch_bytes = bytes;
	return MT_OK;
}

void cuda_scratch_free(struct mt_stream *stream)
{
	struct cuda_stream *kept = stream->backend;
	if (kept->scratch)
		free_range(cuda_of(stream->device), kept->scratch);
	kept->scratch = NULL;
}
