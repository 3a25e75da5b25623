// SwiGLU of products that another library made (--fast); our own have it in their epilogue (matmul.cuh, mode 2).
//
// reads   y (n_tokens, 2 n) f32, n a multiple of 8: 8 gates, then the same 8 of up, as the packed rows lie; n_tokens (1)
// writes  h (n_tokens, n) bf16 = silu(gate) up
// grid (T), block 256; blocks beyond n_tokens leave. A thread makes four numbers at a time.
// bytes moved: 8 n a token read, 2 n written
// twin    entropix_cpu::reference::ops::swiglu
#include "matmul.cuh"

constexpr u32 SWIGLU_THREADS = 256;

KERNEL void __launch_bounds__(SWIGLU_THREADS) swiglu_rows(const float* y, bf16* h, const u32* n_tokens, u32 n) {
    if (blockIdx.x >= *n_tokens) return;
    const float* row = y + u64(blockIdx.x) * 2 * n;
    bf16* to = h + u64(blockIdx.x) * n;
    for (u32 i = threadIdx.x; i < n / 4; i += SWIGLU_THREADS) {
        const float* at = row + i / 2 * TILE_ROWS + i % 2 * 4;
        const float4 gate = *reinterpret_cast<const float4*>(at), up = *reinterpret_cast<const float4*>(at + 8);
        const u32 low = pack_bf16(swiglu(gate.x, up.x), swiglu(gate.y, up.y)), high = pack_bf16(swiglu(gate.z, up.z), swiglu(gate.w, up.w));
        *reinterpret_cast<uint2*>(to + i * 4) = make_uint2(low, high);
    }
}
REGISTER_KERNEL(swiglu_rows);
