// Y = X W^T for any number of rows of X, with the same bits for a row whatever else is there.
//
// reads   weights   (n_rows, n_cols) in the layout of weights.cuh
//         x         (n_tokens, n_cols) bf16, n_cols a multiple of 8, 16-byte aligned
//         n_tokens  (1)
// writes  mode 0, store:  y (n_tokens, stride) f32, y[t][r] = w_r . x_t
//         mode 1, add:    y[t][r] += w_r . x_t, the residual connection
//         mode 2, gated:  h (n_tokens, stride) bf16, h[t][j] = silu(gate_j . x_t) (up_j . x_t); the tiles hold 8 rows of gate,
//                         then the same 8 of up
// twin    entropix_cpu::reference::ops::{linear, swiglu}
//
// Weights are the M side of the mma, tokens the N side: 8 tokens fill it, and a weight is read once for all tokens of a
// block. THE ORDER OF ADDITIONS is a property of the shape alone: the units of K are dealt to 8 slices in order; within a
// slice, mma by mma in rising columns from zero (quantised: one sum a scale group from zero, then fmaf(scale, sum, total));
// then ((s0 + s1) + s2) + ... Three kernels share it, and those of head.cuh:
//
//   name           block            grid                          for
//   matmul_*_n8    8 warps = the 8 slices of 16 rows x 8 tokens   (ceil(T/8), ceil(n_rows/16))   decode, n <= 16 or so
//   matmul_*_n32   8 warps = the 8 slices of 32 rows x 32 tokens  (ceil(T/32), ceil(n_rows/32))  decode, n <= 96 or so
//   matmul_*_wide  8 warps of 32 rows each, all slices, 64 tokens (ceil(T/64), ceil(n_rows/256)) prefill
//
// T is the most tokens this launch may meet; blocks beyond n_tokens leave at once. Token blocks are x so that neighbours
// read the same weights. n8, n32: weights go from L2 straight to registers, DEPTH units ahead (bf16: 4 x 64 bytes a lane, 64 KB
// a block in flight). wide: activations pass through shared memory (cp.async, 3 units), the sums of finished slices wait
// there, so that registers hold one slice only; dynamic shared memory WIDE_SMEM.
//
// bytes moved: the weights once per token block (from L2 for all but the first), x once per row block, y once.
#pragma once
#include "weights.cuh"

constexpr u32 SLICES = 8, MATMUL_THREADS = SLICES * WARP;
constexpr u32 MODE_STORE = 0, MODE_ADD = 1, MODE_GATED = 2;

/// silu(gate) * up (arXiv 2002.05202).
DEV float swiglu(float gate, float up) {
    float e = exp2_fast(mul(gate, -LOG2E));
    return mul(gate / add(1.0f, e), up);
}

/// Columns 4 q .. 4 q + 3 of every step of a unit, for one token a lane group: the B fragments.
struct Activations {
    uint2 b[STEPS];
};

DEV Activations load_activations(const bf16* row, u32 unit, u32 n_cols, u32 lane, bool live) {
    Activations x;
#pragma unroll
    for (u32 s = 0; s < STEPS; s++) {
        u32 col = unit * UNIT_COLS + s * STEP_COLS + lane % 4 * 4;
        x.b[s] = live && col < n_cols ? *reinterpret_cast<const uint2*>(row + col) : make_uint2(0, 0);
    }
    return x;
}

/// Adds one unit of MT row tiles to the sums of NT token tiles; `b(n, step)` is the B fragment of a token tile.
template <Format F, u32 MT, u32 NT, typename B>
DEV void accumulate(float (&sums)[MT][NT][4], const Unit<F> (&units)[MT], B b) {
    typedef Layout<F> L;
    if (L::STEPS_PER_SCALE == 0) {
        // Four token tiles at a time: enough that do not wait for one another, and few registers.
        constexpr u32 together = NT < 4 ? NT : 4;
#pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
            u32 a[MT][L::PARTS][4];
#pragma unroll
            for (u32 m = 0; m < MT; m++)
#pragma unroll
                for (u32 part = 0; part < L::PARTS; part++) fragment<F>(a[m][part], units[m], s, part);
#pragma unroll
            for (u32 first = 0; first < NT; first += together) {
                uint2 x[together];
#pragma unroll
                for (u32 n = 0; n < together; n++) x[n] = b(first + n, s);
#pragma unroll
                for (u32 m = 0; m < MT; m++)
#pragma unroll
                    for (u32 part = 0; part < L::PARTS; part++)
#pragma unroll
                        for (u32 n = 0; n < together; n++) mma_bf16(sums[m][first + n], a[m][part], x[n].x, x[n].y);
            }
        }
        return;
    }
    constexpr u32 per_scale = L::STEPS_PER_SCALE ? L::STEPS_PER_SCALE : 1;
#pragma unroll
    for (u32 group = 0; group < STEPS / per_scale; group++) {
        u32 a[MT][per_scale][4];
        float scale[MT][2], low[MT][2];
#pragma unroll
        for (u32 m = 0; m < MT; m++) {
#pragma unroll
            for (u32 s = 0; s < per_scale; s++) fragment<F>(a[m][s], units[m], group * per_scale + s, 0);
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                scale[m][half] = scale_of<F>(units[m], group, half);
                low[m][half] = L::HAS_MIN ? minimum_of<F>(units[m], group, half) : 0.0f;
            }
        }
        // Token tile by token tile: what lives at once does not grow with NT.
#pragma unroll
        for (u32 n = 0; n < NT; n++) {
            // A matrix of ones gives the sums of the activations in every row.
            const u32 ones[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
            float column[4] = {}, c[MT][4] = {};
#pragma unroll
            for (u32 s = 0; s < per_scale; s++) {
                const uint2 x = b(n, group * per_scale + s);
                if (L::HAS_MIN) mma_bf16(column, ones, x.x, x.y);
#pragma unroll
                for (u32 m = 0; m < MT; m++) mma_bf16(c[m], a[m][s], x.x, x.y);
            }
#pragma unroll
            for (u32 m = 0; m < MT; m++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    sums[m][n][i] = fmaf(scale[m][i / 2], c[m][i], sums[m][n][i]);
                    if (L::HAS_MIN) sums[m][n][i] = fmaf(low[m][i / 2], column[i], sums[m][n][i]);
                }
        }
    }
}

DEV u32 slice_begin(u32 slice, u32 n_units) { return slice * n_units / SLICES; }

/// One slice a warp: MT row tiles, NT token tiles, DEPTH units on their way.
template <Format F, u32 MT, u32 NT, u32 DEPTH>
DEV void matmul_sliced(const u8* weights, u32 n_rows, u32 n_cols, const bf16* x, float* y, bf16* h, u32 stride, u32 n_tokens, u32 mode) {
    // One padding column: the sums of a slice leave fragment order, and 8 rows of 8 floats would share banks.
    SHARED(float, parts, [SLICES][MT * TILE_ROWS][NT * 8 + 1]);
    const u32 lane = threadIdx.x % WARP, slice = threadIdx.x / WARP;
    const u32 first_token = blockIdx.x * NT * 8, first_tile = blockIdx.y * MT;
    if (first_token >= n_tokens) return;
    const Matrix<F> matrix = Matrix<F>::of(weights, n_rows, n_cols);
    const u32 begin = slice_begin(slice, matrix.n_units), end = slice_begin(slice + 1, matrix.n_units);
    const u32 last_tile = (n_rows - 1) / TILE_ROWS;

    Unit<F> units[DEPTH][MT];
    Activations acts[DEPTH][NT];
    auto fetch = [&](Unit<F>(&to)[MT], Activations(&to_x)[NT], u32 unit) {
#pragma unroll
        for (u32 m = 0; m < MT; m++) to[m] = matrix.load(min(first_tile + m, last_tile), unit, lane);
#pragma unroll
        for (u32 n = 0; n < NT; n++) {
            u32 token = first_token + n * 8 + lane / 4;
            to_x[n] = load_activations(x + u64(token) * n_cols, unit, n_cols, lane, token < n_tokens);
        }
    };
    float sums[MT][NT][4] = {};
#pragma unroll
    for (u32 i = 0; i < DEPTH; i++)
        if (begin + i < end) fetch(units[i], acts[i], begin + i);
    for (u32 at = begin; at < end; at += DEPTH) {
#pragma unroll
        for (u32 i = 0; i < DEPTH; i++) {
            if (at + i >= end) break;
            accumulate<F, MT, NT>(sums, units[i], [&](u32 n, u32 step) { return acts[i][n].b[step]; });
            if (at + i + DEPTH < end) fetch(units[i], acts[i], at + i + DEPTH);
        }
    }
#pragma unroll
    for (u32 m = 0; m < MT; m++)
#pragma unroll
        for (u32 n = 0; n < NT; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) parts[slice][m * TILE_ROWS + lane / 4 + i / 2 * 8][n * 8 + lane % 4 * 2 + i % 2] = sums[m][n][i];
    __syncthreads();

    auto total = [&](u32 row, u32 token) {
        float sum = parts[0][row][token];
#pragma unroll
        for (u32 s = 1; s < SLICES; s++) sum = add(sum, parts[s][row][token]);
        return sum;
    };
    const u32 rows = mode == MODE_GATED ? MT * 8 : MT * TILE_ROWS;
    for (u32 i = threadIdx.x; i < rows * NT * 8; i += MATMUL_THREADS) {
        u32 row = i % rows, token = first_token + i / rows;
        if (token >= n_tokens) break;
        if (mode == MODE_GATED) {
            u32 j = first_tile * 8 + row, gate_row = row / 8 * TILE_ROWS + row % 8;
            if (j < n_rows / 2) h[u64(token) * stride + j] = to_bf16(swiglu(total(gate_row, i / rows), total(gate_row + 8, i / rows)));
        } else {
            u32 r = first_tile * TILE_ROWS + row;
            if (r >= n_rows) continue;
            float* to = y + u64(token) * stride + r;
            float sum = total(row, i / rows);
            *to = mode == MODE_ADD ? add(*to, sum) : sum;
        }
    }
}

constexpr u32 WIDE_TOKENS = 64, WIDE_TILES = 2, WIDE_STAGES = 3, WIDE_ROWS = SLICES * WIDE_TILES * TILE_ROWS;
/// 128 bytes of a token's unit and 32 to spread 4 tokens over all banks.
constexpr u32 WIDE_TOKEN_BYTES = UNIT_COLS * 2 + 32, WIDE_STAGE_BYTES = WIDE_TOKENS * WIDE_TOKEN_BYTES;
constexpr u32 WIDE_SUMS = WIDE_TILES * (WIDE_TOKENS / 8) * 4;
constexpr u32 WIDE_SMEM = WIDE_STAGES * WIDE_STAGE_BYTES + MATMUL_THREADS * WIDE_SUMS * 4;

/// All slices in every warp, 32 rows a warp, 64 tokens a block.
template <Format F>
DEV void matmul_wide(const u8* weights, u32 n_rows, u32 n_cols, const bf16* x, float* y, bf16* h, u32 stride, u32 n_tokens, u32 mode) {
    constexpr u32 NT = WIDE_TOKENS / 8;
    SMEM_DYN(u8, smem);
    // Slot k of every lane side by side: 128 bytes a warp, no bank twice.
    float* finished = reinterpret_cast<float*>(smem + WIDE_STAGES * WIDE_STAGE_BYTES) + threadIdx.x;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 first_token = blockIdx.x * WIDE_TOKENS, first_tile = (blockIdx.y * SLICES + warp) * WIDE_TILES;
    if (first_token >= n_tokens) return;
    const Matrix<F> matrix = Matrix<F>::of(weights, n_rows, n_cols);
    const u32 last_tile = (n_rows - 1) / TILE_ROWS;

    auto stage = [&](u32 unit) {
        if (unit < matrix.n_units) {
            u8* to = smem + unit % WIDE_STAGES * WIDE_STAGE_BYTES;
#pragma unroll
            for (u32 i = 0; i < WIDE_TOKENS * 8 / MATMUL_THREADS; i++) {
                u32 part = threadIdx.x + i * MATMUL_THREADS, token = first_token + part / 8, col = unit * UNIT_COLS + part % 8 * 8;
                bool live = token < n_tokens && col < n_cols;
                cp_async16(to + part / 8 * WIDE_TOKEN_BYTES + part % 8 * 16, live ? x + u64(token) * n_cols + col : x, live ? 16 : 0);
            }
        }
        cp_async_commit();
    };
    Unit<F> units[2][WIDE_TILES];
    auto fetch = [&](Unit<F>(&to)[WIDE_TILES], u32 unit) {
#pragma unroll
        for (u32 m = 0; m < WIDE_TILES; m++) to[m] = matrix.load(min(first_tile + m, last_tile), unit, lane);
    };

    float sums[WIDE_TILES][NT][4] = {};
    u32 slice = 0, slice_end = slice_begin(1, matrix.n_units);
    // The first slice is stored, the others are added to it, empty ones too.
    auto finish_slice = [&] {
#pragma unroll
        for (u32 m = 0; m < WIDE_TILES; m++)
#pragma unroll
            for (u32 n = 0; n < NT; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    float* to = finished + ((m * NT + n) * 4 + i) * MATMUL_THREADS;
                    *to = slice == 0 ? sums[m][n][i] : add(*to, sums[m][n][i]);
                    sums[m][n][i] = 0;
                }
        slice++;
        slice_end = slice_begin(slice + 1, matrix.n_units);
    };
    auto compute = [&](const Unit<F>(&unit)[WIDE_TILES], u32 at) {
        while (at == slice_end) finish_slice();
        const u8* tokens = smem + at % WIDE_STAGES * WIDE_STAGE_BYTES + lane / 4 * WIDE_TOKEN_BYTES + lane % 4 * 8;
        accumulate<F, WIDE_TILES, NT>(sums, unit, [&](u32 n, u32 step) {
            return *reinterpret_cast<const uint2*>(tokens + n * 8 * WIDE_TOKEN_BYTES + step * STEP_COLS * 2);
        });
    };

    stage(0);
    stage(1);
    fetch(units[0], 0);
    for (u32 at = 0; at < matrix.n_units; at += 2) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            if (at + i >= matrix.n_units) break;
            if (at + i + 1 < matrix.n_units) fetch(units[1 - i], at + i + 1);
            cp_async_wait<1>();
            // Everybody's copies have landed, and nobody reads the stage that the next copy overwrites.
            __syncthreads();
            stage(at + i + 2);
            compute(units[i], at + i);
        }
    }
    cp_async_wait<0>();
    while (slice < SLICES) finish_slice();

    auto total = [&](u32 m, u32 n, u32 i) { return finished[((m * NT + n) * 4 + i) * MATMUL_THREADS]; };
#pragma unroll
    for (u32 m = 0; m < WIDE_TILES; m++) {
#pragma unroll
        for (u32 n = 0; n < NT; n++) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                u32 token = first_token + n * 8 + lane % 4 * 2 + i % 2, tile = first_tile + m;
                if (token >= n_tokens) continue;
                if (mode == MODE_GATED) {
                    u32 j = tile * 8 + lane / 4;
                    if (i < 2 && j < n_rows / 2) h[u64(token) * stride + j] = to_bf16(swiglu(total(m, n, i), total(m, n, i + 2)));
                } else {
                    u32 r = tile * TILE_ROWS + lane / 4 + i / 2 * 8;
                    if (r >= n_rows) continue;
                    float* to = y + u64(token) * stride + r;
                    *to = mode == MODE_ADD ? add(*to, total(m, n, i)) : total(m, n, i);
                }
            }
        }
    }
}

/// The three kernels of a format. `depth8` and `depth32`: units in flight a warp.
#define MATMUL_KERNELS(format, name, depth8, depth32)                                                                        \
    KERNEL void __launch_bounds__(MATMUL_THREADS, 2) matmul_##name##_n8(const u8* weights, const bf16* x, float* y, bf16* h,    \
                                                                    const u32* n_tokens, u32 n_rows, u32 n_cols, u32 stride, u32 mode) { \
        matmul_sliced<format, 1, 1, depth8>(weights, n_rows, n_cols, x, y, h, stride, *n_tokens, mode);                      \
    }                                                                                                                        \
    REGISTER_KERNEL(matmul_##name##_n8);                                                                                     \
    KERNEL void __launch_bounds__(MATMUL_THREADS) matmul_##name##_n32(const u8* weights, const bf16* x, float* y, bf16* h,   \
                                                                     const u32* n_tokens, u32 n_rows, u32 n_cols, u32 stride, u32 mode) { \
        matmul_sliced<format, 2, 4, depth32>(weights, n_rows, n_cols, x, y, h, stride, *n_tokens, mode);                     \
    }                                                                                                                        \
    REGISTER_KERNEL(matmul_##name##_n32);                                                                                    \
    KERNEL void __launch_bounds__(MATMUL_THREADS) matmul_##name##_wide(const u8* weights, const bf16* x, float* y, bf16* h,     \
                                                                      const u32* n_tokens, u32 n_rows, u32 n_cols, u32 stride, u32 mode) { \
        matmul_wide<format>(weights, n_rows, n_cols, x, y, h, stride, *n_tokens, mode);                                      \
    }                                                                                                                        \
    REGISTER_KERNEL(matmul_##name##_wide)
