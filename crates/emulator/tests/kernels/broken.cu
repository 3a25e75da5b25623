// Small kernels, each wrong in one way that the emulator must name, and right ones beside them.
#include "dev.cuh"

KERNEL void missing_syncwarp(u32* out) {
    SHARED(u32, room, [WARP]);
    room[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = room[(threadIdx.x + 1) % WARP];
}
REGISTER_KERNEL(missing_syncwarp);

KERNEL void with_syncwarp(u32* out) {
    SHARED(u32, room, [WARP]);
    room[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = room[(threadIdx.x + 1) % WARP];
}
REGISTER_KERNEL(with_syncwarp);

KERNEL void same_value_race(u32* out) { out[0] = 7; }
REGISTER_KERNEL(same_value_race);

KERNEL void blocks_share_a_word(u32* out) {
    if (threadIdx.x == 0) out[0] = blockIdx.x;
}
REGISTER_KERNEL(blocks_share_a_word);

KERNEL void divergent_shuffle(u32* out) {
    u32 x = threadIdx.x;
    if (threadIdx.x < 16) x = __shfl_xor_sync(FULL, x, 1);
    else x = __shfl_xor_sync(FULL, x, 2);
    out[threadIdx.x] = x;
}
REGISTER_KERNEL(divergent_shuffle);

KERNEL void deadlock(u32* out) {
    if (threadIdx.x < 31) __syncwarp();
    else __syncthreads();
    out[threadIdx.x] = 1;
}
REGISTER_KERNEL(deadlock);

KERNEL void copies_in_flight(u32* out) {
    SHARED(uint4, room, [WARP]);
    cp_async16(&room[threadIdx.x], out + threadIdx.x * 4, 16);
    cp_async_commit();
}
REGISTER_KERNEL(copies_in_flight);

KERNEL void reads_before_the_wait(u32* out) {
    SHARED(uint4, room, [WARP]);
    cp_async16(&room[threadIdx.x], out + threadIdx.x * 4, 16);
    cp_async_commit();
    u32 x = room[threadIdx.x].x;
    cp_async_wait<0>();
    out[threadIdx.x * 4] = x;
}
REGISTER_KERNEL(reads_before_the_wait);

KERNEL void past_static_shared(u32* out, u32 n) {
    SHARED(u32, room, [WARP]);
    u32* p = room;
    p[threadIdx.x + n] = 1;
    out[threadIdx.x] = p[threadIdx.x + n];
}
REGISTER_KERNEL(past_static_shared);

template <u32 N>
DEV void template_room(u32* out) {
    SHARED(u32, room, [N]);
    if (threadIdx.x > 0) room[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = room[threadIdx.x];
}
KERNEL void unwritten_in_a_template(u32* out) { template_room<WARP>(out); }
REGISTER_KERNEL(unwritten_in_a_template);

KERNEL void atomics_and_plain(u32* out) {
    SHARED(u32, sum, );
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    atomicAdd(&sum, 1u);
    out[threadIdx.x] = sum;
}
REGISTER_KERNEL(atomics_and_plain);

/// One warp: D = A B of 16 x 16 and 16 x 8 bf16 in row-major memory, through ldmatrix and mma.
KERNEL void small_product(const bf16* a, const bf16* b, float* d) {
    SHARED(bf16, rows, [32][8]);
    const u32 lane = threadIdx.x;
    // ldmatrix rows: matrix m of A is rows 8 (m % 2).., columns 8 (m / 2)..
    for (u32 i = 0; i < 8; i++) rows[lane][i] = a[(lane % 8 + lane / 8 % 2 * 8) * 16 + lane / 16 * 8 + i];
    __syncwarp();
    u32 fa[4];
    ldmatrix_x4(fa, &rows[lane][0]);
    __syncwarp();
    // B as (16, 8): matrices 0 and 1 are its upper and lower half, transposed on the way.
    for (u32 i = 0; i < 8; i++) rows[lane][i] = b[lane % 16 * 8 + i];
    __syncwarp();
    u32 fb[4];
    ldmatrix_x4_transposed(fb, &rows[lane][0]);
    float sums[4] = {};
    mma_bf16(sums, fa, fb[0], fb[1]);
    for (u32 i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}
REGISTER_KERNEL(small_product);
