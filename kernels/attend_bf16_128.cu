// Attention with heads of 128 components and a cache in bf16; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(KvBf16, bf16, 128);
