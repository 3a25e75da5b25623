// Paged causal attention with grouped queries, and how spread every head's attention was.
//
// A tile is 16 packed query rows of one sequence and one KV head: row r is new token r / group, head r % group of the
// group. A decode step is a tile of `group` rows; a chunk of a prompt is many tiles; nothing else tells them apart.
//
// reads   q (n_tokens, n_heads, head_dim) bf16, f16 for a cache in f16; cache of one layer, in a type of kv.cuh;
//         tables: block tables of all sequences, one after the other; tiles (n_tiles) Tile; n_tiles (1)
// writes  out (n_tokens, n_heads, head_dim) bf16; stats (n_tokens, n_heads) {h, varentropy, mean |score|, ln sum exp score} f32
//         stats may be null (`spread` 0 where decoding): nobody asks how spread attention was, and its moments are not taken;
//         out has the same bits
// twins   entropix_cpu::reference::{attend, attention_signals}
//
// THE ORDER OF OPERATIONS is a property of the position alone. Keys are cut into chunks of 64 and splits of 256, both at
// fixed positions. A chunk is one shot: scores of 64 keys by mma (in 8 bits times the key's scale), maximum, exp, moments
// (moments.cuh), weights (in 8 bits times the value's scale) rounded to 16 bits, their product with V by mma from zero. Chunks
// merge in order into their split, splits in order into the row. So
//
//   attend_decode_*  a block a (tile, KV head, split): 4 warps take the 4 chunks, shared memory merges them, and a part a
//                    split waits for attend_merge; every split is on another SM          grid (N, n_kv_heads, most splits)
//   attend_merge     merges the splits: a warp a row                                     grid (N, n_kv_heads)
//   attend_prefill_* a warp a (tile, KV head), all splits one after the other            grid (ceil(N/4), n_kv_heads)
//
// give the same bits. Block 128. N is the most tiles this launch may meet; blocks beyond n_tiles leave. attend_merge knows no
// type and lies in a file of its own.
//
// No operand needs shared memory: a lane loads contiguous bytes of a key (kv.cuh); and V's columns are dealt so that lane group
// g owns contiguous ones, which byte_perm interleaves for two keys. bytes moved: 4 head_dim a key and tile, 2 (head_dim + 4) in
// 8 bits; a split's part is 16 (head_dim + 8) floats.
#pragma once
#include "kv.cuh"
#include "moments.cuh"

constexpr u32 ATTEND_THREADS = 128, TILE_QUERIES = 16, CHUNK = 64, SPLIT = 256, CHUNKS = SPLIT / CHUNK;
/// After the head_dim sums of a row: max, sum, mean, var, sum of |scores|; padded.
constexpr u32 PART_EXTRA = 8;

struct Tile {
    u32 first_token;  // of the sequence, in the batch
    u32 n_tokens;     // new tokens of the sequence
    u32 start;        // position of its first new token
    u32 table;        // where its block table begins
    u32 first_row;    // packed row of the tile's first query
    u32 part;         // where its parts begin, in splits
};

struct AttendShape {
    u32 n_heads, n_kv_heads, block_size;
    float scale;  // 1 / sqrt(head_dim)
};

/// One lane's view of 16 rows x 64 keys: its rows are g and g + 8.
template <u32 HD>
struct ChunkResult {
    Moments moments[2];
    float abs_sum[2];
};

/// A row's token (of the sequence) and head; rows past the end see no key.
struct Query {
    u32 token, head, n_keys;
};
DEV Query query_of(const Tile& tile, const AttendShape& shape, u32 kv_head, u32 row) {
    const u32 group = shape.n_heads / shape.n_kv_heads, packed = tile.first_row + row;
    Query query;
    query.token = packed / group;
    query.head = kv_head * group + packed % group;
    query.n_keys = query.token < tile.n_tokens ? tile.start + query.token + 1 : 0;
    return query;
}
/// Keys that the last row of a tile sees.
DEV u32 keys_of(const Tile& tile, const AttendShape& shape) {
    const u32 group = shape.n_heads / shape.n_kv_heads, last = (tile.first_row + TILE_QUERIES - 1) / group;
    return tile.start + min(last, tile.n_tokens - 1) + 1;
}

/// The A fragments of 16 queries: register i of a step is row g + 8 (i % 2), the lane's components 2 (i / 2) and the next.
template <typename Kv, u32 HD>
DEV void load_queries(u32 (&a)[HD / 16][4], const u16* q, const Tile& tile, const AttendShape& shape, u32 kv_head, u32 lane) {
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        const Query query = query_of(tile, shape, kv_head, lane / 4 + 8 * h);
        const u16* row = q + (u64(tile.first_token + query.token) * shape.n_heads + query.head) * HD;
#pragma unroll
        for (u32 s = 0; s < HD / 16; s++) {
            uint2 v = query.n_keys ? *reinterpret_cast<const uint2*>(row + Kv::template component<HD>(s, lane % 4)) : make_uint2(0, 0);
            a[s][h] = v.x, a[s][2 + h] = v.y;
        }
    }
}

/// Where the key (0) or value (1) of a position lies.
template <typename Kv, u32 HD>
DEV Place<Kv> cached(const u8* cache, const u32* table, const AttendShape& shape, u32 kv_head, u32 is_value, u32 position) {
    const u64 block = table[position / shape.block_size];
    return Place<Kv>::of(cache, block, position % shape.block_size, shape.n_kv_heads, kv_head, is_value);
}

/// Multiplies the two columns of an n-tile that a lane has with the factors of their keys, of which lane 4 k has that of column k.
DEV void scale_columns(float (&d)[4], float factor, u32 lane) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const float f = __shfl_sync(FULL, factor, (lane % 4 * 2 + i) * 4);
        d[i] = mul(d[i], f), d[2 + i] = mul(d[2 + i], f);
    }
}

/// The same of weights, where 0 is that of a key which a row does not see, whatever its factor is.
DEV void scale_weights(float (&d)[4], float factor, u32 lane) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        const float f = __shfl_sync(FULL, factor, (lane % 4 * 2 + i) * 4);
        d[i] = d[i] == 0.0f ? 0.0f : mul(d[i], f), d[2 + i] = d[2 + i] == 0.0f ? 0.0f : mul(d[2 + i], f);
    }
}

/// The product of a chunk's weights with W columns of V, starting at `column`; `emit(tile, sums)` gets each 8 columns: column
/// g of n-tile j is component column + g W / 8 + j.
template <typename Kv, u32 HD, u32 W, typename Emit>
DEV void weigh_values(const u32 (&p)[CHUNK / 16][4], const u8* cache, const u32* table, const AttendShape& shape, u32 kv_head, u32 first_key, u32 n_keys, u32 column,
                      u32 lane, Emit emit) {
    constexpr u32 OWN = W / 8;  // contiguous components a lane: 8, 4 or 2
    float sums[OWN][4] = {};
#pragma unroll
    for (u32 s = 0; s < CHUNK / 16; s++) {
        typename Kv::template Value<OWN> v[4];  // keys 2q, 2q + 1, 2q + 8, 2q + 9 of the step
#pragma unroll
        for (u32 k = 0; k < 4; k++) {
            const u32 key = first_key + s * 16 + lane % 4 * 2 + k % 2 + k / 2 * 8;
            const u8* from = nullptr;
            if (key < n_keys) from = cached<Kv, HD>(cache, table, shape, kv_head, 1, key).vector(shape.block_size, HD) + (column + lane / 4 * OWN) * Kv::WIDTH;
            v[k].load(from);
        }
#pragma unroll
        for (u32 j = 0; j < OWN; j++) Kv::mma(sums[j], p[s], v[0].with(v[1], j), v[2].with(v[3], j));
    }
#pragma unroll
    for (u32 j = 0; j < OWN; j++) emit(column / 8 + j, sums[j]);
}

/// The component that column c (0..8) of n-tile t of the output stands for.
template <u32 HD>
DEV u32 component_of(u32 t, u32 c) {
    constexpr u32 WHOLE = HD / 64 * 64, REST32 = HD % 64 / 32 * 32;
    if (int(t) < int(WHOLE / 8)) return t / 8 * 64 + c * 8 + t % 8;
    if (int(t) < int(WHOLE + REST32) / 8) return WHOLE + c * 4 + (t - WHOLE / 8);
    return WHOLE + REST32 + c * 2 + (t - (WHOLE + REST32) / 8);
}

/// The scores of rows g + 8 h become exponentials; adds up {e, e d, e d^2}, the last two for those who ask for the SPREAD.
template <bool SPREAD>
DEV void exponentials(float (&s)[CHUNK / 8][4], u32 h, float most, float (&sums)[3]) {
#pragma unroll
    for (u32 n = 0; n < CHUNK / 8; n++)
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            float& x = s[n][h * 2 + i];
            const float d = x == neg_inf() ? -80.0f : fmaxf(add(x, -most), -80.0f), e = x == neg_inf() ? 0.0f : exp_fast(d);
            sums[0] = add(sums[0], e);
            if (SPREAD) {
                const float ed = mul(e, d);
                sums[1] = add(sums[1], ed), sums[2] = fmaf(ed, d, sums[2]);
            }
            x = e;
        }
}

/// One chunk of keys against 16 queries. `before(moments)` runs when the moments are known, `emit(tile, sums)` for every 8
/// components of the weighted values, in the frame of the chunk's maximum.
template <typename Kv, u32 HD, typename Before, typename Emit>
DEV void attend_chunk(const u32 (&queries)[HD / 16][4], const u8* cache, const u32* table, const AttendShape& shape, u32 kv_head, u32 first_key, u32 n_keys,
                      const u32 (&row_keys)[2], bool spread, u32 lane, Before before, Emit emit) {
    float s[CHUNK / 8][4] = {};
    // Of value n * 8 + g.
    float value_scales[CHUNK / 8] = {};
#pragma unroll
    for (u32 n = 0; n < CHUNK / 8; n++) {
        const u32 key = first_key + n * 8 + lane / 4;
        const u8* vector = nullptr;
        float key_scale = 0;
        if (key < n_keys) {
            const Place<Kv> place = cached<Kv, HD>(cache, table, shape, kv_head, 0, key);
            vector = place.vector(shape.block_size, HD);
            if constexpr (Kv::SCALE_BYTES > 0) {
                key_scale = *place.scale(shape.block_size, HD);
                value_scales[n] = *place.value_scale(shape.block_size, HD);
            }
        }
        typename Kv::template Key<HD> words;
        words.load(vector, lane % 4);
#pragma unroll
        for (u32 k = 0; k < HD / 16; k++) {
            const uint2 b = words.fragment(k);
            Kv::mma(s[n], queries[k], b.x, b.y);
        }
        if constexpr (Kv::SCALE_BYTES > 0) scale_columns(s[n], key_scale, lane);
    }
    ChunkResult<HD> result;
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        float most = neg_inf(), size = 0;
#pragma unroll
        for (u32 n = 0; n < CHUNK / 8; n++)
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                float& x = s[n][h * 2 + i];
                const bool seen = first_key + n * 8 + lane % 4 * 2 + i < row_keys[h];
                x = seen ? mul(x, shape.scale) : neg_inf();
                size = add(size, seen ? fabsf(x) : 0.0f);
                most = fmaxf(most, x);
            }
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 1));
        most = fmaxf(most, __shfl_xor_sync(FULL, most, 2));
        float sums[3] = {};
        spread ? exponentials<true>(s, h, most, sums) : exponentials<false>(s, h, most, sums);
#pragma unroll
        for (int lanes = 1; lanes <= 2; lanes *= 2) {
            sums[0] = add(sums[0], __shfl_xor_sync(FULL, sums[0], lanes)), size = add(size, __shfl_xor_sync(FULL, size, lanes));
            if (spread) sums[1] = add(sums[1], __shfl_xor_sync(FULL, sums[1], lanes)), sums[2] = add(sums[2], __shfl_xor_sync(FULL, sums[2], lanes));
        }
        result.moments[h] = spread ? moments_of(most, sums[0], sums[1], sums[2]) : mass_of(most, sums[0]);
        result.abs_sum[h] = size;
    }
    before(result);
    if constexpr (Kv::SCALE_BYTES > 0) {
#pragma unroll
        for (u32 n = 0; n < CHUNK / 8; n++) scale_weights(s[n], value_scales[n], lane);
    }
    // The D fragment of scores is the A fragment of weights: columns 16 k + 2 q and 16 k + 8 + 2 q.
    u32 p[CHUNK / 16][4];
#pragma unroll
    for (u32 k = 0; k < CHUNK / 16; k++) {
        p[k][0] = Kv::pack(s[2 * k][0], s[2 * k][1]), p[k][1] = Kv::pack(s[2 * k][2], s[2 * k][3]);
        p[k][2] = Kv::pack(s[2 * k + 1][0], s[2 * k + 1][1]), p[k][3] = Kv::pack(s[2 * k + 1][2], s[2 * k + 1][3]);
    }
    constexpr u32 WHOLE = HD / 64, REST32 = HD % 64 / 32, REST16 = HD % 32 / 16;
#pragma unroll
    for (int w = 0; w < int(WHOLE); w++) weigh_values<Kv, HD, 64>(p, cache, table, shape, kv_head, first_key, n_keys, w * 64, lane, emit);
    if (REST32) weigh_values<Kv, HD, 32>(p, cache, table, shape, kv_head, first_key, n_keys, WHOLE * 64, lane, emit);
    if (REST16) weigh_values<Kv, HD, 16>(p, cache, table, shape, kv_head, first_key, n_keys, WHOLE * 64 + REST32 * 32, lane, emit);
}

/// What a part's sums are multiplied with when it joins the frame of `to`.
DEV float rescale(const Moments& from, const Moments& to) { return exp_fast(frame_shift(from.max, to.max)); }

/// Adding zero turns -0 into 0, which merging with an empty part would do too. Maxima pass over a score that is no number, and
/// one of -inf looks like that of a key nobody sees; the sum of their sizes tells of either.
DEV bf16 finish_component(float sum, const Moments& m, float abs_sum) { return to_bf16(is_finite(abs_sum) ? add(mul(sum, 1.0f / m.sum), 0.0f) : not_a_number()); }

DEV void finish_stats(float* stats, const Moments& m, float abs_sum, u32 n_keys) {
    const float log_sum = logf(m.sum);
    *reinterpret_cast<float4*>(stats) = make_float4(add(log_sum, -m.mean), m.var, abs_sum / float(n_keys), add(m.max, log_sum));
}

template <typename Kv, u32 HD>
DEV void attend_decode(const u16* q, const u8* cache, const u32* tables, const Tile* tiles, float* parts, u32 n_tiles, bool spread, const AttendShape& shape) {
    SHARED(float, sums, [CHUNKS][TILE_QUERIES][HD + 4]);
    SHARED(Moments, moments, [CHUNKS][TILE_QUERIES]);
    SHARED(float, abs_sums, [CHUNKS][TILE_QUERIES]);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, kv_head = blockIdx.y, split = blockIdx.z;
    if (blockIdx.x >= n_tiles) return;
    const Tile tile = tiles[blockIdx.x];
    const u32 n_keys = keys_of(tile, shape), first_key = split * SPLIT + warp * CHUNK;
    if (split * SPLIT >= n_keys) return;

    u32 queries[HD / 16][4];
    load_queries<Kv, HD>(queries, q, tile, shape, kv_head, lane);
    const u32 row_keys[2] = {query_of(tile, shape, kv_head, lane / 4).n_keys, query_of(tile, shape, kv_head, lane / 4 + 8).n_keys};
    attend_chunk<Kv, HD>(
        queries, cache, tables + tile.table, shape, kv_head, first_key, n_keys, row_keys, spread, lane,
        [&](const ChunkResult<HD>& result) {
#pragma unroll
            for (u32 h = 0; h < 2; h++)
                if (lane % 4 == 0) moments[warp][lane / 4 + 8 * h] = result.moments[h], abs_sums[warp][lane / 4 + 8 * h] = result.abs_sum[h];
        },
        [&](u32 t, const float(&c)[4]) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) sums[warp][lane / 4 + i / 2 * 8][component_of<HD>(t, lane % 4 * 2 + i % 2)] = c[i];
        });
    __syncthreads();

    float* part = parts + (u64(tile.part + split) * shape.n_kv_heads + kv_head) * TILE_QUERIES * (HD + PART_EXTRA);
    for (u32 row = warp; row < TILE_QUERIES; row += ATTEND_THREADS / WARP) {
        if (query_of(tile, shape, kv_head, row).n_keys <= split * SPLIT) continue;
        Moments all = no_moments();
        float size = 0, total[(HD + WARP - 1) / WARP] = {};
#pragma unroll
        for (u32 c = 0; c < CHUNKS; c++) {
            const Moments chunk = moments[c][row], merged = merge(all, chunk, spread);
            const float old_scale = rescale(all, merged), new_scale = rescale(chunk, merged);
#pragma unroll
            for (u32 i = 0; i < (HD + WARP - 1) / WARP; i++)
                if (lane + i * WARP < HD) total[i] = add(mul(total[i], old_scale), mul(sums[c][row][lane + i * WARP], new_scale));
            size = add(size, abs_sums[c][row]);
            all = merged;
        }
        float* to = part + row * (HD + PART_EXTRA);
#pragma unroll
        for (u32 i = 0; i < (HD + WARP - 1) / WARP; i++)
            if (lane + i * WARP < HD) to[lane + i * WARP] = total[i];
        if (lane == 0) {
            *reinterpret_cast<float4*>(to + HD) = make_float4(all.max, all.sum, all.mean, all.var);
            to[HD + 4] = size;
        }
    }
}

template <u32 HD>
DEV void attend_merge(const float* parts, const Tile* tiles, bf16* out, float* stats, u32 n_tiles, const AttendShape& shape) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, kv_head = blockIdx.y;
    if (blockIdx.x >= n_tiles) return;
    const Tile tile = tiles[blockIdx.x];
    const bool spread = stats != nullptr;
    for (u32 row = warp; row < TILE_QUERIES; row += ATTEND_THREADS / WARP) {
        const Query query = query_of(tile, shape, kv_head, row);
        if (query.n_keys == 0) continue;
        Moments all = no_moments();
        float size = 0, total[(HD + WARP - 1) / WARP] = {};
        for (u32 split = 0; split * SPLIT < query.n_keys; split++) {
            const float* part = parts + ((u64(tile.part + split) * shape.n_kv_heads + kv_head) * TILE_QUERIES + row) * (HD + PART_EXTRA);
            const float4 m = *reinterpret_cast<const float4*>(part + HD);
            const Moments one = {m.x, m.y, m.z, m.w}, merged = merge(all, one, spread);
            const float old_scale = rescale(all, merged), new_scale = rescale(one, merged);
#pragma unroll
            for (u32 i = 0; i < (HD + WARP - 1) / WARP; i++)
                if (lane + i * WARP < HD) total[i] = add(mul(total[i], old_scale), mul(part[lane + i * WARP], new_scale));
            size = add(size, part[HD + 4]);
            all = merged;
        }
        const u64 at = u64(tile.first_token + query.token) * shape.n_heads + query.head;
#pragma unroll
        for (u32 i = 0; i < (HD + WARP - 1) / WARP; i++)
            if (lane + i * WARP < HD) out[at * HD + lane + i * WARP] = finish_component(total[i], all, size);
        if (spread && lane == 0) finish_stats(stats + at * 4, all, size, query.n_keys);
    }
}

template <typename Kv, u32 HD>
DEV void attend_prefill(const u16* q, const u8* cache, const u32* tables, const Tile* tiles, bf16* out, float* stats, u32 n_tiles, const AttendShape& shape) {
    // The sums of finished splits wait here, so that registers hold one split only; slot k of every lane side by side.
    SHARED(float, finished, [HD / 2][ATTEND_THREADS]);
    const u32 lane = threadIdx.x % WARP, kv_head = blockIdx.y, index = blockIdx.x * (ATTEND_THREADS / WARP) + threadIdx.x / WARP;
    if (index >= n_tiles) return;
    const Tile tile = tiles[index];
    const u32 n_keys = keys_of(tile, shape);
    const Query rows[2] = {query_of(tile, shape, kv_head, lane / 4), query_of(tile, shape, kv_head, lane / 4 + 8)};
    const u32 row_keys[2] = {rows[0].n_keys, rows[1].n_keys};
    const bool spread = stats != nullptr;

    Moments all[2] = {no_moments(), no_moments()};
    float all_size[2] = {0, 0};
    for (u32 split = 0; split * SPLIT < n_keys; split++) {
        Moments part[2] = {no_moments(), no_moments()};
        float size[2] = {0, 0}, sums[HD / 8][4] = {}, old_scale[2], new_scale[2];
        for (u32 first_key = split * SPLIT; first_key < min(n_keys, split * SPLIT + SPLIT); first_key += CHUNK) {
            // Again for every chunk, from L1: the values need these registers.
            u32 queries[HD / 16][4];
            load_queries<Kv, HD>(queries, q, tile, shape, kv_head, lane);
            attend_chunk<Kv, HD>(
                queries, cache, tables + tile.table, shape, kv_head, first_key, n_keys, row_keys, spread, lane,
                [&](const ChunkResult<HD>& result) {
#pragma unroll
                    for (u32 h = 0; h < 2; h++) {
                        const Moments merged = merge(part[h], result.moments[h], spread);
                        old_scale[h] = rescale(part[h], merged), new_scale[h] = rescale(result.moments[h], merged);
                        size[h] = add(size[h], result.abs_sum[h]);
                        part[h] = merged;
                    }
                },
                [&](u32 t, const float(&c)[4]) {
#pragma unroll
                    for (u32 i = 0; i < 4; i++) sums[t][i] = add(mul(sums[t][i], old_scale[i / 2]), mul(c[i], new_scale[i / 2]));
                });
        }
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            const Moments merged = merge(all[h], part[h], spread);
            old_scale[h] = rescale(all[h], merged), new_scale[h] = rescale(part[h], merged);
            all_size[h] = add(all_size[h], size[h]);
            all[h] = merged;
        }
#pragma unroll
        for (u32 t = 0; t < HD / 8; t++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                float& to = finished[t * 4 + i][threadIdx.x];
                to = add(mul(split ? to : 0.0f, old_scale[i / 2]), mul(sums[t][i], new_scale[i / 2]));
            }
    }
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
        if (row_keys[h] == 0) continue;
        const u64 at = u64(tile.first_token + rows[h].token) * shape.n_heads + rows[h].head;
#pragma unroll
        for (u32 t = 0; t < HD / 8; t++)
#pragma unroll
            for (u32 i = 0; i < 2; i++) out[at * HD + component_of<HD>(t, lane % 4 * 2 + i)] = finish_component(finished[t * 4 + h * 2 + i][threadIdx.x], all[h], all_size[h]);
        if (spread && lane % 4 == 0) finish_stats(stats + at * 4, all[h], all_size[h], row_keys[h]);
    }
}

// One block an SM is enough for prefilling; ptxas aims at more when it is not told so, and spills for it.
#define ATTEND_KERNELS(Kv, kv, hd)                                                                                                    \
    KERNEL void __launch_bounds__(ATTEND_THREADS) attend_decode_##kv##_##hd(const u16* q, const u8* cache, const u32* tables, const Tile* tiles, float* parts, \
                                                                            const u32* n_tiles, u32 spread, u32 n_heads, u32 n_kv_heads, u32 block_size, float scale) { \
        const AttendShape shape = {n_heads, n_kv_heads, block_size, scale};                                                           \
        attend_decode<Kv, hd>(q, cache, tables, tiles, parts, *n_tiles, spread, shape);                                               \
    }                                                                                                                                 \
    REGISTER_KERNEL(attend_decode_##kv##_##hd);                                                                                       \
    KERNEL void __launch_bounds__(ATTEND_THREADS, 1) attend_prefill_##kv##_##hd(const u16* q, const u8* cache, const u32* tables, const Tile* tiles, bf16* out, \
                                                                             float* stats, const u32* n_tiles, u32 n_heads, u32 n_kv_heads, u32 block_size, float scale) { \
        const AttendShape shape = {n_heads, n_kv_heads, block_size, scale};                                                           \
        attend_prefill<Kv, hd>(q, cache, tables, tiles, out, stats, *n_tiles, shape);                                                 \
    }                                                                                                                                 \
    REGISTER_KERNEL(attend_prefill_##kv##_##hd)

#define ATTEND_MERGE_KERNEL(hd)                                                                                                       \
    KERNEL void __launch_bounds__(ATTEND_THREADS) attend_merge_##hd(const float* parts, const Tile* tiles, bf16* out, float* stats,      \
                                                                    const u32* n_tiles, u32 n_heads, u32 n_kv_heads) {                \
        const AttendShape shape = {n_heads, n_kv_heads, 0, 0};                                                                        \
        attend_merge<hd>(parts, tiles, out, stats, *n_tiles, shape);                                                                  \
    }                                                                                                                                 \
    REGISTER_KERNEL(attend_merge_##hd)
