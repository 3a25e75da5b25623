// The products of Q4_0 weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(Q4_0, q4_0, 4, 2);
