// The only header that knows a compiler or a processor: types, inline PTX, and what lets the same kernels compile with
// nvcc, NVRTC and g++ (crates/emulator). Rules for kernels:
//   - include this and other .cuh files of this folder, nothing else; no global-scope asm, no <<<>>>;
//   - entry points are KERNEL void __launch_bounds__(N) name(...) followed by REGISTER_KERNEL(name); blocks are 1-D;
//   - shared memory only through SHARED(type, name, [dimensions]) and, of a size known at launch, SMEM_DYN;
//   - where two kernels must give the same bits, sums and products are mul(), add(), fmaf(): the compiler may fuse
//     a * b + c in one kernel and not in the other.
#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(__CUDACC__)
// Devices before capability 8.0 lack bf16, cp.async and these products, and the backend refuses them. nvcc compiles for 7.5 when
// it is told nothing; what it makes then stops at the first of these instructions.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#warning "these kernels need compute capability 8.0 and only trap below it; give nvcc -gencode arch=compute_80,code=sm_80 or newer"
#define SM80(instruction) __trap()
#else
#define SM80(instruction) instruction
#endif
#define KERNEL extern "C" __global__
#define REGISTER_KERNEL(name)
#define SHARED(T, name, dimensions) __shared__ T name dimensions
#define SMEM_DYN(T, name)                                             \
    extern __shared__ __align__(16) unsigned char dynamic_smem_[];    \
    T* name = reinterpret_cast<T*>(dynamic_smem_)
#define DEV __device__ __forceinline__
#define DEV_MEMBER __device__ __forceinline__
#else
#include "emulator.h"
#define KERNEL static
#define REGISTER_KERNEL(name) static emulator::Registrar registrar_##name(#name, name, emulator::thunk<name>)
#define SHARED(T, name, dimensions)        \
    typedef T name##_in_shared dimensions; \
    name##_in_shared& name = *static_cast<name##_in_shared*>(emulator::static_shared(EMULATOR_SITE, sizeof(name##_in_shared)))
#define SMEM_DYN(T, name) T* name = static_cast<T*>(emulator::dynamic_shared(16))
#define DEV static inline
#define DEV_MEMBER inline
#endif

DEV float neg_inf() { return __uint_as_float(0xff800000u); }
DEV float not_a_number() { return __uint_as_float(0x7fffffffu); }
DEV bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }
DEV float mul(float a, float b) { return __fmul_rn(a, b); }
DEV float add(float a, float b) { return __fadd_rn(a, b); }

constexpr u32 WARP = 32;
constexpr u32 FULL = 0xffffffffu;
constexpr float LOG2E = 1.4426950408889634f;
constexpr float LN2 = 0.6931471805599453f;

/// The upper half of a float.
struct bf16 { u16 bits; };

DEV float to_float(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
DEV float low_bf16(u32 pair) { return __uint_as_float(pair << 16); }
DEV float high_bf16(u32 pair) { return __uint_as_float(pair & 0xffff0000u); }

/// 2^x and log2 x by the special function unit, 2 units in the last place; 2^-inf = 0.
DEV float exp2_fast(float x) {
#if defined(__CUDACC__)
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

/// Two floats to bf16, round to nearest even; `low` in the low half.
DEV u32 pack_bf16(float low, float high) {
#if defined(__CUDACC__)
    u32 pair = 0;
    SM80(asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low)));
    return pair;
#else
    u32 halves[2];
    const float values[2] = {low, high};
    for (int i = 0; i < 2; i++) {
        u32 bits = __float_as_uint(values[i]);
        bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        halves[i] = nan ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
    }
    return halves[0] | halves[1] << 16;
#endif
}
DEV bf16 to_bf16(float x) { bf16 b = {u16(pack_bf16(x, 0.0f))}; return b; }

/// a + b on two bf16 at once, each rounded once.
DEV u32 add_bf16x2(u32 a, u32 b) {
#if defined(__CUDACC__)
    u32 sum = 0;  // 1 a + b: sm_80 has no other addition of bf16
    SM80(asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(0x3f803f80u), "r"(b)));
    return sum;
#else
    return pack_bf16(low_bf16(a) + low_bf16(b), high_bf16(a) + high_bf16(b));
#endif
}

/// An IEEE half, by its bits.
DEV float half_to_float(u32 half) {
#if defined(__CUDACC__)
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(u16(half)));
    return x;
#else
    u32 sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    return __uint_as_float(sign | __float_as_uint(float(fraction) * 5.9604644775390625e-8f));
#endif
}

/// Two floats to IEEE halves, round to nearest even, too large ones to infinity; `low` in the low half.
DEV u32 pack_f16(float low, float high) {
#if defined(__CUDACC__)
    u32 pair = 0;
    SM80(asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low)));
    return pair;
#else
    u32 halves[2];
    const float values[2] = {low, high};
    for (int i = 0; i < 2; i++) {
        const u32 bits = __float_as_uint(values[i]), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
        // Adding 2^-1 leaves a subnormal half in the low bits of the sum, rounded by the addition.
        if (size > 0x7f800000u) halves[i] = 0x7fffu;
        else if (size >= 0x477ff000u) halves[i] = sign | 0x7c00u;
        else if (size < 0x38800000u) halves[i] = sign | (__float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u);
        else halves[i] = sign | (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13;
    }
    return halves[0] | halves[1] << 16;
#endif
}
DEV float low_f16(u32 pair) { return half_to_float(pair & 0xffffu); }
DEV float high_f16(u32 pair) { return half_to_float(pair >> 16); }

/// 16, 8 and 4 bytes that no kernel writes while this one runs and that are read once: past L1, kept for others in L2.
DEV uint4 stream16(const void* p) {
#if defined(__CUDACC__)
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
#else
    emulator::check_aligned(p, 16);
    uint4 v;
    memcpy(&v, p, 16);
    return v;
#endif
}
DEV uint2 stream8(const void* p) {
#if defined(__CUDACC__)
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#else
    emulator::check_aligned(p, 8);
    uint2 v;
    memcpy(&v, p, 8);
    return v;
#endif
}
DEV u32 stream4(const void* p) {
#if defined(__CUDACC__)
    u32 v;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
#else
    emulator::check_aligned(p, 4);
    u32 v;
    memcpy(&v, p, 4);
    return v;
#endif
}

/// Copies `bytes` (0 to 16) of the 16 at `global` to `shared` in the background and zero-fills the rest. Both are
/// 16-byte aligned. Visible to this thread after cp_async_wait, to others after a barrier besides.
DEV void cp_async16(void* shared, const void* global, u32 bytes) {
#if defined(__CUDACC__)
    u32 to = static_cast<u32>(__cvta_generic_to_shared(shared));
    SM80(asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory"));
#else
    emulator::copy_async(shared, global, bytes, 16);
#endif
}
DEV void cp_async_commit() {
#if defined(__CUDACC__)
    SM80(asm volatile("cp.async.commit_group;" ::: "memory"));
#else
    emulator::copy_async_commit();
#endif
}
/// Waits for all but the newest N groups.
template <int N>
DEV void cp_async_wait() {
#if defined(__CUDACC__)
    SM80(asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"));
#else
    emulator::copy_async_wait(N);
#endif
}

/// Four 8 x 8 matrices of bf16 from shared memory: lane 8 m + r names row r of matrix m (16 bytes, aligned); lane l gets
/// elements 2 (l % 4) and the next of row l / 4 of each.
DEV void ldmatrix_x4(u32 (&out)[4], const void* row) {
#if defined(__CUDACC__)
    u32 at = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
#else
    emulator::check_read(row, 16, 16);
    u32 in[2];
    memcpy(in, &row, sizeof row);
    emulator::collective(EMULATOR_SITE, emulator::combine_ldmatrix, FULL, in, 2, out, 4);
#endif
}
/// As ldmatrix_x4, each matrix transposed: lane l gets elements l / 4 of rows 2 (l % 4) and the next.
DEV void ldmatrix_x4_transposed(u32 (&out)[4], const void* row) {
#if defined(__CUDACC__)
    u32 at = static_cast<u32>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
#else
    emulator::check_read(row, 16, 16);
    u32 in[2];
    memcpy(in, &row, sizeof row);
    emulator::collective(EMULATOR_SITE, emulator::combine_ldmatrix_transposed, FULL, in, 2, out, 4);
#endif
}

/// d += a b: a (16 x 16) and b (16 x 8) bf16, d (16 x 8) f32, in the fragment layout of mma.m16n8k16.
/// With g = lane / 4 and q = 2 (lane % 4): a = {(g, q), (g + 8, q), (g, q + 8), (g + 8, q + 8)} each with its right
/// neighbour; b = {(q, g), (q + 8, g)} each with the one below; d = {(g, q), (g, q + 1), (g + 8, q), (g + 8, q + 1)}.
DEV void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if defined(__CUDACC__)
    SM80(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
#else
    u32 in[10] = {a[0], a[1], a[2], a[3], b0, b1}, out[4];
    memcpy(in + 6, d, 16);
    emulator::collective(EMULATOR_SITE, emulator::combine_mma_bf16, FULL, in, 10, out, 4);
    memcpy(d, out, 16);
#endif
}

/// As mma_bf16, of IEEE halves.
DEV void mma_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if defined(__CUDACC__)
    SM80(asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)));
#else
    u32 in[10] = {a[0], a[1], a[2], a[3], b0, b1}, out[4];
    memcpy(in + 6, d, 16);
    emulator::collective(EMULATOR_SITE, emulator::combine_mma_f16, FULL, in, 10, out, 4);
    memcpy(d, out, 16);
#endif
}

/// Sum and maximum over a warp, in every lane, in one fixed order.
DEV float warp_sum(float x) {
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) x = add(x, __shfl_xor_sync(FULL, x, lanes));
    return x;
}
DEV float warp_max(float x) {
#pragma unroll
    for (int lanes = 16; lanes; lanes >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL, x, lanes));
    return x;
}
