// Attention with heads of 80 components; see attend.cuh.
#include "attend.cuh"

ATTEND_KERNELS(80);
