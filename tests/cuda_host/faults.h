/* faults: the kernels of the emulator's own test. */
#ifndef MT_TESTS_CUDA_HOST_FAULTS_H
#define MT_TESTS_CUDA_HOST_FAULTS_H

#ifdef __cplusplus
extern "C" {
#endif

enum fault {
	FAULT_NONE,
	FAULT_BARRIER_SKIPPED,
	FAULT_BARRIERS_DIFFER,
	FAULT_LANE_GONE,
	FAULT_MASK_WITHOUT_SELF,
	FAULT_LANE_NOT_IN_MASK,
	FAULT_LANES_DIFFER,
	FAULT_MISALIGNED,
	FAULT_BLOCK_TOO_LARGE,
	FAULT_SHARED_TOO_LARGE
};

void faults_sums(int *out, int blocks, int threads); /* out[i] = sum of the indices of its block */
void faults_warps(int *out);                         /* (32,3) */
void faults_race(int *out, int threads);             /* who wrote last */
void faults_stale(float *out, int blocks);           /* shared memory that nobody wrote */
void faults_bad(enum fault what, int *aligned);

#ifdef __cplusplus
}
#endif
#endif
