// The merge of decoding attention, for every head size; see attend.cuh.
#include "attend.cuh"

ATTEND_MERGE_KERNEL(16);
ATTEND_MERGE_KERNEL(32);
ATTEND_MERGE_KERNEL(64);
ATTEND_MERGE_KERNEL(80);
ATTEND_MERGE_KERNEL(96);
ATTEND_MERGE_KERNEL(128);
