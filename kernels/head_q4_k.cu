// The LM head in Q4_K weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(Q4_K, q4_k, 8, 4, 2);
