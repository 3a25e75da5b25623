// RMS norm of rows of the residual stream, rounded to bf16 for the product that follows. The residual addition needs no
// kernel of its own: the products of o and down add to the stream themselves (matmul.cuh, mode 1).
//
// reads   x (., hidden) f32, weight (hidden) f32, hidden a multiple of 4; rows (n_rows) or null: which rows of x, so that
//         the LM head sees only the positions somebody asks about; n_rows (1)
// writes  out (n_rows, hidden) bf16 = x / sqrt(mean(x^2) + eps) * weight (arXiv 1910.07467)
// grid (R), block 256; blocks beyond n_rows leave
// bytes moved: 4 hidden a row from L2 (the second look is an L1 hit), 2 hidden written
// twin    entropix_cpu::reference::ops::rms_norm
#include "dev.cuh"

constexpr u32 NORM_THREADS = 256;

KERNEL void __launch_bounds__(NORM_THREADS) rms_norm(const float* x, const float* weight, const u32* rows, bf16* out, const u32* n_rows, u32 hidden, float eps) {
    SHARED(float, partial, [NORM_THREADS / WARP]);
    if (blockIdx.x >= *n_rows) return;
    const u64 row = rows ? rows[blockIdx.x] : blockIdx.x;
    const float4* in = reinterpret_cast<const float4*>(x + row * hidden);
    float sum = 0;
    for (u32 i = threadIdx.x; i < hidden / 4; i += NORM_THREADS) {
        float4 v = in[i];
        sum = fmaf(v.x, v.x, sum), sum = fmaf(v.y, v.y, sum), sum = fmaf(v.z, v.z, sum), sum = fmaf(v.w, v.w, sum);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = sum;
    __syncthreads();
    sum = partial[0];
#pragma unroll
    for (u32 w = 1; w < NORM_THREADS / WARP; w++) sum = add(sum, partial[w]);
    const float scale = 1.0f / sqrtf(add(sum / float(hidden), eps));
    uint2* to = reinterpret_cast<uint2*>(out + u64(blockIdx.x) * hidden);
    for (u32 i = threadIdx.x; i < hidden / 4; i += NORM_THREADS) {
        float4 v = in[i], w = reinterpret_cast<const float4*>(weight)[i];
        to[i] = make_uint2(pack_bf16(v.x * scale * w.x, v.y * scale * w.y), pack_bf16(v.z * scale * w.z, v.w * scale * w.w));
    }
}
REGISTER_KERNEL(rms_norm);
