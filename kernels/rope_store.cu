// From the sums of the QKV product to rotated queries and filled cache slots, one pass: bias, norms of the heads of q and k,
// rotation, rounding, paged store: rope_store_bf16, _f16 and _int8, by the type of the cache.
//
// reads   qkv (n_tokens, (n_heads + 2 n_kv_heads) head_dim) f32: q, k, v; bias (the same width) f32 or null;
//         q_norm, k_norm (head_dim) f32 or null; half_turns (head_dim / 2) f64: rotation a position in units of pi;
//         positions (n_tokens); slots (n_tokens): block * block_size + offset, where this token's k and v belong
// writes  q (n_tokens, n_heads, head_dim) bf16, f16 for a cache in f16; cache of one layer, as kv.cuh says
// grid (T, ceil((n_heads + 2 n_kv_heads) / 8)), block 256: a warp a head; head_dim even, at most 256
// In 8 bits a vector's scale is its largest |component| / 127 in f32, its components are divided by that and rounded to nearest
// even; zeros have the scale 0, and a vector with a component that is not finite has a NaN for a scale.
// bytes moved: 4 bytes in and 2 out a component; in 8 bits 1 out, and 4 a vector
// twin    entropix_cpu::reference::ops::{rms_norm, rope}
#include "kv.cuh"

constexpr u32 ROPE_WARPS = 8, ROPE_PAIRS = 4;

/// Rounds to the type of queries and of 16-bit caches.
template <typename Kv>
DEV void store_halves(u16* out, const float (&a)[ROPE_PAIRS], const float (&b)[ROPE_PAIRS], u32 half, bool next_to) {
#pragma unroll
    for (u32 k = 0; k < ROPE_PAIRS; k++) {
        const u32 i = threadIdx.x % WARP + k * WARP;
        if (i >= half) continue;
        if (next_to) {
            reinterpret_cast<u32*>(out)[i] = Kv::pack(a[k], b[k]);
        } else {
            out[i] = u16(Kv::pack(a[k], 0.0f)), out[i + half] = u16(Kv::pack(b[k], 0.0f));
        }
    }
}

DEV u8 quantised(float x, float scale) { return u8(int(fminf(fmaxf(rintf(x / scale), -127.0f), 127.0f))); }

DEV void store_quantised(u8* out, float* scale_at, const float (&a)[ROPE_PAIRS], const float (&b)[ROPE_PAIRS], u32 half, bool next_to) {
    // Sizes of floats are in the order of their bits, NaN above all.
    u32 largest = 0;
#pragma unroll
    for (u32 k = 0; k < ROPE_PAIRS; k++) largest = max(largest, max(__float_as_uint(a[k]) & 0x7fffffffu, __float_as_uint(b[k]) & 0x7fffffffu));
#pragma unroll
    for (u32 lanes = WARP / 2; lanes; lanes /= 2) largest = max(largest, __shfl_xor_sync(FULL, largest, lanes));
    const float size = __uint_as_float(largest), scale = is_finite(size) ? size / 127.0f : not_a_number();
    if (threadIdx.x % WARP == 0) *scale_at = scale;
#pragma unroll
    for (u32 k = 0; k < ROPE_PAIRS; k++) {
        const u32 i = threadIdx.x % WARP + k * WARP;
        if (i >= half) continue;
        const u8 first = scale > 0 ? quantised(a[k], scale) : 0, second = scale > 0 ? quantised(b[k], scale) : 0;
        if (next_to) {
            reinterpret_cast<u16*>(out)[i] = u16(first | second << 8);
        } else {
            out[i] = first, out[i + half] = second;
        }
    }
}

template <typename Kv>
DEV void rope_store(const float* qkv, const float* bias, const float* q_norm, const float* k_norm, const double* half_turns, const u32* positions, const u32* slots, u16* q,
                    u8* cache, const u32* n_tokens, u32 n_heads, u32 n_kv_heads, u32 head_dim, u32 block_size, u32 adjacent, float eps) {
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
    if (is_q) {
        store_halves<Kv>(q + (u64(token) * n_heads + head) * head_dim, a, b, half, next_to);
        return;
    }
    const u32 slot = slots[token];
    const Place<Kv> place = Place<Kv>::of(cache, slot / block_size, slot % block_size, n_kv_heads, (head - n_heads) % n_kv_heads, is_v ? 1 : 0);
    u8* out = const_cast<u8*>(place.vector(block_size, head_dim));
    if constexpr (Kv::SCALE_BYTES > 0) store_quantised(out, const_cast<float*>(place.scale(block_size, head_dim)), a, b, half, next_to);
    else store_halves<Kv>(reinterpret_cast<u16*>(out), a, b, half, next_to);
}

#define ROPE_KERNEL(Kv, kv)                                                                                                           \
    KERNEL void __launch_bounds__(ROPE_WARPS* WARP)                                                                                   \
        rope_store_##kv(const float* qkv, const float* bias, const float* q_norm, const float* k_norm, const double* half_turns, const u32* positions, const u32* slots, \
                        u16* q, u8* cache, const u32* n_tokens, u32 n_heads, u32 n_kv_heads, u32 head_dim, u32 block_size, u32 adjacent, float eps) { \
        rope_store<Kv>(qkv, bias, q_norm, k_norm, half_turns, positions, slots, q, cache, n_tokens, n_heads, n_kv_heads, head_dim, block_size, adjacent, eps); \
    }                                                                                                                                 \
    REGISTER_KERNEL(rope_store_##kv)

ROPE_KERNEL(KvBf16, bf16);
ROPE_KERNEL(KvF16, f16);
ROPE_KERNEL(KvInt8, int8);
