// A row of logits as signals, candidates and draws see it: chunks of 128 whose maxima say where large logits can be, and an
// order of tokens (larger logit first, ties to the lower id) as one rising 64-bit rank.
#pragma once
#include "dev.cuh"

constexpr u32 LOGIT_CHUNK = 128, LOGITS_A_LANE = LOGIT_CHUNK / WARP;
constexpr u32 NO_TOKEN = 0xffffffffu;

/// model::Signals, 44 bytes.
struct SignalsRecord {
    float entropy, varentropy, collision, log_z, logit_std, target_logprob;
    u32 best_token;
    float best_logprob;
    u32 second_token;
    float second_logprob;
    u32 status;
};

/// What a chunk says, in the frame of its maximum, which lies in an array of its own.
struct alignas(16) ChunkPart {
    float sum, mean, var;  // of the softmax: moments.cuh
    float squares;         // sum of e^2
    float n_finite;
    float mean_off;        // mean of z - maximum over the finite ones
    float deviation;       // sum of (z - their mean)^2 over them
    float n_bad;           // NaN and +inf
};

/// Bits that rise with the float; -0 ties with 0.
DEV u32 rising(float x) {
    const u32 bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEV float from_rising(u32 r) { return __uint_as_float(r >> 31 ? r & 0x7fffffffu : ~r); }
/// The larger, the better; never 0 for a token.
DEV u64 rank_of(float z, u32 token) { return u64(rising(z)) << 32 | u32(~token); }
DEV u32 token_of(u64 rank) { return ~u32(rank); }
DEV float logit_of(u64 rank) { return from_rising(u32(rank >> 32)); }

/// A lane's 4 logits of a chunk; minus infinity past the end. Rows are 16-byte aligned.
DEV void load_chunk(float (&z)[LOGITS_A_LANE], const float* row, u32 chunk, u32 vocab, u32 lane) {
    const u32 first = chunk * LOGIT_CHUNK + lane * LOGITS_A_LANE;
    if (first + LOGITS_A_LANE <= vocab) {
        const float4 v = *reinterpret_cast<const float4*>(row + first);
        z[0] = v.x, z[1] = v.y, z[2] = v.z, z[3] = v.w;
    } else {
#pragma unroll
        for (u32 i = 0; i < LOGITS_A_LANE; i++) z[i] = first + i < vocab ? row[first + i] : neg_inf();
    }
}

/// Finds, from 256 bins in shared memory, the bin (from the top) in which the running sum reaches `need` (at most the sum of
/// all). Writes {bin, sum above it, sum in it} to `found`. For one full warp.
template <typename T>
DEV void find_bin(const T* bins, T need, T* found, u32 lane) {
    T own = 0;
    for (u32 i = 0; i < 8; i++) own += bins[255 - lane * 8 - i];
    T upto = own;
#pragma unroll
    for (u32 d = 1; d < WARP; d *= 2) {
        T before = __shfl_up_sync(FULL, upto, d);
        if (lane >= d) upto += before;
    }
    const T above = upto - own;
    if (above < need && upto >= need) {
        T sum = above;
        u32 bin = 255 - lane * 8;
        while (sum + bins[bin] < need) sum += bins[bin--];
        found[0] = bin, found[1] = sum, found[2] = bins[bin];
    }
}

/// The rank at which what lies at or above it first amounts to `need`, by 8 bits at a time. `each(f)` calls f(rank, amount) for
/// this thread's elements; all together they amount to at least `need` > 0. T counts (u32) or weighs (u64), in whole
/// numbers, so the order of the additions does not matter. With `exact` the search ends as soon as a whole bin is wanted.
/// `bins` is (256), `found` (3), both shared. All threads of the block call it.
template <typename T, typename Each>
DEV u64 select_rank(T need, T* bins, T* found, Each each) {
    u64 prefix = 0, mask = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (u32 i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
        __syncthreads();
        each([&](u64 rank, T amount) {
            if ((rank & mask) == prefix) atomicAdd(&bins[u32(rank >> shift) & 255u], amount);
        });
        __syncthreads();
        if (threadIdx.x < WARP) find_bin(bins, need, found, threadIdx.x);
        __syncthreads();
        need -= found[1];
        prefix |= u64(found[0]) << shift;
        mask |= u64(255) << shift;
        const bool whole = found[2] == need;
        __syncthreads();
        if (whole && sizeof(T) == 4) break;
    }
    return prefix;
}
