// What each wrapper of dev.cuh does, by itself: held against its definition on the emulator and on a device, whose own instructions
// the emulator does not run. No step launches it.
//
// reads   in (cases, 32 lanes, 8 words)
// writes  out (cases, 32 lanes, 36 words): exp2_fast, pack_bf16, add_bf16x2, half_to_float, pack_f16 (1 each), stream16 (4),
//         stream8 (2), stream4 (1), what cp_async16 brought (4), ldmatrix_x4 (4), transposed (4), mma_bf16 (4), mma_f16 (4),
//         warp_sum, warp_max, 2 unused
// grid (cases), block 32
// bytes moved: 32 a lane read some times, 144 written
// twin    crates/cuda/tests/kernels/wrappers.rs
#include "dev.cuh"

constexpr u32 WORDS_IN = 8, WORDS_OUT = 36;

KERNEL void __launch_bounds__(32) wrappers(const u32* in, u32* out) {
    SHARED(uint4, rows, [32]);
    const u32 lane = threadIdx.x;
    const u32* w = in + (blockIdx.x * 32 + lane) * WORDS_IN;
    u32* to = out + (blockIdx.x * 32 + lane) * WORDS_OUT;
    const float x = __uint_as_float(w[0]), y = __uint_as_float(w[1]);
    to[0] = __float_as_uint(exp2_fast(x));
    to[1] = pack_bf16(x, y);
    to[2] = add_bf16x2(w[2], w[3]);
    to[3] = __float_as_uint(half_to_float(w[2] & 0xffffu));
    to[4] = pack_f16(x, y);
    const uint4 four = stream16(w + 4);
    to[5] = four.x, to[6] = four.y, to[7] = four.z, to[8] = four.w;
    const uint2 two = stream8(w + 2);
    to[9] = two.x, to[10] = two.y, to[11] = stream4(w + 1);

    // The rest of a vector is zero where fewer bytes are asked for.
    cp_async16(&rows[lane], w + 4, lane % 5 * 4);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    const uint4 brought = rows[lane];
    to[12] = brought.x, to[13] = brought.y, to[14] = brought.z, to[15] = brought.w;
    __syncwarp();
    cp_async16(&rows[lane], w + 4, 16);
    cp_async_commit();
    cp_async_wait<0>();
    __syncwarp();
    u32 fragments[4];
    ldmatrix_x4(fragments, &rows[lane]);
    for (u32 i = 0; i < 4; i++) to[16 + i] = fragments[i];
    ldmatrix_x4_transposed(fragments, &rows[lane]);
    for (u32 i = 0; i < 4; i++) to[20 + i] = fragments[i];

    // Numbers of ordinary size: the bits of w[4..8] may be any.
    const u32 a[4] = {pack_bf16(x, y), pack_bf16(y, x), pack_bf16(x - y, x), pack_bf16(y, y - x)};
    float d[4] = {x, y, -x, -y};
    mma_bf16(d, a, a[1], a[2]);
    for (u32 i = 0; i < 4; i++) to[24 + i] = __float_as_uint(d[i]);
    const u32 h[4] = {pack_f16(x, y), pack_f16(y, x), pack_f16(x - y, x), pack_f16(y, y - x)};
    float e[4] = {x, y, -x, -y};
    mma_f16(e, h, h[1], h[2]);
    for (u32 i = 0; i < 4; i++) to[28 + i] = __float_as_uint(e[i]);
    to[32] = __float_as_uint(warp_sum(x));
    to[33] = __float_as_uint(warp_max(x));
    to[34] = to[35] = 0;
}
REGISTER_KERNEL(wrappers);
