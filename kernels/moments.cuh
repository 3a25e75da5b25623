// Entropy and varentropy of a softmax in parts that can be merged.
//
// Of numbers x_i a part keeps, in the frame of its own maximum m (d_i = x_i - m, e_i = exp d_i):
//     sum = S0 = sum e_i     mean = sum e_i d_i / S0     var = sum e_i d_i^2 / S0 - mean^2
// Two parts merge in the frame of the larger maximum M by the central formulas: p_k = weight_k / (weight_a + weight_b),
//     A_k = mean_k + (m_k - M)     mean = p_a A_a + p_b A_b     var = p_a var_a + p_b var_b + p_a p_b (A_a - A_b)^2
// and at the end H = ln S0 - mean, V = var, ln Z = m + ln S0. Against f64 this is 10 to 100 times closer than summing raw
// moments: an absolute frame loses the digits once |x| is large.
//
// All of it is mul, add and fmaf, so that decoding and prefilling kernels get the same bits. Merging with an empty part
// (max = -inf) changes nothing.
#pragma once
#include "dev.cuh"

struct Moments { float max, sum, mean, var; };

DEV Moments no_moments() { Moments m = {neg_inf(), 0, 0, 0}; return m; }

DEV float exp_fast(float x) { return exp2_fast(mul(x, LOG2E)); }

/// How much a part weighs in the frame of `max`; minus infinity against minus infinity is nothing.
DEV float frame_shift(float from, float to) { return fmaxf(from == neg_inf() ? -1000.0f : add(from, -to), -1000.0f); }

/// The part of one lane group from its raw sums.
DEV Moments moments_of(float max, float s0, float s1, float s2) {
    Moments m = no_moments();
    if (s0 > 0) {
        m.max = max, m.sum = s0, m.mean = s1 / s0;
        m.var = fmaxf(fmaf(-m.mean, m.mean, s2 / s0), 0.0f);
    }
    return m;
}

/// A part whose mean and variance nobody wants.
DEV Moments mass_of(float max, float s0) {
    Moments m = no_moments();
    if (s0 > 0) m.max = max, m.sum = s0;
    return m;
}

/// Without `spread`, the maximum and the sum alone, the same bits.
DEV Moments merge(const Moments& a, const Moments& b, bool spread = true) {
    Moments m;
    m.max = fmaxf(a.max, b.max);
    const float shift_a = frame_shift(a.max, m.max), shift_b = frame_shift(b.max, m.max);
    const float weight_a = mul(a.sum, exp_fast(shift_a)), weight_b = mul(b.sum, exp_fast(shift_b));
    m.sum = add(weight_a, weight_b);
    if (!(m.sum > 0)) return no_moments();
    m.mean = m.var = 0;
    if (!spread) return m;
    const float pa = weight_a / m.sum, pb = weight_b / m.sum;
    const float mean_a = add(a.mean, shift_a), mean_b = add(b.mean, shift_b), apart = add(mean_a, -mean_b);
    m.mean = fmaf(pa, mean_a, mul(pb, mean_b));
    m.var = add(fmaf(pa, a.var, mul(pb, b.var)), mul(mul(pa, pb), mul(apart, apart)));
    return m;
}
