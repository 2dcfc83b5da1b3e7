/* probe: which GPUs there are, and why there are none. Makes no context. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST = 80 };

static enum mt_status no_driver(void)
{
	int version = 0;
	if (cudaDriverGetVersion(&version) != cudaSuccess || version == 0)
		return mt_fail(MT_UNAVAILABLE, "CUDA: no driver on this machine: install NVIDIA's driver (libcuda.so.1)");
	return mt_fail(MT_UNAVAILABLE,
		       "CUDA: the driver knows CUDA %d.%d, this build needs %d.%d or a later one of CUDA %d: update the driver",
		       version / 1000, version % 1000 / 10, CUDART_VERSION / 1000, 0, CUDART_VERSION / 1000);
}

enum mt_status cuda_count(int *count)
{
	const char *visible = getenv("CUDA_VISIBLE_DEVICES");
	*count = 0;
	cudaError_t error = cudaGetDeviceCount(count);
	if (error == cudaSuccess && *count > 0)
		return MT_OK;
	cudaGetLastError(); /* it would be reported again by a later launch */
	if (error == cudaErrorInsufficientDriver || error == cudaErrorStubLibrary)
		return no_driver();
	if (error == cudaSuccess || error == cudaErrorNoDevice)
		return mt_fail(MT_UNAVAILABLE, "CUDA: there is a driver but no NVIDIA GPU%s%s",
			       visible ? ": CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "");
	return mt_fail(MT_UNAVAILABLE, "CUDA: the driver does not start: %s", cudaGetErrorString(error));
}

enum mt_status cuda_describe(int index, struct mt_device_info *info, struct cudaDeviceProp *properties)
{
	int runtime = 0;
	size_t blas = cublasLtGetVersion();
	CUDA_TRY(cudaGetDeviceProperties(properties, index));
	CUDA_TRY(cudaRuntimeGetVersion(&runtime));
	info->kind = "cuda";
	snprintf(info->name, sizeof info->name, "%.63s", properties->name);
	snprintf(info->isa, sizeof info->isa, "sm_%d%d", properties->major, properties->minor);
	snprintf(info->libraries, sizeof info->libraries, "CUDA %d.%d, cuBLASLt %zu.%zu.%zu", runtime / 1000, runtime % 1000 / 10,
		 blas / 10000, blas / 100 % 100, blas % 100);
	info->threads = 1;
	info->memory_bytes = properties->totalGlobalMem;
	info->executes = info->real_time = true;
	info->bf16_native = true;
	if (properties->major * 10 + properties->minor < OLDEST)
		return mt_fail(MT_UNAVAILABLE, "CUDA: GPU %d, %s, is sm_%d%d: this build needs sm_%d or later", index,
			       properties->name, properties->major, properties->minor, OLDEST);
	return MT_OK;
}

enum mt_status cuda_list(struct mt_device_info *list, int room, int *count)
{
	struct cudaDeviceProp properties;
	MT_TRY(cuda_count(count));
	for (int i = 0; i < *count && i < room; i++) {
		memset(&list[i], 0, sizeof list[i]);
		/* One that is too old is listed all the same. */
		if (cuda_describe(i, &list[i], &properties) == MT_UNAVAILABLE)
			mt_error_clear();
	}
	return MT_OK;
}
