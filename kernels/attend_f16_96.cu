// Attention with heads of 96 components and a cache in f16; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(KvF16, f16, 96);
