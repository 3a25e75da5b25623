// The products of Q6_K weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(Q6_K, q6_k, 4, 2);
