// The LM head in Q8_0 weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(Q8_0, q8_0, 4, 4, 2);
