// The LM head in Q5_0 weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(Q5_0, q5_0, 8, 4, 2);
