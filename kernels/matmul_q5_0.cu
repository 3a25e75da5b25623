// The products of Q5_0 weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(Q5_0, q5_0, 4, 2);
