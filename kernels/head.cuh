// The LM head: logits of the rows that somebody asks about, and what every chunk of 128 of them says, in one kernel.
//
// reads   weights  (vocab, n_cols) in the layout of weights.cuh
//         x        (n_asks, n_cols) bf16, n_cols a multiple of 8, 16-byte aligned
//         n_asks   (1)
// writes  logits   (n_asks, stride) f32, stride a multiple of 4, 16-byte aligned: to the bit what matmul.cuh stores
//         parts    (n_asks, n_chunks) ChunkPart of logits.cuh, 16-byte aligned; null: only maxima, all that greedy decoding needs,
//                  and what moments cost is measured against
//         maxima   (n_asks, n_chunks) f32
// twin    entropix_cpu::reference::ops::linear, then entropix_model::sampling::signals_of by signals.cu
//
//   name          block                                    grid                             an SM has
//   head_*_n8     8 warps of 16 rows, 8 tokens: a chunk    (ceil(A/8), ceil(vocab/128))     two blocks
//   head_*_n32    8 warps of 32 rows, 32 tokens: 2 chunks  (ceil(A/32), ceil(vocab/256))    one
//   head_*_n64    8 warps of 32 rows, 64 tokens: 2 chunks  (ceil(A/64), ceil(vocab/256))    one
//
// A is the most asks this launch may meet; blocks beyond n_asks leave at once. There are enough chunks for all SMs, so a warp
// walks all of K itself and keeps the slices of matmul.cuh apart: THE ORDER OF ADDITIONS is theirs. Weights go from L2 straight
// to registers, DEPTH units ahead; activations, which all warps want, through shared memory (cp.async, 3 stages). With many
// tokens their fragments are what shared memory is busy with, so a warp uses each for two row tiles. Shared memory is dynamic:
// HeadWidth::shared of crates/cuda/src/ops/logits.rs.
//
// Then the sums change places in shared memory, a chunk at a time: fragments hold 2 tokens of 16 rows a lane group, stores and
// moments want 16 rows of one token a lane. Eight lanes have a token, in every width, so that a part has one order of additions
// too. A logit is stored once, in whole lines, and its exp is taken once.
//
// bytes moved: the weights once per token block (from L2 for all but the first), x once per row block from L2, a logit 4, a
// chunk 36.
#pragma once
#include "logits.cuh"
#include "matmul.cuh"
#include "moments.cuh"

constexpr u32 HEAD_STAGES = 3, TOKEN_LANES = 8;
/// Floats of a token in shared memory: 4 more than a chunk, so that neither fragments nor rows of 16 bytes share banks.
constexpr u32 HEAD_ROW = LOGIT_CHUNK + 4;

template <u32 MT, u32 NT>
struct HeadShape {
    enum : u32 {
        TOKENS = NT * 8,
        STAGE_UNITS = NT == 1 ? 4 : NT == 4 ? 2 : 1,
        /// 32 bytes to spread 4 tokens over all banks.
        TOKEN_BYTES = STAGE_UNITS * UNIT_COLS * 2 + 32,
        STAGE_BYTES = TOKENS * TOKEN_BYTES,
        SUM_BYTES = TOKENS * HEAD_ROW * 4,
        ROOM_BYTES = HEAD_STAGES * STAGE_BYTES > SUM_BYTES ? HEAD_STAGES * STAGE_BYTES : SUM_BYTES,
        TOTALS = MT * NT * 4,
        /// Whether the sums of finished slices wait in shared memory, after the room: registers hold 32 of them.
        ASIDE = TOTALS > 32,
        COPIES = TOKENS * STAGE_UNITS * 8 / MATMUL_THREADS,
    };
};

/// Sum and maximum over the eight lanes of a token, in each of them, in one fixed order.
DEV float token_sum(float x) {
#pragma unroll
    for (u32 lanes = TOKEN_LANES / 2; lanes; lanes >>= 1) x = add(x, __shfl_xor_sync(FULL, x, lanes));
    return x;
}
DEV float token_max(float x) {
#pragma unroll
    for (u32 lanes = TOKEN_LANES / 2; lanes; lanes >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, lanes));
    return x;
}

/// The maximum of a chunk, in all eight lanes of a token; each brings 16 logits, minus infinity for none.
DEV float most_of(const float (&z)[4][4]) {
    float most = neg_inf();
#pragma unroll
    for (u32 k = 0; k < 4; k++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) most = fmaxf(most, z[k][i]);
    return token_max(most);
}

/// Its part, likewise.
DEV ChunkPart part_of(const float (&z)[4][4], float most) {
    float s0 = 0, s1 = 0, s2 = 0, squares = 0, sum_d = 0;
    u32 count = 0;  // finite ones, and those that are NaN or +inf above bit 16
#pragma unroll
    for (u32 k = 0; k < 4; k++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float x = z[k][i];
            const bool finite = is_finite(x);
            const float off = finite ? add(x, -most) : 0.0f, d = fmaxf(off, -80.0f);
            const float e = finite ? exp_fast(d) : 0.0f, ed = mul(e, d);
            s0 = add(s0, e), s1 = add(s1, ed), s2 = fmaf(ed, d, s2), squares = fmaf(e, e, squares);
            sum_d = add(sum_d, off);
            count += finite ? 1u : x == neg_inf() ? 0u : 1u << 16;
        }
    s0 = token_sum(s0), s1 = token_sum(s1), s2 = token_sum(s2), squares = token_sum(squares), sum_d = token_sum(sum_d);
#pragma unroll
    for (u32 lanes = TOKEN_LANES / 2; lanes; lanes >>= 1) count += __shfl_xor_sync(FULL, count, lanes);
    const float n_finite = float(count & 0xffffu), mean_d = n_finite > 0 ? sum_d / n_finite : 0.0f;
    float deviation = 0;
#pragma unroll
    for (u32 k = 0; k < 4; k++)
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const float off = is_finite(z[k][i]) ? add(add(z[k][i], -most), -mean_d) : 0.0f;
            deviation = fmaf(off, off, deviation);
        }
    const Moments m = moments_of(most, s0, s1, s2);
    ChunkPart part = {m.sum, m.mean, m.var, squares, n_finite, mean_d, token_sum(deviation), float(count >> 16)};
    return part;
}

/// MT row tiles a warp, NT token tiles; DEPTH units on their way.
template <Format F, u32 MT, u32 NT, u32 DEPTH>
DEV void head(const u8* weights, const bf16* x, float* logits, ChunkPart* parts, float* maxima, u32 n_asks, u32 vocab, u32 n_cols, u32 stride) {
    typedef HeadShape<MT, NT> S;
    SMEM_DYN(u8, stages);
    // Slot k of every lane side by side: 128 bytes a warp, no bank twice.
    float* aside = reinterpret_cast<float*>(stages + S::ROOM_BYTES) + threadIdx.x;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 first_ask = blockIdx.x * S::TOKENS, n_chunks = (vocab + LOGIT_CHUNK - 1) / LOGIT_CHUNK;
    if (first_ask >= n_asks) return;
    const Matrix<F> matrix = Matrix<F>::of(weights, vocab, n_cols);
    const u32 first_tile = (blockIdx.y * SLICES + warp) * MT, last_tile = (vocab - 1) / TILE_ROWS;

    auto stage = [&](u32 number) {
        u8* to = stages + number % HEAD_STAGES * S::STAGE_BYTES;
#pragma unroll
        for (u32 i = 0; i < S::COPIES; i++) {
            const u32 part = threadIdx.x + i * MATMUL_THREADS, token = part / (S::STAGE_UNITS * 8), piece = part % (S::STAGE_UNITS * 8);
            const u32 ask = first_ask + token, col = number * S::STAGE_UNITS * UNIT_COLS + piece * 8;
            const bool live = ask < n_asks && col < n_cols;
            if (number * S::STAGE_UNITS < matrix.n_units) cp_async16(to + token * S::TOKEN_BYTES + piece * 16, live ? x + u64(ask) * n_cols + col : x, live ? 16 : 0);
        }
        cp_async_commit();
    };
    Unit<F> units[DEPTH][MT];
    // Warps past the last tile repeat it, for nobody.
    auto fetch = [&](Unit<F>(&to)[MT], u32 unit) {
#pragma unroll
        for (u32 m = 0; m < MT; m++) to[m] = matrix.load(min(first_tile + m, last_tile), unit, lane);
    };

    float sums[MT][NT][4] = {}, totals[S::ASIDE ? 1 : S::TOTALS];
    auto total = [&](u32 m, u32 n, u32 i) -> float& {
        const u32 slot = (m * NT + n) * 4 + i;
        if constexpr (S::ASIDE) return aside[slot * MATMUL_THREADS];
        else return totals[slot];
    };
    u32 slice = 0, slice_end = slice_begin(1, matrix.n_units);
    // The first slice is taken, the others are added to it, empty ones too.
    auto finish_slice = [&] {
#pragma unroll
        for (u32 m = 0; m < MT; m++)
#pragma unroll
            for (u32 n = 0; n < NT; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    float& to = total(m, n, i);
                    to = slice == 0 ? sums[m][n][i] : add(to, sums[m][n][i]);
                    sums[m][n][i] = 0;
                }
        slice++;
        slice_end = slice_begin(slice + 1, matrix.n_units);
    };

    constexpr u32 TURN = DEPTH > u32(S::STAGE_UNITS) ? DEPTH : u32(S::STAGE_UNITS);
    static_assert(TURN % DEPTH == 0 && TURN % S::STAGE_UNITS == 0, "a turn of the loop is whole stages of whole rounds of registers");
#pragma unroll
    for (u32 i = 0; i < DEPTH; i++)
        if (i < matrix.n_units) fetch(units[i], i);
    stage(0);
    stage(1);
    for (u32 at = 0; at < matrix.n_units; at += TURN) {
#pragma unroll
        for (u32 i = 0; i < TURN; i++) {
            if (at + i >= matrix.n_units) break;
            if (i % S::STAGE_UNITS == 0) {
                cp_async_wait<1>();
                // Everybody's copies have landed, and nobody reads the stage that the next copy overwrites.
                __syncthreads();
                stage((at + i) / S::STAGE_UNITS + 2);
            }
            while (at + i == slice_end) finish_slice();
            const u8* tokens = stages + (at + i) / S::STAGE_UNITS % HEAD_STAGES * S::STAGE_BYTES + i % S::STAGE_UNITS * UNIT_COLS * 2 +
                               lane / 4 * S::TOKEN_BYTES + lane % 4 * 8;
            accumulate<F, MT, NT>(sums, units[i % DEPTH], [&](u32 n, u32 step) {
                return *reinterpret_cast<const uint2*>(tokens + n * 8 * S::TOKEN_BYTES + step * STEP_COLS * 2);
            });
            if (at + i + DEPTH < matrix.n_units) fetch(units[i % DEPTH], at + i + DEPTH);
        }
    }
    while (slice < SLICES) finish_slice();

    cp_async_wait<0>();

    float* rows = reinterpret_cast<float*>(stages);
    const u32 own = threadIdx.x % TOKEN_LANES;
#pragma unroll 1
    for (u32 half = 0; half < MT; half++) {
        const u32 chunk = blockIdx.y * MT + half;
        if (chunk >= n_chunks) break;
        // The stages, or the sums of the chunk before, have had their last reader.
        __syncthreads();
        if (warp / (SLICES / MT) == half) {
            float* to = rows + lane % 4 * 2 * HEAD_ROW + warp % (SLICES / MT) * MT * TILE_ROWS + lane / 4;
#pragma unroll
            for (u32 m = 0; m < MT; m++)
#pragma unroll
                for (u32 n = 0; n < NT; n++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) to[(n * 8 + i % 2) * HEAD_ROW + m * TILE_ROWS + i / 2 * 8] = total(m, n, i);
        }
        __syncthreads();
        // A warp has four tokens, and stays whole for the shuffles.
        for (u32 first = warp * (WARP / TOKEN_LANES); first < S::TOKENS && first_ask + first < n_asks; first += MATMUL_THREADS / TOKEN_LANES) {
            const u32 token = first + lane / TOKEN_LANES, ask = first_ask + token;
            const bool live = ask < n_asks;
            float z[4][4];
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                const u32 within = (k * TOKEN_LANES + own) * 4, row = chunk * LOGIT_CHUNK + within;
                const float4 v = *reinterpret_cast<const float4*>(rows + token * HEAD_ROW + within);
                z[k][0] = v.x, z[k][1] = v.y, z[k][2] = v.z, z[k][3] = v.w;
                float* to = logits + u64(ask) * stride + row;
                if (row + 4 <= vocab) {
                    if (live) *reinterpret_cast<float4*>(to) = v;
                } else {
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        if (row + i >= vocab) z[k][i] = neg_inf();
                        else if (live) to[i] = z[k][i];
                    }
                }
            }
            const float most = most_of(z);
            const u64 place = u64(ask) * n_chunks + chunk;
            if (live && own == 2) maxima[place] = most;
            if (!parts) continue;
            const ChunkPart part = part_of(z, most);
            float4* to = reinterpret_cast<float4*>(parts + place);
            if (live && own == 0) to[0] = make_float4(part.sum, part.mean, part.var, part.squares);
            if (live && own == 1) to[1] = make_float4(part.n_finite, part.mean_off, part.deviation, part.n_bad);
        }
    }
}

/// The three kernels of a format; `depth`: units in flight a warp.
#define HEAD_KERNEL(format, name, width, MT, NT, depth, ...)                                                                 \
    KERNEL void __launch_bounds__(__VA_ARGS__)                                                                               \
        head_##name##_##width(const u8* weights, const bf16* x, float* logits, ChunkPart* parts, float* maxima,              \
                              const u32* n_asks, u32 vocab, u32 n_cols, u32 stride) {                                        \
        head<format, MT, NT, depth>(weights, x, logits, parts, maxima, *n_asks, vocab, n_cols, stride);                      \
    }                                                                                                                        \
    REGISTER_KERNEL(head_##name##_##width)
#define HEAD_KERNELS(format, name, depth8, depth32, depth64)                                                                 \
    HEAD_KERNEL(format, name, n8, 1, 1, depth8, MATMUL_THREADS, 2);                                                          \
    HEAD_KERNEL(format, name, n32, 2, 4, depth32, MATMUL_THREADS);                                                           \
    HEAD_KERNEL(format, name, n64, 2, 8, depth64, MATMUL_THREADS)
