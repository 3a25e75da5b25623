// The LM head in Q4_0 weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(Q4_0, q4_0, 8, 4, 2);
