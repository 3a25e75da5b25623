// The k best tokens of some asks, likeliest first, without reading the vocabulary again.
//
// reads   logits (n_asks, stride) f32; maxima (n_asks, n_chunks) and signals (n_asks) as signals.cu left them;
//         wanted (n_wanted) {slot, k}, k at most 256; n_wanted (1)
// writes  list (n_wanted, 256) {token, ln p}, counts (n_wanted): fewer than k when the row has fewer finite logits, 0 when its
//         logits were not numbers
// grid (W), block 256; blocks beyond n_wanted leave
// The k-th largest chunk maximum bounds the k-th largest logit from below, so at most k chunks (and ties) are opened: for
// k = 64 of 128,256 logits, 8,192 are read. Exact; ties to the lower id.
// twin    entropix_model::sampling::candidates
#include "logits.cuh"

constexpr u32 CANDIDATE_THREADS = 256, MOST_CANDIDATES = 256;
struct Wanted { u32 slot, k; };
struct CandidateRecord { u32 token; float logprob; };

KERNEL void __launch_bounds__(CANDIDATE_THREADS)
    candidates(const float* logits, const float* maxima, const SignalsRecord* signals, const Wanted* wanted, CandidateRecord* list, u32* counts, const u32* n_wanted, u32 vocab, u32 stride) {
    SHARED(u32, bins, [256]);
    SHARED(u32, found, [3]);
    SHARED(u32, n_listed, );
    SHARED(u64, ranks, [MOST_CANDIDATES]);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    if (blockIdx.x >= *n_wanted) return;
    const Wanted want = wanted[blockIdx.x];
    const SignalsRecord record = signals[want.slot];
    const u32 n_chunks = (vocab + LOGIT_CHUNK - 1) / LOGIT_CHUNK, k = min(want.k, MOST_CANDIDATES);
    if (record.status != 0 || k == 0) {
        if (threadIdx.x == 0) counts[blockIdx.x] = 0;
        return;
    }
    const float* row = logits + u64(want.slot) * stride;
    const float* chunk_max = maxima + u64(want.slot) * n_chunks;

    // No token of minus infinity is a candidate.
    const u32 least_finite = rising(neg_inf()) + 1;
    u32 floor = least_finite;
    if (n_chunks >= k) {
        const u64 kth = select_rank<u32>(k, bins, found, [&](auto f) {
            for (u32 c = threadIdx.x; c < n_chunks; c += CANDIDATE_THREADS) f(rank_of(chunk_max[c], c), 1u);
        });
        floor = max(floor, u32(kth >> 32));
    }
    auto each = [&](auto f) {
        for (u32 c = warp; c < n_chunks; c += CANDIDATE_THREADS / WARP) {
            if (rising(chunk_max[c]) < floor) continue;
            float z[LOGITS_A_LANE];
            load_chunk(z, row, c, vocab, lane);
#pragma unroll
            for (u32 i = 0; i < LOGITS_A_LANE; i++)
                if (rising(z[i]) >= floor) f(rank_of(z[i], c * LOGIT_CHUNK + lane * LOGITS_A_LANE + i), 1u);
        }
    };
    if (threadIdx.x == 0) n_listed = 0;
    __syncthreads();
    each([&](u64, u32) { atomicAdd(&n_listed, 1u); });
    __syncthreads();
    const u32 n_open = n_listed;
    u64 least = 0;
    if (n_open > k) least = select_rank<u32>(k, bins, found, each);
    __syncthreads();
    if (threadIdx.x == 0) n_listed = 0;
    __syncthreads();
    // In any order: the sort below makes it one.
    each([&](u64 rank, u32) {
        if (rank >= least) ranks[atomicAdd(&n_listed, 1u)] = rank;
    });
    __syncthreads();
    const u32 n = min(n_open, k);
    if (threadIdx.x < n) {
        const u64 own = ranks[threadIdx.x];
        u32 place = 0;
        for (u32 i = 0; i < n; i++) place += ranks[i] > own;
        CandidateRecord out = {token_of(own), add(add(logit_of(own), -row[record.best_token]), record.best_logprob)};
        list[u64(blockIdx.x) * MOST_CANDIDATES + place] = out;
    }
    if (threadIdx.x == 0) counts[blockIdx.x] = n;
}
REGISTER_KERNEL(candidates);
