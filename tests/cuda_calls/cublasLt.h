/* In place of the toolkit's: the types that kernels/cuda/cuda.h names. */
#ifndef TESTS_CUDA_CALLS_CUBLASLT_H
#define TESTS_CUDA_CALLS_CUBLASLT_H

typedef void *cublasLtHandle_t, *cublasLtMatmulDesc_t, *cublasLtMatrixLayout_t;
typedef struct {
	int data;
} cublasLtMatmulAlgo_t, cublasLtMatmulHeuristicResult_t;

#endif
