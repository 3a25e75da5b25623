// Attention with heads of 16 components and a cache in f16; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(KvF16, f16, 16);
