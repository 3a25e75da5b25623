// Draws one token from the whole distribution of an ask: edits, mask, temperature, filters, coins.
//
// reads   logits (n_asks, stride) f32, signals (n_asks) SignalsRecord; orders (n_draws) DrawOrder; edits {token, penalty, bias}
//         rising by token within an order; masks: words of 32 tokens, whole rows of ceil(vocab / 32); coins u64; n_draws (1)
// writes  drawn (n_draws) {token or NO_TOKEN, ln p at T = 1 before edits, temperature used}
// grid (D), block 1024, dynamic shared memory draw_smem(vocab); blocks beyond n_draws leave
// twin    entropix_model::sampling::draw (crates/model/src/sampling.rs), whose order of operations this follows
//
// All filters keep a prefix of the ranks (logits.cuh), so the kept set is one rising threshold. Weights exp((z - max) / T) are
// f32 made whole numbers of 2^-SHIFT: sums are exact, so no order of threads can change a draw, and the draw itself (u times the
// total against running sums in token-id order) is integer arithmetic. Chunk maxima let the filters skip nearly all of the
// vocabulary. bytes moved: 4 a logit for the maxima, 4 more for each sum over a set that filters have not cut yet (from L2).
#include "logits.cuh"

constexpr u32 DRAW_THREADS = 1024, DRAW_WARPS = DRAW_THREADS / WARP;
constexpr u32 TEMPERATURE_FIXED = 1, TEMPERATURE_TARGET = 2;

struct DrawOrder {
    u32 slot, temperature_kind;  // 0: greedy
    float temperature;  // T, or the entropy wanted in nats
    u32 top_k;
    float top_p, min_p, top_n_sigma;
    u32 p_less, first_edit, end_edit, first_mask_word /* NO_TOKEN: none */, first_coin, end_coin, padding[3];
};
struct EditRecord { u32 token; float penalty, bias; };
struct DrawnRecord { u32 token; float logprob, temperature; };

/// What all threads of the block share.
struct Shared {
    u64 bins[256], found[3], room[DRAW_WARPS];
    double sums[DRAW_WARPS][3];
    u32 counts[256], found_count[3], least, drawn[DRAW_WARPS];
};

DEV u64 warp_sum_u64(u64 x) {
#pragma unroll
    for (u32 lanes = 16; lanes; lanes >>= 1) x += __shfl_xor_sync(FULL, x, lanes);
    return x;
}

/// An edited row of logits, chunk by chunk, with what is kept of it.
struct Row {
    const float* logits;
    const u32* mask;
    const u32* edited;  // bitmap in shared memory, or null
    const EditRecord* edits;
    u32 n_edits, vocab, n_chunks;
    const float* maxima;  // (n_chunks), shared
    u64 least;            // ranks at or above it are kept
    float most, scale, per_weight;

    DEV_MEMBER float edit(float z, u32 token) const {
        u32 low = 0, high = n_edits;
        while (low < high) {
            u32 middle = (low + high) / 2;
            if (edits[middle].token < token) low = middle + 1;
            else high = middle;
        }
        const EditRecord e = edits[low];
        const float penalised = z > 0 ? z / e.penalty : mul(z, e.penalty), changed = add(penalised, e.bias);
        return changed != changed ? neg_inf() : fminf(changed, 3.402823466e38f);
    }
    /// A lane's logits of a chunk, edited; minus infinity for what is banned.
    DEV_MEMBER void load(float (&z)[LOGITS_A_LANE], u32 chunk, u32 lane) const {
        load_chunk(z, logits, chunk, vocab, lane);
        const u32 first = chunk * LOGIT_CHUNK + lane * LOGITS_A_LANE;
        if (first >= vocab) return;
        const u32 touched = edited ? edited[first / 32] >> (first % 32) : 0, allowed = mask ? mask[first / 32] >> (first % 32) : FULL;
#pragma unroll
        for (u32 i = 0; i < LOGITS_A_LANE; i++) {
            if (touched >> i & 1) z[i] = edit(z[i], first + i);
            if (!(allowed >> i & 1)) z[i] = neg_inf();
        }
    }
    DEV_MEMBER float weight(float z) const { return exp2_fast(mul(add(z, -most), scale)); }
    /// In whole numbers; the likeliest weighs exactly 2^SHIFT.
    DEV_MEMBER u64 mass(float z) const { return __float2ull_rn(mul(weight(z), per_weight)); }
    /// f(rank, logit) for this thread's kept tokens of at least `floor`.
    template <typename F>
    DEV_MEMBER void each_from(u64 floor, F f) const {
        const u32 lane = threadIdx.x % WARP;
        for (u32 c = threadIdx.x / WARP; c < n_chunks; c += DRAW_WARPS) {
            if (rising(maxima[c]) < u32(floor >> 32)) continue;
            float z[LOGITS_A_LANE];
            load(z, c, lane);
#pragma unroll
            for (u32 i = 0; i < LOGITS_A_LANE; i++) {
                const u64 rank = rank_of(z[i], c * LOGIT_CHUNK + lane * LOGITS_A_LANE + i);
                if (rank >= floor) f(rank, z[i]);
            }
        }
    }
    template <typename F>
    DEV_MEMBER void each(F f) const { each_from(least, f); }
};

/// Sum over the block of a whole number a thread.
DEV u64 block_total(u64 x, Shared& s) {
    x = warp_sum_u64(x);
    if (threadIdx.x % WARP == 0) s.room[threadIdx.x / WARP] = x;
    __syncthreads();
    x = 0;
    for (u32 w = 0; w < DRAW_WARPS; w++) x += s.room[w];
    __syncthreads();
    return x;
}

/// Entropy and varentropy at temperature t over everything that is finite, f64.
DEV void entropy_at(const Row& row, double t, Shared& s, double& h, double& v) {
    double sum[3] = {0, 0, 0};
    Row at = row;
    at.scale = float(1.4426950408889634 / t);
    at.each([&](u64, float z) {
        const double w = at.weight(z), d = (double(z) - double(row.most)) / t;
        if (w > 0) sum[0] += w, sum[1] += w * d, sum[2] += w * d * d;
    });
#pragma unroll
    for (u32 i = 0; i < 3; i++) {
#pragma unroll
        for (u32 lanes = 16; lanes; lanes >>= 1) sum[i] += __shfl_xor_sync(FULL, sum[i], lanes);
        if (threadIdx.x % WARP == 0) s.sums[threadIdx.x / WARP][i] = sum[i];
    }
    __syncthreads();
    for (u32 i = 0; i < 3; i++) {
        sum[i] = 0;
        for (u32 w = 0; w < DRAW_WARPS; w++) sum[i] += s.sums[w][i];
    }
    __syncthreads();
    const double mean = sum[1] / sum[0];
    h = log(sum[0]) - mean, v = fmax(sum[2] / sum[0] - mean * mean, 0.0);
}

/// Newton on H(T) from T = 1 within [0.01, 100], at most 8 steps, the bracket's geometric middle where a step would leave it.
DEV double temperature_of_entropy(const Row& row, double target, Shared& s) {
    if (target != target) return 1.0;
    double low = 0.01, high = 100.0, t = 1.0;
    for (u32 step = 0; step < 8; step++) {
        double h, v;
        entropy_at(row, t, s, h, v);
        const double miss = target - h;
        if (fabs(miss) <= 1e-9) break;
        if (miss > 0) low = t;
        else high = t;
        const double newton = t + miss * t / v;
        t = newton > low && newton < high ? newton : sqrt(low * high);
    }
    return t;
}

/// A rank that at least k tokens reach, as high as the chunk maxima can tell: whole logits, all ids.
DEV u64 floor_of_best(const Row& row, u32 k, Shared& s) {
    if (k > row.n_chunks) return row.least;
    const u64 kth = select_rank<u32>(k, s.counts, s.found_count, [&](auto f) {
        for (u32 c = threadIdx.x; c < row.n_chunks; c += DRAW_THREADS) f(rank_of(row.maxima[c], c), 1u);
    });
    return max(row.least, kth >> 32 << 32);
}

/// Keeps of what is kept the logits of at least `threshold`.
DEV void keep_at_least(Row& row, double threshold, Shared& s) {
    if (threadIdx.x == 0) s.least = FULL;
    __syncthreads();
    row.each([&](u64 rank, float z) {
        if (double(z) >= threshold) atomicMin(&s.least, u32(rank >> 32));
    });
    __syncthreads();
    row.least = max(row.least, u64(s.least) << 32);
    __syncthreads();
}

DEV void apply_filters(Row& row, const DrawOrder& order, double temperature, float logit_std, Shared& s) {
    if (order.top_k > 0 && order.top_k < row.vocab) {
        const u64 floor = floor_of_best(row, order.top_k, s);
        u64 n = 0;
        row.each_from(floor, [&](u64, float) { n++; });
        n = block_total(n, s);
        row.least = floor;
        if (n > order.top_k)
            row.least = max(floor, select_rank<u32>(order.top_k, s.counts, s.found_count, [&](auto f) { row.each_from(floor, [&](u64 rank, float) { f(rank, 1u); }); }));
    }
    auto total_from = [&](u64 floor) {
        u64 sum = 0;
        row.each_from(floor, [&](u64, float z) { sum += row.mass(z); });
        return block_total(sum, s);
    };
    if (order.top_p < 1.0f) {
        const u64 total = total_from(row.least);
        const u64 need = max(min(u64(ceil(double(fmaxf(order.top_p, 0.0f)) * double(total))), total), u64(1));
        // Most rows reach their mass within a few dozen tokens.
        u64 floor = floor_of_best(row, 64, s);
        if (total_from(floor) < need) floor = row.least;
        row.least = select_rank<u64>(need, s.bins, s.found, [&](auto f) { row.each_from(floor, [&](u64 rank, float z) { f(rank, row.mass(z)); }); });
    }
    if (order.min_p > 0.0f) keep_at_least(row, double(row.most) + temperature * log(fmin(double(order.min_p), 1.0)), s);
    if (order.top_n_sigma < __uint_as_float(0x7f800000u)) keep_at_least(row, double(row.most) - double(fmaxf(order.top_n_sigma, 0.0f)) * double(logit_std), s);
    if (order.p_less) {
        u64 squares = 0;
        row.each([&](u64, float z) {
            const float w = row.weight(z);
            squares += __float2ull_rn(mul(mul(w, w), row.per_weight));
        });
        const double sum = double(total_from(row.least)), least = fmin(double(block_total(squares, s)) / sum, 1.0);
        keep_at_least(row, double(row.most) + temperature * log(least), s);
    }
}

/// The token at which the running sum of kept weights, in token-id order, first exceeds unit(coin) x total. One warp a coin.
DEV u32 toss(const Row& row, const u64* chunk_mass, u64 total, u64 coin, u32 lane) {
    // unit = (coin >> 11) / 2^53, so floor(unit x total) is the upper half of a 128-bit product: exact.
    const u64 goal = __umul64hi(coin >> 11 << 11, total);
    const u32 per_lane = (row.n_chunks + WARP - 1) / WARP;
    auto find = [&](u64 own, u64 before) {
        u64 upto = own;
#pragma unroll
        for (u32 d = 1; d < WARP; d *= 2) {
            const u64 other = __shfl_up_sync(FULL, upto, d);
            if (lane >= d) upto += other;
        }
        const u32 lanes = __ballot_sync(FULL, before + upto > goal);
        const u32 winner = lanes ? __ffs(lanes) - 1 : WARP - 1;
        before += __shfl_sync(FULL, upto - own, winner);
        struct { u32 lane; u64 before; } at = {winner, before};
        return at;
    };
    u64 own = 0;
    for (u32 c = lane * per_lane; c < min((lane + 1) * per_lane, row.n_chunks); c++) own += chunk_mass[c];
    auto at = find(own, 0);
    u32 chunk = at.lane * per_lane;
    while (chunk + 1 < row.n_chunks && at.before + chunk_mass[chunk] <= goal) at.before += chunk_mass[chunk++];

    float z[LOGITS_A_LANE];
    row.load(z, chunk, lane);
    u64 mass[LOGITS_A_LANE];
    own = 0;
    for (u32 i = 0; i < LOGITS_A_LANE; i++) {
        mass[i] = rank_of(z[i], chunk * LOGIT_CHUNK + lane * LOGITS_A_LANE + i) >= row.least ? row.mass(z[i]) : 0;
        own += mass[i];
    }
    at = find(own, at.before);
    u32 i = 0;
    u64 sum = at.before + mass[0];
    while (i + 1 < LOGITS_A_LANE && sum <= goal) sum += mass[++i];
    return chunk * LOGIT_CHUNK + at.lane * LOGITS_A_LANE + __shfl_sync(FULL, i, at.lane);
}

KERNEL void __launch_bounds__(DRAW_THREADS)
    draw(const float* logits, const SignalsRecord* signals, const DrawOrder* orders, const EditRecord* edits, const u32* masks, const u64* coins, DrawnRecord* drawn,
         const u32* n_draws, u32 vocab, u32 stride) {
    SHARED(Shared, s, );
    SMEM_DYN(u64, chunk_mass);
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    if (blockIdx.x >= *n_draws) return;
    const DrawOrder order = orders[blockIdx.x];
    const SignalsRecord record = signals[order.slot];
    Row row;
    row.n_chunks = (vocab + LOGIT_CHUNK - 1) / LOGIT_CHUNK;
    float* maxima = reinterpret_cast<float*>(chunk_mass + row.n_chunks);
    u32* bitmap = reinterpret_cast<u32*>(maxima + row.n_chunks);
    row.logits = logits + u64(order.slot) * stride, row.vocab = vocab, row.maxima = maxima;
    row.mask = order.first_mask_word == NO_TOKEN ? nullptr : masks + order.first_mask_word;
    row.edits = edits + order.first_edit, row.n_edits = order.end_edit - order.first_edit;
    row.edited = row.n_edits ? bitmap : nullptr;
    DrawnRecord out = {NO_TOKEN, not_a_number(), 0.0f};
    if (record.status != 0) {
        if (threadIdx.x == 0) drawn[blockIdx.x] = out;
        return;
    }
    if (row.n_edits) {
        for (u32 i = threadIdx.x; i < (vocab + 31) / 32; i += DRAW_THREADS) bitmap[i] = 0;
        __syncthreads();
        for (u32 i = threadIdx.x; i < row.n_edits; i += DRAW_THREADS) atomicAdd(&bitmap[row.edits[i].token / 32], 1u << row.edits[i].token % 32);
    }
    if (threadIdx.x == 0) s.least = 0;
    __syncthreads();
    for (u32 c = warp; c < row.n_chunks; c += DRAW_WARPS) {
        float z[LOGITS_A_LANE];
        row.load(z, c, lane);
        const float most = warp_max(fmaxf(fmaxf(z[0], z[1]), fmaxf(z[2], z[3])));
        if (lane == 0) {
            maxima[c] = most;
            atomicMax(&s.least, rising(most));
        }
    }
    __syncthreads();
    row.most = from_rising(s.least);
    row.least = u64(rising(neg_inf()) + 1) << 32;
    __syncthreads();
    if (row.most == neg_inf()) {
        if (threadIdx.x == 0) drawn[blockIdx.x] = out;
        return;
    }

    double temperature = 0;
    if (order.temperature_kind == TEMPERATURE_TARGET) temperature = temperature_of_entropy(row, order.temperature, s);
    if (order.temperature_kind == TEMPERATURE_FIXED && order.temperature > 0) temperature = order.temperature;
    u32 token = NO_TOKEN;
    if (temperature == 0) {
        if (threadIdx.x == 0) s.least = NO_TOKEN;
        __syncthreads();
        row.each_from(u64(rising(row.most)) << 32, [&](u64 rank, float) { atomicMin(&s.least, token_of(rank)); });
        __syncthreads();
        token = s.least;
    } else {
        u32 shift = 62;
        while (shift > 0 && vocab >> (62 - shift)) shift--;
        row.scale = float(1.4426950408889634 / temperature), row.per_weight = float(1ull << shift);
        apply_filters(row, order, temperature, record.logit_std, s);
        u64 own = 0;
        for (u32 c = warp; c < row.n_chunks; c += DRAW_WARPS) {
            u64 mass = 0;
            if (rising(maxima[c]) >= u32(row.least >> 32)) {
                float z[LOGITS_A_LANE];
                row.load(z, c, lane);
#pragma unroll
                for (u32 i = 0; i < LOGITS_A_LANE; i++)
                    if (rank_of(z[i], c * LOGIT_CHUNK + lane * LOGITS_A_LANE + i) >= row.least) mass += row.mass(z[i]);
                mass = warp_sum_u64(mass);
            }
            if (lane == 0) chunk_mass[c] = mass, own += mass;
        }
        const u64 total = block_total(own, s);
        float best = 0;
        for (u32 first = order.first_coin; first < order.end_coin; first += DRAW_WARPS) {
            if (first + warp < order.end_coin) {
                const u32 tossed = toss(row, chunk_mass, total, coins[first + warp], lane);
                if (lane == 0) s.drawn[warp] = tossed;
            }
            __syncthreads();
            for (u32 i = 0; i < min(DRAW_WARPS, order.end_coin - first); i++) {
                const float z = row.logits[s.drawn[i]];
                if (token == NO_TOKEN || z > best) token = s.drawn[i], best = z;
            }
            __syncthreads();
        }
    }
    if (threadIdx.x == 0) {
        out.token = token, out.temperature = float(temperature);
        out.logprob = add(add(row.logits[token], -row.logits[record.best_token]), record.best_logprob);
        drawn[blockIdx.x] = out;
    }
}
REGISTER_KERNEL(draw);
