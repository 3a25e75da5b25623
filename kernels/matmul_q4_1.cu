// The products of Q4_1 weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(Q4_1, q4_1, 4, 2);
