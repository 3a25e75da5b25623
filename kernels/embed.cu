// Token rows of the embedding onto the residual stream.
//
// reads   tokens (n_tokens), weights (vocabulary, hidden) in the layout of weights.cuh, so that a tied LM head is the same bytes
// writes  x (n_tokens, hidden) f32
// grid (T), block 128; blocks beyond n_tokens leave. A thread decodes one lane's share of a unit and keeps its row of it.
// bytes moved: about twice a row as stored, 4 hidden a token written
// twin    entropix_cpu::reference::Model (the embedding's row)
#include "weights.cuh"

constexpr u32 EMBED_THREADS = 128;

template <Format F>
DEV void embed(const u8* weights, const u32* tokens, float* x, u32 n_tokens, u32 vocab, u32 hidden) {
    typedef Layout<F> L;
    if (blockIdx.x >= n_tokens) return;
    const u32 row = tokens[blockIdx.x], g = row % 8, half = row % TILE_ROWS / 8;
    const Matrix<F> matrix = Matrix<F>::of(weights, vocab, hidden);
    float* out = x + u64(blockIdx.x) * hidden;
    for (u32 i = threadIdx.x; i < matrix.n_units * 4; i += EMBED_THREADS) {
        const u32 unit = i / 4, q = i % 4;
        const Unit<F> u = matrix.load(row / TILE_ROWS, unit, g * 4 + q);
#pragma unroll
        for (u32 s = 0; s < STEPS; s++) {
            float v[4] = {};
#pragma unroll
            for (u32 part = 0; part < L::PARTS; part++) {
                u32 a[4];
                fragment<F>(a, u, s, part);
                u32 left = half ? a[1] : a[0], right = half ? a[3] : a[2];
                v[0] += low_bf16(left), v[1] += high_bf16(left), v[2] += low_bf16(right), v[3] += high_bf16(right);
            }
            if (L::STEPS_PER_SCALE) {
                u32 group = s / (L::STEPS_PER_SCALE ? L::STEPS_PER_SCALE : 1);
                float d = half ? scale_of<F>(u, group, 1) : scale_of<F>(u, group, 0), m = 0;
                if (L::HAS_MIN) m = half ? minimum_of<F>(u, group, 1) : minimum_of<F>(u, group, 0);
#pragma unroll
                for (u32 c = 0; c < 4; c++) v[c] = fmaf(v[c], d, m);
            }
            u32 col = unit * UNIT_COLS + s * STEP_COLS + q * 4;
            if (col < hidden) *reinterpret_cast<float4*>(out + col) = make_float4(v[0], v[1], v[2], v[3]);
        }
    }
}

#define EMBED_KERNEL(format, name)                                                                                               \
    KERNEL void __launch_bounds__(EMBED_THREADS) embed_##name(const u8* weights, const u32* tokens, float* x, const u32* n_tokens, u32 vocab, u32 hidden) { \
        embed<format>(weights, tokens, x, *n_tokens, vocab, hidden);                                                             \
    }                                                                                                                            \
    REGISTER_KERNEL(embed_##name)

EMBED_KERNEL(BF16, bf16);
EMBED_KERNEL(F16, f16);
EMBED_KERNEL(Q4_0, q4_0);
EMBED_KERNEL(Q4_1, q4_1);
EMBED_KERNEL(Q5_0, q5_0);
EMBED_KERNEL(Q8_0, q8_0);
EMBED_KERNEL(Q4_K, q4_k);
EMBED_KERNEL(Q6_K, q6_k);
