/* control: what a test in C may ask of the CUDA emulator. */
#ifndef MT_TESTS_CUDA_HOST_CONTROL_H
#define MT_TESTS_CUDA_HOST_CONTROL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The order of the threads of a block between two barriers, and of the blocks. 0: 0, 1, 2, ...; else drawn from the seed. A
 * kernel without races gives the same bits for every seed. */
void cuda_host_seed(uint64_t seed);
/* What the last launch did wrong, "" when nothing; cleared by the call. cudaGetLastError reports it once too. */
const char *cuda_host_error(void);
/* Kernels launched since the last call. */
long cuda_host_launches(void);

#ifdef __cplusplus
}
#endif
#endif
