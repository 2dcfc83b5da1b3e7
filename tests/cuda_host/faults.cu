/* faults: small kernels for the emulator's own test: what warps and barriers give, and launches that are wrong. */
#include "kernels/cuda/launch.cuh"
#include "tests/cuda_host/faults.h"

__global__ void sums(int *out)
{
	__shared__ int partial[32];
	int value = (int)(blockIdx.x * blockDim.x + threadIdx.x), lane = (int)threadIdx.x % 32, sum = value;
	for (int offset = 16; offset > 0; offset /= 2)
		sum += __shfl_xor_sync(0xffffffffu, sum, offset);
	if (lane == 0)
		partial[threadIdx.x / 32] = sum;
	__syncthreads();
	sum = 0;
	for (unsigned w = 0; w < blockDim.x / 32; w++)
		sum += partial[w];
	out[value] = sum;
}

/* Each thread: the value of its upper neighbour within 8 lanes, how many lanes are odd, and which have its value mod 3. */
__global__ void warps(int *out)
{
	int i = (int)threadIdx.x;
	out[3 * i] = __shfl_down_sync(0xffffffffu, i, 1, 8);
	unsigned odd = __ballot_sync(0xffffffffu, i & 1);
	if (i & 1)
		out[3 * i + 1] = __popc(__ballot_sync(odd, 1));
	else
		out[3 * i + 1] = __popc(odd);
	out[3 * i + 2] = (int)__match_any_sync(0xffffffffu, i % 3);
}

__global__ void race(int *out)
{
	MT_SHARED(int, shared);
	shared[0] = (int)threadIdx.x;
	__syncthreads();
	out[threadIdx.x] = shared[0];
}

__global__ void stale(float *out)
{
	MT_SHARED(float, shared);
	out[blockIdx.x] = shared[0];
	shared[0] = 1.0f;
}

__global__ void bad(int what, int *out)
{
	MT_SHARED(int, shared);
	int i = (int)threadIdx.x;
	if (what == FAULT_BARRIER_SKIPPED && i == 5)
		return;
	if (what == FAULT_BARRIERS_DIFFER) {
		if (i < 32)
			__syncthreads();
		else
			__syncthreads();
	}
	if (what == FAULT_LANE_GONE && i == 40)
		return;
	if (what == FAULT_LANE_GONE)
		__syncwarp();
	if (what == FAULT_MASK_WITHOUT_SELF)
		__syncwarp(1);
	if (what == FAULT_LANE_NOT_IN_MASK && i < 16)
		shared[i] = __shfl_sync(0xffff, i, 20);
	if (what == FAULT_LANES_DIFFER && i % 2)
		__syncwarp();
	if (what == FAULT_MISALIGNED)
		__ldg(reinterpret_cast<const int2 *>(out + 1));
	__syncthreads();
}

void faults_sums(int *out, int blocks, int threads)
{
	MT_LAUNCH(sums, blocks, threads, 0, NULL, out);
}

void faults_warps(int *out)
{
	MT_LAUNCH(warps, 1, 32, 0, NULL, out);
}

void faults_race(int *out, int threads)
{
	MT_LAUNCH(race, 1, threads, sizeof(int), NULL, out);
}

void faults_stale(float *out, int blocks)
{
	MT_LAUNCH(stale, blocks, 1, sizeof(float), NULL, out);
}

void faults_bad(enum fault what, int *aligned)
{
	MT_LAUNCH(bad, 1, what == FAULT_BLOCK_TOO_LARGE ? 1025 : 64, what == FAULT_SHARED_TOO_LARGE ? 50000 : 256, NULL, what,
		  aligned);
}
