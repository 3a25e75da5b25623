// Attention with heads of 64 components; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(64);
