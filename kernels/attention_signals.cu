// What the attention rows of a position say about the model's doubt, gathered layer by layer.
//
// attention_disagreement_* by the type of the cache; the last layer only; reads q, cache, tables as attend.cuh, stats of the layer, asks (n_asks) AttentionAsk
//     writes  parts (n_asks, most_parts) f32: sum over 64 keys and all heads of |a_h - mean_h a|
//     grid (A, most_parts), block 64, a thread a key; dynamic shared memory n_heads * 64 floats
// attention_signals       after every layer; reads stats of the layer, asks, parts (last layer)
//     writes  relative (n_asks) f32: running sum over layers of mean_heads h / ln n; on the last layer records (n_asks) of 6 f32
//             in the order of model::AttentionSignals
//     grid (A), block 32
// n_asks (1); blocks beyond it leave. Positions, not batch sizes, decide every order.
// twin    entropix_cpu::reference::attention_signals
#include "kv.cuh"

constexpr u32 KEYS_A_PART = 64;
struct AttentionAsk { u32 token, n_keys, table; };

template <typename Kv>
DEV void disagreement(const u16* q, const u8* cache, const u32* tables, const float* stats, const AttentionAsk* asks, float* parts, const u32* n_asks, u32 n_heads, u32 n_kv_heads,
                      u32 head_dim, u32 block_size, u32 most_parts, float scale) {
    SHARED(float, of_warp, [KEYS_A_PART / WARP]);
    SMEM_DYN(float, weights);
    if (blockIdx.x >= *n_asks) return;
    const AttentionAsk ask = asks[blockIdx.x];
    if (blockIdx.y * KEYS_A_PART >= ask.n_keys) return;
    const u32 key = blockIdx.y * KEYS_A_PART + threadIdx.x, group = n_heads / n_kv_heads;
    float apart = 0;
    if (key < ask.n_keys) {
        const u64 block = tables[ask.table + key / block_size];
        float sum = 0;
        for (u32 head = 0; head < n_heads; head++) {
            const Place<Kv> place = Place<Kv>::of(cache, block, key % block_size, n_kv_heads, head / group, 0);
            const u8* vector = place.vector(block_size, head_dim);
            const u16* query = q + (u64(ask.token) * n_heads + head) * head_dim;
            float dot = 0;
            for (u32 i = 0; i < head_dim; i += 2) {
                const float2 x = Kv::of_query(query, i), y = Kv::of_vector(vector, i);
                dot = fmaf(x.x, y.x, dot), dot = fmaf(x.y, y.y, dot);
            }
            if constexpr (Kv::SCALE_BYTES > 0) dot *= *place.scale(block_size, head_dim);
            const float log_sum = stats[(u64(ask.token) * n_heads + head) * 4 + 3];
            const float a = exp2_fast((dot * scale - log_sum) * LOG2E);
            weights[head * KEYS_A_PART + threadIdx.x] = a;
            sum += a;
        }
        const float mean = sum / float(n_heads);
        for (u32 head = 0; head < n_heads; head++) apart += fabsf(weights[head * KEYS_A_PART + threadIdx.x] - mean);
    }
    apart = warp_sum(apart);
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = apart;
    __syncthreads();
    if (threadIdx.x == 0) parts[u64(blockIdx.x) * most_parts + blockIdx.y] = of_warp[0] + of_warp[1];
}

#define DISAGREEMENT_KERNEL(Kv, kv)                                                                                                   \
    KERNEL void __launch_bounds__(KEYS_A_PART)                                                                                        \
        attention_disagreement_##kv(const u16* q, const u8* cache, const u32* tables, const float* stats, const AttentionAsk* asks, float* parts, const u32* n_asks, \
                                    u32 n_heads, u32 n_kv_heads, u32 head_dim, u32 block_size, u32 most_parts, float scale) {         \
        disagreement<Kv>(q, cache, tables, stats, asks, parts, n_asks, n_heads, n_kv_heads, head_dim, block_size, most_parts, scale); \
    }                                                                                                                                 \
    REGISTER_KERNEL(attention_disagreement_##kv)

DISAGREEMENT_KERNEL(KvBf16, bf16);
DISAGREEMENT_KERNEL(KvF16, f16);
DISAGREEMENT_KERNEL(KvInt8, int8);

KERNEL void __launch_bounds__(WARP) attention_signals(const float* stats, const AttentionAsk* asks, const float* parts, float* relative, float* records, const u32* n_asks,
                                                    u32 n_heads, u32 most_parts, u32 layer, u32 n_layers) {
    const u32 lane = threadIdx.x;
    if (blockIdx.x >= *n_asks) return;
    const AttentionAsk ask = asks[blockIdx.x];
    const float* heads = stats + u64(ask.token) * n_heads * 4;
    // {h, varentropy, mean |score|}
    float sums[3] = {0, 0, 0};
    for (u32 head = lane; head < n_heads; head += WARP) {
        const float4 s = *reinterpret_cast<const float4*>(heads + head * 4);
        sums[0] += s.x, sums[1] += s.y, sums[2] += s.z;
    }
#pragma unroll
    for (u32 i = 0; i < 3; i++) sums[i] = warp_sum(sums[i]) / float(n_heads);
    float off = 0;
    for (u32 head = lane; head < n_heads; head += WARP) off = fmaf(heads[head * 4] - sums[0], heads[head * 4] - sums[0], off);
    off = warp_sum(off) / float(n_heads);
    if (lane != 0) return;
    float rest = ask.n_keys > 1 ? sums[0] / logf(float(ask.n_keys)) : 0.0f;
    if (layer > 0) rest += relative[blockIdx.x];
    relative[blockIdx.x] = rest;
    if (layer + 1 < n_layers) return;
    float apart = 0;
    for (u32 part = 0; part * KEYS_A_PART < ask.n_keys; part++) apart += parts[u64(blockIdx.x) * most_parts + part];
    float* out = records + u64(blockIdx.x) * 6;
    out[0] = sums[0], out[1] = rest / float(n_layers), out[2] = sums[1], out[3] = off;
    out[4] = apart / (float(n_heads) * float(ask.n_keys)), out[5] = sums[2];
}
REGISTER_KERNEL(attention_signals);
