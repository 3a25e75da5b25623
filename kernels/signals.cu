// What a row of logits says about itself, in one read of the vocabulary.
//
// signals_tiles   reads   logits (n_asks, stride) f32, stride a multiple of 4
//                 writes  parts (n_asks, n_tiles, 16) words, maxima (n_asks, n_chunks) f32 of chunks of 128
//                 grid (ceil(vocab / 4096), A), block 256: 16 logits a thread stay in registers between the looks
// signals_merge   reads   parts, maxima, the two chunks that hold the two best; targets (n_asks), NO_TOKEN for none
//                 writes  signals (n_asks) SignalsRecord
//                 grid (A), block 256
// n_asks (1); blocks beyond it leave. A NaN or +inf poisons its own record only (status 1, all else 0).
// bytes moved: 4 a logit, once; parts and maxima are 4 % of that.
// formulas: moments.cuh; collision = sum p^2 = sum e^2d / S0^2; logit_std from means and squared deviations a tile, merged
//           as in Chan et al. 1979. Fixed order, so a row has the same bits alone and in any batch.
// twin    entropix_model::sampling::signals_of
#include "logits.cuh"
#include "moments.cuh"

constexpr u32 SIGNAL_THREADS = 256, SIGNAL_WARPS = SIGNAL_THREADS / WARP, TILE_LOGITS = 4096, CHUNKS_A_WARP = TILE_LOGITS / LOGIT_CHUNK / SIGNAL_WARPS;

struct SignalPart {
    Moments moments;
    float squares;    // sum of e^2
    float n_finite;
    float mean_logit; // of the finite ones
    float deviation;  // sum of (z - mean)^2 over them
    float n_bad;      // NaN and +inf
    float padding[7];
};

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

KERNEL void __launch_bounds__(SIGNAL_THREADS) signals_tiles(const float* logits, SignalPart* parts, float* maxima, const u32* n_asks, u32 vocab, u32 stride) {
    SHARED(float, warp_maxima, [SIGNAL_WARPS]);
    SHARED(float, sums_room, [SIGNAL_WARPS][6]);
    SHARED(float, squares_room, [SIGNAL_WARPS][1]);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, ask = blockIdx.y;
    if (ask >= *n_asks) return;
    const float* row = logits + u64(ask) * stride;
    const u32 n_chunks = (vocab + LOGIT_CHUNK - 1) / LOGIT_CHUNK, n_tiles = (vocab + TILE_LOGITS - 1) / TILE_LOGITS;
    const u32 first_chunk = (blockIdx.x * SIGNAL_WARPS + warp) * CHUNKS_A_WARP;

    float z[CHUNKS_A_WARP][LOGITS_A_LANE], most = neg_inf();
#pragma unroll
    for (u32 c = 0; c < CHUNKS_A_WARP; c++) load_chunk(z[c], row, first_chunk + c, vocab, lane);
#pragma unroll
    for (u32 c = 0; c < CHUNKS_A_WARP; c++) {
        float chunk_max = fmaxf(fmaxf(z[c][0], z[c][1]), fmaxf(z[c][2], z[c][3]));
        chunk_max = warp_max(chunk_max);
        if (lane == 0 && first_chunk + c < n_chunks) maxima[u64(ask) * n_chunks + first_chunk + c] = chunk_max;
        most = fmaxf(most, chunk_max);
    }
    if (lane == 0) warp_maxima[warp] = most;
    __syncthreads();
    most = warp_maxima[0];
#pragma unroll
    for (u32 w = 1; w < SIGNAL_WARPS; w++) most = fmaxf(most, warp_maxima[w]);

    // {S0, S1, S2, sum e^2, finite, bad}
    float v[6] = {}, sum_d[1] = {};
#pragma unroll
    for (u32 c = 0; c < CHUNKS_A_WARP; c++)
#pragma unroll
        for (u32 i = 0; i < LOGITS_A_LANE; i++) {
            const float x = z[c][i];
            const bool finite = is_finite(x);
            const float d = finite ? fmaxf(add(x, -most), -80.0f) : -80.0f, e = finite ? exp_fast(d) : 0.0f, ed = mul(e, d);
            v[0] = add(v[0], e), v[1] = add(v[1], ed), v[2] = fmaf(ed, d, v[2]), v[3] = fmaf(e, e, v[3]);
            v[4] = add(v[4], finite ? 1.0f : 0.0f), v[5] = add(v[5], finite || x == neg_inf() ? 0.0f : 1.0f);
            sum_d[0] = add(sum_d[0], finite ? add(x, -most) : 0.0f);
        }
    block_sum(v, sums_room);
    block_sum(sum_d, squares_room);
    const float mean_d = v[4] > 0 ? sum_d[0] / v[4] : 0.0f;
    float deviation[1] = {};
#pragma unroll
    for (u32 c = 0; c < CHUNKS_A_WARP; c++)
#pragma unroll
        for (u32 i = 0; i < LOGITS_A_LANE; i++) {
            const float off = is_finite(z[c][i]) ? add(add(z[c][i], -most), -mean_d) : 0.0f;
            deviation[0] = fmaf(off, off, deviation[0]);
        }
    // Everybody has read sum_d before its room is used again.
    __syncthreads();
    block_sum(deviation, squares_room);
    if (threadIdx.x == 0) {
        SignalPart& part = parts[u64(ask) * n_tiles + blockIdx.x];
        part.moments = moments_of(most, v[0], v[1], v[2]);
        part.squares = v[3], part.n_finite = v[4], part.n_bad = v[5];
        part.mean_logit = v[4] > 0 ? add(most, mean_d) : 0.0f, part.deviation = deviation[0];
    }
}
REGISTER_KERNEL(signals_tiles);

DEV SignalPart no_part() {
    SignalPart p = {};
    p.moments = no_moments();
    return p;
}

DEV SignalPart merge(const SignalPart& a, const SignalPart& b) {
    SignalPart p = no_part();
    p.moments = merge(a.moments, b.moments);
    const float wa = exp_fast(frame_shift(a.moments.max, p.moments.max)), wb = exp_fast(frame_shift(b.moments.max, p.moments.max));
    p.squares = fmaf(mul(wa, wa), a.squares, mul(mul(wb, wb), b.squares));
    p.n_bad = add(a.n_bad, b.n_bad);
    p.n_finite = add(a.n_finite, b.n_finite);
    if (p.n_finite > 0) {
        const float share = b.n_finite / p.n_finite, apart = add(b.mean_logit, -a.mean_logit);
        p.mean_logit = a.n_finite > 0 ? fmaf(share, apart, a.mean_logit) : b.mean_logit;
        p.deviation = add(add(a.deviation, b.deviation), mul(mul(mul(a.n_finite, share), apart), apart));
    }
    return p;
}

DEV SignalPart shuffle_part(const SignalPart& p, u32 lanes) {
    SignalPart o = no_part();
    o.moments.max = __shfl_xor_sync(FULL, p.moments.max, lanes), o.moments.sum = __shfl_xor_sync(FULL, p.moments.sum, lanes);
    o.moments.mean = __shfl_xor_sync(FULL, p.moments.mean, lanes), o.moments.var = __shfl_xor_sync(FULL, p.moments.var, lanes);
    o.squares = __shfl_xor_sync(FULL, p.squares, lanes), o.n_bad = __shfl_xor_sync(FULL, p.n_bad, lanes);
    o.n_finite = __shfl_xor_sync(FULL, p.n_finite, lanes), o.mean_logit = __shfl_xor_sync(FULL, p.mean_logit, lanes);
    o.deviation = __shfl_xor_sync(FULL, p.deviation, lanes);
    return o;
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

KERNEL void __launch_bounds__(SIGNAL_THREADS)
    signals_merge(const float* logits, const SignalPart* parts, const float* maxima, const u32* targets, SignalsRecord* signals, const u32* n_asks, u32 vocab, u32 stride) {
    SHARED(TwoBest, of_warp, [SIGNAL_WARPS]);
    SHARED(TwoBest, of_chunk, [2]);
    SHARED(u32, chunk, [2]);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, ask = blockIdx.x;
    if (ask >= *n_asks) return;
    const float* row = logits + u64(ask) * stride;
    const u32 n_chunks = (vocab + LOGIT_CHUNK - 1) / LOGIT_CHUNK, n_tiles = (vocab + TILE_LOGITS - 1) / TILE_LOGITS;

    // The best token is in the first chunk of the largest maximum, the second there or in the next best chunk.
    TwoBest best = {0, 0};
    for (u32 c = threadIdx.x; c < n_chunks; c += SIGNAL_THREADS) take(best, rank_of(maxima[u64(ask) * n_chunks + c], c));
    best = warp_two_best(best);
    if (lane == 0) of_warp[warp] = best;
    SignalPart all = no_part();
    if (warp == 0) {
        for (u32 t = lane; t < n_tiles; t += WARP) all = merge(all, parts[u64(ask) * n_tiles + t]);
#pragma unroll
        for (u32 lanes = 16; lanes; lanes >>= 1) all = merge(all, shuffle_part(all, lanes));
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (u32 w = 1; w < SIGNAL_WARPS; w++) take(best, of_warp[w].first), take(best, of_warp[w].second);
        chunk[0] = token_of(best.first), chunk[1] = best.second ? token_of(best.second) : NO_TOKEN;
    }
    __syncthreads();
    if (warp < 2) {
        TwoBest within = {0, 0};
        if (chunk[warp] != NO_TOKEN) {
            float z[LOGITS_A_LANE];
            load_chunk(z, row, chunk[warp], vocab, lane);
#pragma unroll
            for (u32 i = 0; i < LOGITS_A_LANE; i++) {
                const u32 token = chunk[warp] * LOGIT_CHUNK + lane * LOGITS_A_LANE + i;
                if (token < vocab) take(within, rank_of(z[i], token));
            }
        }
        within = warp_two_best(within);
        if (lane == 0) of_chunk[warp] = within;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;

    SignalsRecord out = {};
    if (all.n_bad > 0 || all.n_finite == 0) {
        out.status = 1;
    } else {
        const Moments& m = all.moments;
        const float log_sum = logf(m.sum);
        TwoBest two = of_chunk[0];
        take(two, of_chunk[1].first), take(two, of_chunk[1].second);
        out.entropy = fmaxf(add(log_sum, -m.mean), 0.0f), out.varentropy = m.var;
        out.collision = all.squares / mul(m.sum, m.sum), out.log_z = add(m.max, log_sum);
        out.logit_std = sqrtf(all.deviation / all.n_finite);
        const u32 target = targets[ask];
        out.target_logprob = target == NO_TOKEN ? not_a_number() : add(add(row[target], -m.max), -log_sum);
        out.best_token = token_of(two.first), out.best_logprob = -log_sum;
        out.second_token = two.second ? token_of(two.second) : 0;
        out.second_logprob = two.second ? add(add(logit_of(two.second), -m.max), -log_sum) : neg_inf();
    }
    signals[ask] = out;
}
REGISTER_KERNEL(signals_merge);
