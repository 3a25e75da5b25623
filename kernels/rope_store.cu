// From the sums of the QKV product to rotated queries and filled cache slots, one pass: bias, norms of the heads of q and k,
// rotation, rounding to bf16, paged store.
//
// reads   qkv (n_tokens, (n_heads + 2 n_kv_heads) head_dim) f32: q, k, v; bias (the same width) f32 or null;
//         q_norm, k_norm (head_dim) f32 or null; half_turns (head_dim / 2) f64: rotation a position in units of pi;
//         positions (n_tokens); slots (n_tokens): block * block_size + offset, where this token's k and v belong
// writes  q (n_tokens, n_heads, head_dim) bf16; cache of one layer (n_blocks, n_kv_heads, k|v, block_size, head_dim) bf16
// grid (T, ceil((n_heads + 2 n_kv_heads) / 8)), block 256: a warp a head; head_dim even, at most 256
// bytes moved: 4 bytes in and 2 out a component
// twin    entropix_cpu::reference::ops::{rms_norm, rope}
#include "dev.cuh"

constexpr u32 ROPE_WARPS = 8, ROPE_PAIRS = 4;

KERNEL void __launch_bounds__(ROPE_WARPS* WARP)
    rope_store(const float* qkv, const float* bias, const float* q_norm, const float* k_norm, const double* half_turns, const u32* positions, const u32* slots,
               bf16* q, bf16* cache, const u32* n_tokens, u32 n_heads, u32 n_kv_heads, u32 head_dim, u32 block_size, u32 adjacent, float eps) {
    const u32 token = blockIdx.x, lane = threadIdx.x % WARP, head = blockIdx.y * ROPE_WARPS + threadIdx.x / WARP;
    const u32 all_heads = n_heads + 2 * n_kv_heads, half = head_dim / 2;
    if (token >= *n_tokens || head >= all_heads) return;
    const bool is_q = head < n_heads, is_v = head >= n_heads + n_kv_heads;
    const float* in = qkv + (u64(token) * all_heads + head) * head_dim;
    // Pair i is (i, i + half) in halves and in v, where pairs mean nothing; (2 i, 2 i + 1) when adjacent.
    const bool next_to = adjacent != 0;
    float a[ROPE_PAIRS], b[ROPE_PAIRS];
#pragma unroll
    for (u32 k = 0; k < ROPE_PAIRS; k++) {
        u32 i = lane + k * WARP, ia = next_to ? 2 * i : i, ib = next_to ? 2 * i + 1 : i + half;
        a[k] = b[k] = 0;
        if (i >= half) continue;
        a[k] = in[ia], b[k] = in[ib];
        if (bias) a[k] += bias[head * head_dim + ia], b[k] += bias[head * head_dim + ib];
    }
    const float* norm = is_q ? q_norm : is_v ? nullptr : k_norm;
    if (norm) {
        float sum = 0;
#pragma unroll
        for (u32 k = 0; k < ROPE_PAIRS; k++) sum = fmaf(a[k], a[k], fmaf(b[k], b[k], sum));
        const float scale = 1.0f / sqrtf(add(warp_sum(sum) / float(head_dim), eps));
#pragma unroll
        for (u32 k = 0; k < ROPE_PAIRS; k++) {
            u32 i = lane + k * WARP;
            if (i >= half) continue;
            a[k] *= scale * norm[next_to ? 2 * i : i], b[k] *= scale * norm[next_to ? 2 * i + 1 : i + half];
        }
    }
    if (!is_v) {
        const double position = positions[token];
#pragma unroll
        for (u32 k = 0; k < ROPE_PAIRS; k++) {
            u32 i = lane + k * WARP;
            if (i >= half) continue;
            // The angle is reduced in f64: at position 100,000 an f32 angle is wrong in the third digit.
            double turn = position * half_turns[i];
            float s, c;
            sincospif(float(turn - 2.0 * rint(turn * 0.5)), &s, &c);
            float x = a[k], y = b[k];
            a[k] = x * c - y * s, b[k] = x * s + y * c;
        }
    }
    bf16* out;
    if (is_q) {
        out = q + (u64(token) * n_heads + head) * head_dim;
    } else {
        u32 kv_head = (head - n_heads) % n_kv_heads, slot = slots[token];
        u64 plane = (u64(slot / block_size) * n_kv_heads + kv_head) * 2 + (is_v ? 1 : 0);
        out = cache + (plane * block_size + slot % block_size) * head_dim;
    }
#pragma unroll
    for (u32 k = 0; k < ROPE_PAIRS; k++) {
        u32 i = lane + k * WARP;
        if (i >= half) continue;
        if (next_to) {
            reinterpret_cast<u32*>(out)[i] = pack_bf16(a[k], b[k]);
        } else {
            out[i] = to_bf16(a[k]), out[i + half] = to_bf16(b[k]);
        }
    }
}
REGISTER_KERNEL(rope_store);
