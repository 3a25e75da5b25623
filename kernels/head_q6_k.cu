// The LM head in Q6_K weights; see head.cuh.
#include "head.cuh"

HEAD_KERNELS(Q6_K, q6_k, 4, 4, 2);
