// What a row of logits says about itself: the parts that head.cuh made of its chunks, merged.
//
// signals_merge   reads   parts (n_asks, n_chunks) ChunkPart, maxima (n_asks, n_chunks) f32; of the logits (n_asks, stride) f32 the
//                         two chunks that hold the two best, and the target's; targets (n_asks), NO_TOKEN for none
//                 writes  signals (n_asks) SignalsRecord
//                 grid (A), block 256
// n_asks (1); blocks beyond it leave. A NaN or +inf poisons its own record only (status 1, all else 0).
// parts may be null: the record is the best token alone, all measures 0, as greedy decoding needs it. Status 1 then tells of a
// maximum that is not finite; of a row with a NaN among finite logits it tells nothing.
// bytes moved: 36 a chunk from L2 (the second look is an L1 hit), 2 chunks
// formulas: all parts at once in the frame of the row's maximum M. Part k with maximum m_k has weight w_k = S0_k exp(m_k - M) and
//           mean A_k = mean_k + m_k - M: S0 = sum w_k, A = sum w_k A_k / S0, V = sum w_k (var_k + (A_k - A)^2) / S0, H = ln S0 - A;
//           collision = sum p^2 = sum e^2d / S0^2; logit_std likewise from means and squared deviations, each logit of weight 1.
//           Fixed order, so a row has the same bits alone and in any batch.
// twin    entropix_model::sampling::signals_of
#include "logits.cuh"
#include "moments.cuh"

constexpr u32 SIGNAL_THREADS = 256, SIGNAL_WARPS = SIGNAL_THREADS / WARP;

/// Sums N numbers a thread over the block; all threads get them.
template <u32 N>
DEV void block_sum(float (&v)[N], float (&room)[SIGNAL_WARPS][N]) {
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        v[i] = warp_sum(v[i]);
        if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP][i] = v[i];
    }
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        v[i] = room[0][i];
#pragma unroll
        for (u32 w = 1; w < SIGNAL_WARPS; w++) v[i] = add(v[i], room[w][i]);
    }
}

struct TwoBest { u64 first, second; };
DEV void take(TwoBest& best, u64 rank) {
    if (rank > best.first) {
        best.second = best.first, best.first = rank;
    } else if (rank > best.second) {
        best.second = rank;
    }
}
DEV TwoBest warp_two_best(TwoBest best) {
#pragma unroll
    for (u32 lanes = 16; lanes; lanes >>= 1) {
        const u64 first = __shfl_xor_sync(FULL, best.first, lanes), second = __shfl_xor_sync(FULL, best.second, lanes);
        take(best, first);
        take(best, second);
    }
    return best;
}

/// A part in the frame of the row's maximum.
struct Weighed {
    ChunkPart part;
    float shift;      // of its own frame; 0 where no logit is finite
    float scale;      // exp of it
    float weight;     // S0
    float mean;       // of the softmax
};

DEV Weighed weigh(const ChunkPart* at, float chunk_max, float most) {
    const float4* words = reinterpret_cast<const float4*>(at);
    const float4 a = words[0], b = words[1];
    Weighed w;
    w.part = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
    w.shift = w.part.n_finite > 0 ? add(chunk_max, -most) : 0.0f;
    const float bounded = fmaxf(w.shift, -1000.0f);
    w.scale = exp_fast(bounded);
    w.weight = mul(w.part.sum, w.scale);
    w.mean = add(w.part.mean, bounded);
    return w;
}

KERNEL void __launch_bounds__(SIGNAL_THREADS)
    signals_merge(const float* logits, const ChunkPart* parts, const float* maxima, const u32* targets, SignalsRecord* signals, const u32* n_asks, u32 vocab, u32 stride) {
    SHARED(TwoBest, of_warp, [SIGNAL_WARPS]);
    SHARED(TwoBest, of_chunk, [2]);
    SHARED(float, sums_room, [SIGNAL_WARPS][6]);
    SHARED(float, spreads_room, [SIGNAL_WARPS][2]);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, ask = blockIdx.x;
    if (ask >= *n_asks) return;
    const float* row = logits + u64(ask) * stride;
    const u32 n_chunks = (vocab + LOGIT_CHUNK - 1) / LOGIT_CHUNK;
    const ChunkPart* part_of = parts + u64(ask) * n_chunks;
    const float* max_of = maxima + u64(ask) * n_chunks;

    // The best token is in the first chunk of the largest maximum, the second there or in the next best chunk.
    TwoBest best = {0, 0};
    for (u32 c = threadIdx.x; c < n_chunks; c += SIGNAL_THREADS) take(best, rank_of(max_of[c], c));
    best = warp_two_best(best);
    if (lane == 0) of_warp[warp] = best;
    __syncthreads();
    best = of_warp[0];
#pragma unroll
    for (u32 w = 1; w < SIGNAL_WARPS; w++) take(best, of_warp[w].first), take(best, of_warp[w].second);
    const float most = logit_of(best.first);

    // {S0, S0 mean, sum of e^2, finite, bad, sum of z - most over the finite}
    float v[6] = {}, mean = 0;
    // {S0 V, sum of squared deviations from the mean logit}
    float spread[2] = {};
    if (parts) {
        for (u32 c = threadIdx.x; c < n_chunks; c += SIGNAL_THREADS) {
            const Weighed w = weigh(part_of + c, max_of[c], most);
            v[0] = add(v[0], w.weight), v[1] = fmaf(w.weight, w.mean, v[1]), v[2] = fmaf(mul(w.scale, w.scale), w.part.squares, v[2]);
            v[3] = add(v[3], w.part.n_finite), v[4] = add(v[4], w.part.n_bad), v[5] = fmaf(w.part.n_finite, add(w.part.mean_off, w.shift), v[5]);
        }
        block_sum(v, sums_room);
        mean = v[1] / v[0];
        const float mean_off = v[5] / v[3];
        for (u32 c = threadIdx.x; c < n_chunks; c += SIGNAL_THREADS) {
            const Weighed w = weigh(part_of + c, max_of[c], most);
            const float apart = add(w.mean, -mean), logits_apart = add(add(w.part.mean_off, w.shift), -mean_off);
            spread[0] = fmaf(w.weight, fmaf(apart, apart, w.part.var), spread[0]);
            spread[1] = add(spread[1], fmaf(mul(w.part.n_finite, logits_apart), logits_apart, w.part.deviation));
        }
    }
    if (warp < 2) {
        const u64 chunk_rank = warp == 0 ? best.first : parts ? best.second : 0;
        TwoBest within = {0, 0};
        if (chunk_rank) {
            const u32 chunk = token_of(chunk_rank);
            float z[LOGITS_A_LANE];
            load_chunk(z, row, chunk, vocab, lane);
#pragma unroll
            for (u32 i = 0; i < LOGITS_A_LANE; i++) {
                const u32 token = chunk * LOGIT_CHUNK + lane * LOGITS_A_LANE + i;
                if (token < vocab) take(within, rank_of(z[i], token));
            }
        }
        within = warp_two_best(within);
        if (lane == 0) of_chunk[warp] = within;
    }
    if (parts) block_sum(spread, spreads_room);
    if (threadIdx.x != 0) return;

    SignalsRecord out = {};
    if (!parts) {
        out.status = !is_finite(most), out.best_token = out.status ? 0 : token_of(of_chunk[0].first);
    } else if (v[4] > 0 || v[3] == 0) {
        out.status = 1;
    } else {
        const float log_sum = logf(v[0]);
        TwoBest two = of_chunk[0];
        take(two, of_chunk[1].first), take(two, of_chunk[1].second);
        out.entropy = fmaxf(add(log_sum, -mean), 0.0f), out.varentropy = spread[0] / v[0];
        out.collision = v[2] / mul(v[0], v[0]), out.log_z = add(most, log_sum);
        out.logit_std = sqrtf(spread[1] / v[3]);
        const u32 target = targets[ask];
        out.target_logprob = target == NO_TOKEN ? not_a_number() : add(add(row[target], -most), -log_sum);
        out.best_token = token_of(two.first), out.best_logprob = -log_sum;
        out.second_token = two.second ? token_of(two.second) : 0;
        out.second_logprob = two.second ? add(add(logit_of(two.second), -most), -log_sum) : neg_inf();
    }
    signals[ask] = out;
}
REGISTER_KERNEL(signals_merge);
