// The products of BF16 weights; see matmul.cuh.
#include "matmul.cuh"

MATMUL_KERNELS(BF16, bf16, 4, 2);
