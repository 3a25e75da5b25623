// The products of F16 weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(F16, f16, 4, 2);
