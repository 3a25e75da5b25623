// The products of Q8_0 weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(Q8_0, q8_0, 4, 2);
