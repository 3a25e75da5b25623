// The LM head in BF16 weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(BF16, bf16, 4, 2, 2);
