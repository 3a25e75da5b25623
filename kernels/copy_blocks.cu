// Copy on write: the first tokens of cache blocks, all layers, into other blocks.
//
// reads   copies (n_copies) {from, to, tokens}; cache (n_layers, n_blocks, n_kv_heads, k|v, block_size, head_dim) bf16,
//         head_dim a multiple of 8; no destination is a source or a destination of another copy; n_copies (1)
// writes  the first `tokens` positions of each destination block; others are left alone
// grid (C, n_layers * n_kv_heads * 2), block 128: a block copies one contiguous piece, 16 bytes a thread and turn
// bytes moved: 2 x 2 x tokens x n_kv_heads x head_dim a layer, read and written
// twin    entropix_cpu::reference::ReferenceBackend::copy_blocks
#include "dev.cuh"

constexpr u32 COPY_THREADS = 128;
struct Copy { u32 from, to, tokens; };

KERNEL void __launch_bounds__(COPY_THREADS)
    copy_blocks(bf16* cache, const Copy* copies, const u32* n_copies, u32 n_blocks, u32 planes, u32 block_size, u32 head_dim) {
    if (blockIdx.x >= *n_copies) return;
    const Copy copy = copies[blockIdx.x];
    const u64 layer = blockIdx.y / planes, plane = blockIdx.y % planes, piece = u64(block_size) * head_dim;
    const uint4* from = reinterpret_cast<const uint4*>(cache + ((layer * n_blocks + copy.from) * planes + plane) * piece);
    uint4* to = reinterpret_cast<uint4*>(cache + ((layer * n_blocks + copy.to) * planes + plane) * piece);
    for (u32 i = threadIdx.x; i < copy.tokens * head_dim / 8; i += COPY_THREADS) to[i] = from[i];
}
REGISTER_KERNEL(copy_blocks);
