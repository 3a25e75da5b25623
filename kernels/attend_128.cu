// Attention with heads of 128 components; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(128);
