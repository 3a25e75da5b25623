// The LM head in Q4_1 weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(Q4_1, q4_1, 8, 4, 2);
