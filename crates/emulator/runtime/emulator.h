// The CUDA that kernels see when g++ compiles them: qualifiers, built-in variables, intrinsics and warp
// operations, on top of one fiber a CUDA thread. Included by kernels/dev.cuh only.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct uint3 { unsigned x, y, z; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace emulator {

/// What a running CUDA thread knows of itself; `current` is the one that runs.
struct Identity {
    uint3 thread;
    uint3 block;
};
extern Identity* current;
extern dim3 block_size, grid_size;

/// Words a lane brings to a warp operation and takes from it.
constexpr int kWordsIn = 12, kWordsOut = 4;
struct Lanes {
    uint32_t in[32][kWordsIn];
    uint32_t out[32][kWordsOut];
    uint32_t present;  ///< lanes that brought words
};
using Combine = void (*)(Lanes&);

/// Meets the other lanes of `mask`; the last one runs `combine`. `site` names the call.
void collective(const char* site, Combine combine, uint32_t mask, const uint32_t* in, int n_in, uint32_t* out, int n_out);
void block_barrier(const char* site);
void warp_barrier(const char* site, uint32_t mask);

/// Reports an access that compiled code makes where the sanitizer's calls do not see it.
void check_read(const void* address, size_t bytes, size_t alignment);
void check_write(const void* address, size_t bytes, size_t alignment);
/// Reports a misaligned read of `bytes` bytes, where the compiler reports the access itself.
void check_aligned(const void* address, size_t bytes);

void copy_async(void* shared, const void* global, unsigned bytes_copied, unsigned bytes_total);
void copy_async_commit();
void copy_async_wait(unsigned newest_left_open);
void* dynamic_shared(size_t alignment);
/// The block's variable that is declared at `site`. Not a static of the function: g++ puts those of templates where it likes.
void* static_shared(const char* site, size_t bytes);
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

uint32_t atomic_add_u32(uint32_t* at, uint32_t value);
uint64_t atomic_add_u64(uint64_t* at, uint64_t value);
uint32_t atomic_max_u32(uint32_t* at, uint32_t value);
uint32_t atomic_min_u32(uint32_t* at, uint32_t value);
uint64_t atomic_min_u64(uint64_t* at, uint64_t value);

void combine_shuffle(Lanes&);
void combine_ballot(Lanes&);
void combine_ldmatrix(Lanes&);
void combine_ldmatrix_transposed(Lanes&);
void combine_mma_bf16(Lanes&);
void combine_mma_f16(Lanes&);

/// Puts a kernel's name, the sizes of its parameters and a way to call it into the table of this image.
using Thunk = void (*)(void** arguments);
void register_kernel(const char* name, Thunk thunk, const uint32_t* sizes, uint32_t n_sizes);

template <auto kernel, typename... Args, size_t... I>
__attribute__((noinline, no_sanitize_thread)) void call_unpacked(void (*)(Args...), void** a, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<Args>*>(a[I])...);
}

template <auto kernel>
__attribute__((noinline, no_sanitize_thread)) void thunk(void** a);

template <typename... Args>
std::index_sequence_for<Args...> indices_of(void (*)(Args...));

template <auto kernel>
void thunk(void** a) {
    call_unpacked<kernel>(kernel, a, decltype(indices_of(kernel)){});
}

struct Registrar {
    template <typename... Args>
    Registrar(const char* name, void (*)(Args...), Thunk thunk) {
        const uint32_t sizes[] = {static_cast<uint32_t>(sizeof(Args))..., 0};
        register_kernel(name, thunk, sizes, sizeof...(Args));
    }
};

template <typename T>
T shuffle(const char* site, uint32_t mask, T value, uint32_t source_lane) {
    static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    uint32_t in[3] = {0, 0, source_lane}, out[2];
    std::memcpy(in, &value, sizeof(T));
    collective(site, combine_shuffle, mask, in, 3, out, 2);
    std::memcpy(&value, out, sizeof(T));
    return value;
}

inline uint32_t ballot(const char* site, uint32_t mask, bool predicate) {
    uint32_t in = predicate, out;
    collective(site, combine_ballot, mask, &in, 1, &out, 1);
    return out;
}

}  // namespace emulator

#define EMULATOR_TEXT_(x) #x
#define EMULATOR_TEXT(x) EMULATOR_TEXT_(x)
// The line alone does not name a call: two may stand on one line.
#define EMULATOR_SITE __FILE__ ":" EMULATOR_TEXT(__LINE__) "#" EMULATOR_TEXT(__COUNTER__)

#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

#define __syncthreads() emulator::block_barrier(EMULATOR_SITE)
#define __syncwarp() emulator::warp_barrier(EMULATOR_SITE, 0xffffffffu)
#define __shfl_xor_sync(mask, value, lanes) emulator::shuffle(EMULATOR_SITE, mask, value, (threadIdx.x & 31) ^ (lanes))
#define __shfl_sync(mask, value, lane) emulator::shuffle(EMULATOR_SITE, mask, value, (lane) & 31)
#define __shfl_up_sync(mask, value, delta) \
    emulator::shuffle(EMULATOR_SITE, mask, value, (threadIdx.x & 31) >= (unsigned)(delta) ? (threadIdx.x & 31) - (delta) : (threadIdx.x & 31))
#define __ballot_sync(mask, predicate) emulator::ballot(EMULATOR_SITE, mask, predicate)
#define __any_sync(mask, predicate) (emulator::ballot(EMULATOR_SITE, mask, predicate) != 0)

#define EMULATOR_PURE __attribute__((no_sanitize_thread)) inline
EMULATOR_PURE uint32_t __float_as_uint(float x) { uint32_t u; std::memcpy(&u, &x, 4); return u; }
EMULATOR_PURE float __uint_as_float(uint32_t u) { float x; std::memcpy(&x, &u, 4); return x; }
EMULATOR_PURE float __fmul_rn(float a, float b) { return a * b; }
EMULATOR_PURE float __fadd_rn(float a, float b) { return a + b; }
EMULATOR_PURE double __dmul_rn(double a, double b) { return a * b; }
EMULATOR_PURE float __fdividef(float a, float b) { return a / b; }
EMULATOR_PURE float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
EMULATOR_PURE unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
EMULATOR_PURE unsigned long long __float2ull_rn(float x) { return static_cast<unsigned long long>(std::nearbyint(x)); }
EMULATOR_PURE void sincospif(float x, float* s, float* c) {
    *s = static_cast<float>(std::sin(M_PI * x));
    *c = static_cast<float>(std::cos(M_PI * x));
}
EMULATOR_PURE uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
    uint64_t both = static_cast<uint64_t>(b) << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) result |= static_cast<uint32_t>(both >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
    return result;
}
EMULATOR_PURE int __ffs(int x) { return __builtin_ffs(x); }
EMULATOR_PURE int __popc(unsigned x) { return __builtin_popcount(x); }
inline unsigned atomicAdd(unsigned* at, unsigned value) { return emulator::atomic_add_u32(at, value); }
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    return emulator::atomic_add_u64(reinterpret_cast<uint64_t*>(at), value);
}
inline unsigned atomicMax(unsigned* at, unsigned value) { return emulator::atomic_max_u32(at, value); }
inline unsigned atomicMin(unsigned* at, unsigned value) { return emulator::atomic_min_u32(at, value); }
inline unsigned long long atomicMin(unsigned long long* at, unsigned long long value) {
    return emulator::atomic_min_u64(reinterpret_cast<uint64_t*>(at), value);
}
template <typename T>
T min(T a, T b) { return b < a ? b : a; }
template <typename T>
T max(T a, T b) { return a < b ? b : a; }
