// Copy on write: the first tokens of cache blocks, all layers, into other blocks.
//
// reads   copies (n_copies) {from, to, tokens}; cache (n_layers, n_blocks, n_kv_heads, k|v) planes of kv.cuh: block_size
//         vectors of vector_bytes, a multiple of 16, then block_size scales of scale_bytes, 0 or 4; no destination is a source or a destination of another copy; n_copies (1)
// writes  the first `tokens` positions of each destination block; others are left alone
// grid (C, n_layers * n_kv_heads * 2), block 128: a block copies one plane: 16 bytes of vectors, then 4 of scales, a thread and turn
// bytes moved: 2 x 2 x tokens x n_kv_heads x (vector_bytes + scale_bytes) a layer, read and written
// twin    entropix_cpu::reference::ReferenceBackend::copy_blocks
#include "dev.cuh"

constexpr u32 COPY_THREADS = 128;
struct Copy { u32 from, to, tokens; };

KERNEL void __launch_bounds__(COPY_THREADS)
    copy_blocks(u8* cache, const Copy* copies, const u32* n_copies, u32 n_blocks, u32 planes, u32 block_size, u32 vector_bytes, u32 scale_bytes) {
    if (blockIdx.x >= *n_copies) return;
    const Copy copy = copies[blockIdx.x];
    const u64 layer = blockIdx.y / planes, plane = blockIdx.y % planes, piece = u64(block_size) * (vector_bytes + scale_bytes);
    const u8* from = cache + ((layer * n_blocks + copy.from) * planes + plane) * piece;
    u8* to = cache + ((layer * n_blocks + copy.to) * planes + plane) * piece;
    for (u32 i = threadIdx.x; i < copy.tokens * vector_bytes / 16; i += COPY_THREADS) reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
    const u32 scales = block_size * vector_bytes;
    for (u32 i = threadIdx.x; i < copy.tokens * scale_bytes / 4; i += COPY_THREADS)
        reinterpret_cast<u32*>(to + scales)[i] = reinterpret_cast<const u32*>(from + scales)[i];
}
REGISTER_KERNEL(copy_blocks);
