// Attention with heads of 32 components; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(32);
