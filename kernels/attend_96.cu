// Attention with heads of 96 components; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(96);
