// The products of Q4_K weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(Q4_K, q4_k, 4, 2);
