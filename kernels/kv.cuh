// How keys and values lie in the paged cache, and how a lane turns its share into B fragments of mma.m16n8k16: one policy a
// type. Everything else about attention is the same for all of them.
//
// A layer is (n_blocks, n_kv_heads, k|v) planes. A plane is block_size vectors of head_dim components and behind them, in 8
// bits, block_size f32 scales: component = i8 * scale, scale = largest |component| / 127. So a block is one piece of memory
// with everything in it, and a vector with a component that is not finite is NaN as a whole. A row that sees a key that is
// not finite is NaN; an infinite value in 16 bits spoils its component for every row of its tile, earlier ones too.
//
//   KvBf16, KvF16  16 bits a component; queries and the weights of keys have the same type
//   KvInt8         queries and weights in bf16, in which every i8 is exact: a key's scale multiplies its score, a value's scale
//                  the weight of its key before that is rounded
//
// The contraction of Q and K may visit components in any order that both share: `component` says which four contiguous ones
// are a lane's in a step, so that it loads 8 contiguous bytes of a key at once, of one step (16 bits) or of two (8 bits).
#pragma once
#include "dev.cuh"

/// Where the key or value of a position lies: in which plane, and which vector of it.
template <typename Kv>
struct Place {
    const u8* cache;
    u64 plane;
    u32 offset;

    static DEV_MEMBER Place of(const u8* cache, u64 block, u32 offset, u32 n_kv_heads, u32 kv_head, u32 is_value) {
        Place place;
        place.cache = cache, place.plane = (block * n_kv_heads + kv_head) * 2 + is_value, place.offset = offset;
        return place;
    }
    DEV_MEMBER const u8* vector(u32 block_size, u32 head_dim) const {
        const u32 bytes = head_dim * Kv::WIDTH;
        // The same; ptxas spends fewer registers on either.
        if constexpr (Kv::SCALE_BYTES == 0) return cache + (plane * block_size + offset) * bytes;
        else return cache + plane * (block_size * (bytes + Kv::SCALE_BYTES)) + offset * bytes;
    }
    DEV_MEMBER const float* scale(u32 block_size, u32 head_dim) const {
        const u32 bytes = head_dim * Kv::WIDTH;
        return reinterpret_cast<const float*>(cache + plane * (block_size * (bytes + Kv::SCALE_BYTES)) + block_size * bytes) + offset;
    }
    /// Of the value beside a key.
    DEV_MEMBER const float* value_scale(u32 block_size, u32 head_dim) const {
        return scale(block_size, head_dim) + block_size * ((head_dim * Kv::WIDTH + Kv::SCALE_BYTES) / 4);
    }
};

/// 16 bits a component.
struct Kv16 {
    static constexpr u32 WIDTH = 2, SCALE_BYTES = 0;

    template <u32 HD>
    static DEV_MEMBER u32 component(u32 step, u32 quarter) { return step * 16 + quarter * 4; }

    /// A lane's share of a key.
    template <u32 HD>
    struct Key {
        const u8* own;

        DEV_MEMBER void load(const u8* vector, u32 quarter) { own = vector ? vector + component<HD>(0, quarter) * WIDTH : nullptr; }
        /// Read where it is wanted: whole keys would take the registers of prefilling.
        DEV_MEMBER uint2 fragment(u32 step) const { return own ? *reinterpret_cast<const uint2*>(own + step * 16 * WIDTH) : make_uint2(0, 0); }
    };

    /// OWN contiguous components of a value.
    template <u32 OWN>
    struct Value {
        u32 words[OWN / 2];

        DEV_MEMBER void load(const u8* from) {
            if constexpr (OWN == 8) {
                const uint4 w = from ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
                words[0] = w.x, words[1] = w.y, words[2] = w.z, words[3] = w.w;
            } else if constexpr (OWN == 4) {
                const uint2 w = from ? *reinterpret_cast<const uint2*>(from) : make_uint2(0, 0);
                words[0] = w.x, words[1] = w.y;
            } else {
                words[0] = from ? *reinterpret_cast<const u32*>(from) : 0;
            }
        }
        /// Component i of this key in the low half, of the next in the high one.
        DEV_MEMBER u32 with(const Value& next, u32 i) const { return __byte_perm(words[i / 2], next.words[i / 2], i % 2 ? 0x7632 : 0x5410); }
    };
};

struct KvBf16 : Kv16 {
    static DEV_MEMBER void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_bf16(d, a, b0, b1); }
    static DEV_MEMBER u32 pack(float low, float high) { return pack_bf16(low, high); }
    /// Components i and i + 1 of a query, and of a vector.
    static DEV_MEMBER float2 of_query(const u16* query, u32 i) {
        const u32 pair = *reinterpret_cast<const u32*>(query + i);
        return make_float2(low_bf16(pair), high_bf16(pair));
    }
    static DEV_MEMBER float2 of_vector(const u8* vector, u32 i) { return of_query(reinterpret_cast<const u16*>(vector), i); }
};

struct KvF16 : Kv16 {
    static DEV_MEMBER void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_f16(d, a, b0, b1); }
    static DEV_MEMBER u32 pack(float low, float high) { return pack_f16(low, high); }
    static DEV_MEMBER float2 of_query(const u16* query, u32 i) {
        const u32 pair = *reinterpret_cast<const u32*>(query + i);
        return make_float2(low_f16(pair), high_f16(pair));
    }
    static DEV_MEMBER float2 of_vector(const u8* vector, u32 i) { return of_query(reinterpret_cast<const u16*>(vector), i); }
};

/// The i8 in bytes 0 and 2 as bf16, exact: 128 + the low seven bits, less 128 or, where the sign is set, 256. Every one of
/// these numbers has the exponent of 128 or 256 above the bits as they are.
DEV u32 bf16_of_i8(u32 bytes) { return add_bf16x2((bytes & 0x007f007fu) | 0x43004300u, (bytes & 0x00800080u) | 0xc300c300u); }

/// 8 bits a component and a scale a vector.
struct KvInt8 {
    static constexpr u32 WIDTH = 1, SCALE_BYTES = 4;

    /// Two steps share 32 components; a last single step is as in 16 bits.
    template <u32 HD>
    static DEV_MEMBER u32 component(u32 step, u32 quarter) {
        return (step | 1) < HD / 16 ? step / 2 * 32 + quarter * 8 + step % 2 * 4 : step * 16 + quarter * 4;
    }

    template <u32 HD>
    struct Key {
        u32 words[HD / 16];

        DEV_MEMBER void load(const u8* vector, u32 quarter) {
#pragma unroll
            for (u32 s = 0; s + 1 < HD / 16; s += 2) {
                const uint2 w = vector ? *reinterpret_cast<const uint2*>(vector + component<HD>(s, quarter)) : make_uint2(0, 0);
                words[s] = w.x, words[s + 1] = w.y;
            }
            constexpr u32 LAST = HD / 16 - 1;
            if constexpr (LAST % 2 == 0) words[LAST] = vector ? *reinterpret_cast<const u32*>(vector + component<HD>(LAST, quarter)) : 0;
        }
        DEV_MEMBER uint2 fragment(u32 step) const {
            return make_uint2(bf16_of_i8(__byte_perm(words[step], 0, 0x4140)), bf16_of_i8(__byte_perm(words[step], 0, 0x4342)));
        }
    };

    template <u32 OWN>
    struct Value {
        u32 words[(OWN + 3) / 4];

        DEV_MEMBER void load(const u8* from) {
            if constexpr (OWN == 8) {
                const uint2 w = from ? *reinterpret_cast<const uint2*>(from) : make_uint2(0, 0);
                words[0] = w.x, words[1] = w.y;
            } else if constexpr (OWN == 4) {
                words[0] = from ? *reinterpret_cast<const u32*>(from) : 0;
            } else {
                words[0] = from ? *reinterpret_cast<const u16*>(from) : 0;
            }
        }
        DEV_MEMBER u32 with(const Value& next, u32 i) const { return bf16_of_i8(__byte_perm(words[i / 4], next.words[i / 4], 0x4400 + i % 4 * 0x1111)); }
    };

    static DEV_MEMBER void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { mma_bf16(d, a, b0, b1); }
    static DEV_MEMBER u32 pack(float low, float high) { return pack_bf16(low, high); }
    static DEV_MEMBER float2 of_query(const u16* query, u32 i) { return KvBf16::of_query(query, i); }
    static DEV_MEMBER float2 of_vector(const u8* vector, u32 i) {
        const u32 pair = *reinterpret_cast<const u16*>(vector + i);
        return make_float2(float(i8(pair & 0xffu)), float(i8(pair >> 8)));
    }
};
