// The LM head in F16 weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(F16, f16, 4, 2, 2);
