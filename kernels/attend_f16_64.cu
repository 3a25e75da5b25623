// Attention with heads of 64 components and a cache in f16; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(KvF16, f16, 64);
