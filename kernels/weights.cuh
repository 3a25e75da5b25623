// How weight matrices lie on the device, and how a lane turns its share into the A fragments of mma.m16n8k16.
//
// crates/cuda/src/pack.rs writes this layout. A matrix of n_rows x n_cols is cut into tiles of 16 rows and units of 64
// columns, short ones filled with zeros. A unit is 4 steps of 16 columns, each the A operand of one mma. Within a step the
// columns are permuted so that lane (g, q) = (lane / 4, lane % 4) owns columns 4 q .. 4 q + 3 of rows g and g + 8:
//
//     register i (0..4), half h of the fragment  =  row g + 8 (i % 2), column 4 q + 2 (i / 2) + h of the step
//
// The B operand then is 8 contiguous bytes of an activation row a lane, and one 16-byte load a lane brings a whole step of
// bf16 or a whole unit of 4-bit weights. Three arrays follow one another, each (n_tiles, n_units, ...):
//
//     quants   (lane, QUANT_BYTES)  16-byte parts first, all lanes of a part together
//     scales   (g, SCALE_BYTES)     row g, then row g + 8
//     supers   (g, SUPER_BYTES)     of 256 columns; row g, then row g + 8
//
// Quantised weights enter the mma as small whole numbers, exact in bf16; their scales multiply the f32 sums of 32 (Q6_K: 16)
// columns. So a product is as exact as the stored weight, and costs no multiplication a weight. f16 weights are split into
// two bf16 whose sum is exact.
#pragma once
#include "dev.cuh"

enum Format { BF16, F16, Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, Q6_K };

constexpr u32 TILE_ROWS = 16, UNIT_COLS = 64, STEP_COLS = 16, STEPS = 4;

/// LOADS 16-byte loads and EXTRA further words a lane and unit; scales every STEPS_PER_SCALE steps (0: none); whether a
/// minimum is added too; PARTS fragments whose sum is the weight.
template <Format F>
struct Layout;
template <> struct Layout<BF16> { enum : u32 { LOADS = 4, EXTRA = 0, SCALE_BYTES = 0, SUPER_BYTES = 0, STEPS_PER_SCALE = 0, HAS_MIN = 0, PARTS = 1 }; };
template <> struct Layout<F16>  { enum : u32 { LOADS = 4, EXTRA = 0, SCALE_BYTES = 0, SUPER_BYTES = 0, STEPS_PER_SCALE = 0, HAS_MIN = 0, PARTS = 2 }; };
template <> struct Layout<Q4_0> { enum : u32 { LOADS = 1, EXTRA = 0, SCALE_BYTES = 8, SUPER_BYTES = 0, STEPS_PER_SCALE = 2, HAS_MIN = 0, PARTS = 1 }; };
template <> struct Layout<Q4_1> { enum : u32 { LOADS = 1, EXTRA = 0, SCALE_BYTES = 16, SUPER_BYTES = 0, STEPS_PER_SCALE = 2, HAS_MIN = 1, PARTS = 1 }; };
template <> struct Layout<Q5_0> { enum : u32 { LOADS = 1, EXTRA = 1, SCALE_BYTES = 8, SUPER_BYTES = 0, STEPS_PER_SCALE = 2, HAS_MIN = 0, PARTS = 1 }; };
template <> struct Layout<Q8_0> { enum : u32 { LOADS = 2, EXTRA = 0, SCALE_BYTES = 8, SUPER_BYTES = 0, STEPS_PER_SCALE = 2, HAS_MIN = 0, PARTS = 1 }; };
template <> struct Layout<Q4_K> { enum : u32 { LOADS = 1, EXTRA = 0, SCALE_BYTES = 8, SUPER_BYTES = 8, STEPS_PER_SCALE = 2, HAS_MIN = 1, PARTS = 1 }; };
template <> struct Layout<Q6_K> { enum : u32 { LOADS = 1, EXTRA = 2, SCALE_BYTES = 8, SUPER_BYTES = 4, STEPS_PER_SCALE = 1, HAS_MIN = 0, PARTS = 1 }; };

/// What a lane holds of one unit: only loads made it, so that several can be on their way.
template <Format F>
struct Unit {
    uint4 quants[Layout<F>::LOADS];
    u32 extra[Layout<F>::EXTRA + 1];
    u32 scales[Layout<F>::SCALE_BYTES / 4 + 1];
    u32 supers[Layout<F>::SUPER_BYTES / 4 + 1];
};

template <Format F>
struct Matrix {
    typedef Layout<F> L;
    const u8* quants;
    const u8* scales;
    const u8* supers;
    u32 n_units, n_supers;

    static DEV_MEMBER Matrix of(const u8* base, u32 n_rows, u32 n_cols) {
        Matrix m;
        u64 n_tiles = (n_rows + TILE_ROWS - 1) / TILE_ROWS;
        m.n_units = (n_cols + UNIT_COLS - 1) / UNIT_COLS;
        m.n_supers = (m.n_units + 3) / 4;
        m.quants = base;
        m.scales = base + n_tiles * m.n_units * (WARP * (16 * L::LOADS + 4 * L::EXTRA));
        m.supers = m.scales + n_tiles * m.n_units * (8 * L::SCALE_BYTES);
        return m;
    }

    DEV_MEMBER Unit<F> load(u32 tile, u32 unit, u32 lane) const {
        Unit<F> u;
        u64 index = u64(tile) * n_units + unit;
        const u8* q = quants + index * (WARP * (16 * L::LOADS + 4 * L::EXTRA));
#pragma unroll
        for (u32 i = 0; i < L::LOADS; i++) u.quants[i] = stream16(q + (i * WARP + lane) * 16);
        const u8* more = q + WARP * 16 * L::LOADS + lane * 4 * L::EXTRA;
        if (L::EXTRA == 1) u.extra[0] = stream4(more);
        if (L::EXTRA == 2) {
            uint2 v = stream8(more);
            u.extra[0] = v.x, u.extra[L::EXTRA / 2] = v.y;
        }
        const u8* s = scales + (index * 8 + lane / 4) * L::SCALE_BYTES;
        if (L::SCALE_BYTES == 8) {
            uint2 v = stream8(s);
            u.scales[0] = v.x, u.scales[L::SCALE_BYTES / 8] = v.y;
        }
        if (L::SCALE_BYTES == 16) {
            uint4 v = stream16(s);
            u.scales[0] = v.x, u.scales[L::SCALE_BYTES / 16] = v.y, u.scales[L::SCALE_BYTES / 8] = v.z, u.scales[3 * L::SCALE_BYTES / 16] = v.w;
        }
        const u8* x = supers + ((u64(tile) * n_supers + unit / 4) * 8 + lane / 4) * L::SUPER_BYTES;
        if (L::SUPER_BYTES == 4) u.supers[0] = stream4(x);
        if (L::SUPER_BYTES == 8) {
            uint2 v = stream8(x);
            u.supers[0] = v.x, u.supers[L::SUPER_BYTES / 8] = v.y;
        }
        return u;
    }
};

DEV u32 word_of(const uint4& v, u32 i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

/// Two 4-bit numbers at bits 4 i and 16 + 4 i of a word as the bf16 pair 128 + n: 0x4300 is 128, whose last place is 1.
DEV u32 nibbles(u32 word, u32 i) { return (word >> (4 * i) & 0x000f000fu) | 0x43004300u; }

/// The f32 that holds an unsigned byte exactly, less 128: 0x4b000000 is 2^23.
DEV float centred_byte(u32 word, u32 i) { return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7650u | i)) - 8388736.0f; }

/// The A fragment of a step of 16 columns: whole numbers where the format has scales, else one part of the weights.
template <Format F>
DEV void fragment(u32 (&a)[4], const Unit<F>& u, u32 step, u32 part) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        if (F == BF16) {
            a[i] = word_of(u.quants[step % Layout<F>::LOADS], i);
        } else if (F == F16) {
            u32 pair = word_of(u.quants[step % Layout<F>::LOADS], i);
            float low = half_to_float(pair & 0xffffu), high = half_to_float(pair >> 16);
            if (part == 1) {
                low -= __uint_as_float(__float_as_uint(low) & 0xffff0000u);
                high -= __uint_as_float(__float_as_uint(high) & 0xffff0000u);
            }
            a[i] = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
        } else if (F == Q8_0) {
            // Two words a step: registers 0 and 1 in the first, 2 and 3 in the second.
            u32 word = word_of(u.quants[step / 2 % Layout<F>::LOADS], step % 2 * 2 + i / 2);
            float low = centred_byte(word, i % 2 * 2), high = centred_byte(word, i % 2 * 2 + 1);
            a[i] = __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
        } else {
            u32 pair = nibbles(word_of(u.quants[0], step), i);
            if (F == Q5_0) pair |= (u.extra[0] >> (step * 4 + i) & 0x00010001u) << 4;
            if (F == Q6_K) pair |= (u.extra[step / 2 % (Layout<F>::EXTRA + 1)] >> (2 * (step % 2 * 4 + i)) & 0x00030003u) << 4;
            const u32 minus_offset = F == Q4_0 ? 0xc308c308u : F == Q5_0 ? 0xc310c310u : F == Q6_K ? 0xc320c320u : 0xc300c300u;
            a[i] = add_bf16x2(pair, minus_offset);
        }
    }
}

/// The scale of a scale group of the unit for row g (`half` 0) or g + 8 (1).
template <Format F>
DEV float scale_of(const Unit<F>& u, u32 group, u32 half) {
    typedef Layout<F> L;
    if (F == Q4_1) return half_to_float(u.scales[(half * 2 + group) % (L::SCALE_BYTES / 4 + 1)] & 0xffffu);
    if (F == Q4_K) return mul(half_to_float(u.supers[half % (L::SUPER_BYTES / 4 + 1)] & 0xffffu), float(u.scales[half % (L::SCALE_BYTES / 4 + 1)] >> (8 * group) & 0xffu));
    if (F == Q6_K) return mul(half_to_float(u.supers[0] >> (16 * half) & 0xffffu), float(i8(u.scales[half % (L::SCALE_BYTES / 4 + 1)] >> (8 * group) & 0xffu)));
    return half_to_float(u.scales[half % (L::SCALE_BYTES / 4 + 1)] >> (16 * group) & 0xffffu);
}

/// What is added to every weight of a scale group.
template <Format F>
DEV float minimum_of(const Unit<F>& u, u32 group, u32 half) {
    typedef Layout<F> L;
    if (F == Q4_1) return half_to_float(u.scales[(half * 2 + group) % (L::SCALE_BYTES / 4 + 1)] >> 16);
    return -mul(half_to_float(u.supers[half % (L::SUPER_BYTES / 4 + 1)] >> 16), float(u.scales[half % (L::SCALE_BYTES / 4 + 1)] >> (16 + 8 * group) & 0xffu));
}
