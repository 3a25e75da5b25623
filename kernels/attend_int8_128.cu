// Attention with heads of 128 components and a cache in 8 bits; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(KvInt8, int8, 128);
