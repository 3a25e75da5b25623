// A packed matrix row by row in bf16, for products that another library makes (--fast).
//
// reads   weights (n_rows, n_cols) in the layout of weights.cuh, n_cols a multiple of 8
// writes  out (n_rows, n_cols) bf16, 8-byte aligned; a quantised weight is rounded once, from scale * n + minimum in f32
// grid (ceil(units / 8), tiles), block 256: a warp unpacks one unit of one tile
// bytes moved: the matrix as stored, 2 a weight written
// twin    entropix_model::quant::dequantise
#include "weights.cuh"

constexpr u32 UNPACK_THREADS = 256;

template <Format F>
DEV void unpack(const u8* weights, bf16* out, u32 n_rows, u32 n_cols) {
    typedef Layout<F> L;
    const u32 lane = threadIdx.x % WARP, unit = blockIdx.x * (UNPACK_THREADS / WARP) + threadIdx.x / WARP;
    const Matrix<F> matrix = Matrix<F>::of(weights, n_rows, n_cols);
    if (unit >= matrix.n_units) return;
    const Unit<F> u = matrix.load(blockIdx.y, unit, lane);
#pragma unroll
    for (u32 s = 0; s < STEPS; s++) {
        const u32 col = unit * UNIT_COLS + s * STEP_COLS + lane % 4 * 4;
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            float v[4] = {};
#pragma unroll
            for (u32 part = 0; part < L::PARTS; part++) {
                u32 a[4];
                fragment<F>(a, u, s, part);
                v[0] += low_bf16(a[half]), v[1] += high_bf16(a[half]), v[2] += low_bf16(a[half + 2]), v[3] += high_bf16(a[half + 2]);
            }
            if (L::STEPS_PER_SCALE) {
                const u32 group = s / (L::STEPS_PER_SCALE ? L::STEPS_PER_SCALE : 1);
                const float d = scale_of<F>(u, group, half), m = L::HAS_MIN ? minimum_of<F>(u, group, half) : 0.0f;
#pragma unroll
                for (u32 c = 0; c < 4; c++) v[c] = fmaf(v[c], d, m);
            }
            const u32 row = blockIdx.y * TILE_ROWS + half * 8 + lane / 4;
            if (row < n_rows && col < n_cols)
                *reinterpret_cast<uint2*>(out + u64(row) * n_cols + col) = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
        }
    }
}

#define UNPACK_KERNEL(format, name)                                                                                                \
    KERNEL void __launch_bounds__(UNPACK_THREADS) unpack_##name(const u8* weights, bf16* out, u32 n_rows, u32 n_cols) { \
        unpack<format>(weights, out, n_rows, n_cols);                                                                   \
    }                                                                                                                   \
    REGISTER_KERNEL(unpack_##name)

UNPACK_KERNEL(BF16, bf16);
UNPACK_KERNEL(F16, f16);
UNPACK_KERNEL(Q4_0, q4_0);
UNPACK_KERNEL(Q4_1, q4_1);
UNPACK_KERNEL(Q5_0, q5_0);
UNPACK_KERNEL(Q8_0, q8_0);
UNPACK_KERNEL(Q4_K, q4_k);
UNPACK_KERNEL(Q6_K, q6_k);
