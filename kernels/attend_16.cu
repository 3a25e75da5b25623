// Attention with heads of 16 components; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(16);
