// Warp operations: lanes bring words, the last to arrive combines them, each takes its own away.
#include "runtime.h"

#include <algorithm>
#include <cmath>

namespace emulator {
namespace {

struct Pending {
    bool open = false;
    Combine combine = nullptr;
    uint32_t mask = 0, joined = 0, fetched = 0;
    const char* site = "";
    Lanes lanes;
};
constexpr int kPendingPerWarp = 4;

std::vector<Pending>& pending = *new std::vector<Pending>(32 * kPendingPerWarp);
uint32_t exited[32];

float from_bf16(uint32_t half) {
    uint32_t bits = half << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

float from_f16(uint32_t half) {
    const uint32_t exponent = half >> 10 & 31, fraction = half & 0x3ff;
    const float sign = half & 0x8000 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
    return sign * (exponent ? std::ldexp(float(1024 + fraction), int(exponent) - 25) : std::ldexp(float(fraction), -24));
}

void finish_if_complete(uint32_t warp, Pending& p) {
    if ((p.joined | (exited[warp] & p.mask)) != p.mask || !p.joined) return;
    p.lanes.present = p.joined;
    if (p.combine) p.combine(p.lanes);
    else memory_warp_synced(warp);
    p.fetched = p.joined;
    for (uint32_t l = 0; l < 32; l++)
        if (p.joined >> l & 1) wake(fiber_at(warp * 32 + l));
    p.mask = 0;
}

}  // namespace

void collective_begin_block(uint32_t n_warps) {
    for (uint32_t w = 0; w < n_warps; w++) {
        exited[w] = 0;
        for (uint32_t l = 0; l < 32; l++)
            if (w * 32 + l >= fibers()) exited[w] |= 1u << l;
        for (int i = 0; i < kPendingPerWarp; i++) pending[w * kPendingPerWarp + i].open = false;
    }
}

void collective_lane_exited(const Fiber& fiber) {
    exited[fiber.warp] |= 1u << fiber.lane;
    for (int i = 0; i < kPendingPerWarp; i++) {
        Pending& p = pending[fiber.warp * kPendingPerWarp + i];
        if (p.open && p.mask) finish_if_complete(fiber.warp, p);
    }
}

void collective(const char* site, Combine combine, uint32_t mask, const uint32_t* in, int n_in, uint32_t* out, int n_out) {
    Fiber& self = running();
    uint32_t bit = 1u << self.lane;
    if (!(mask & bit)) fail("warp operation at %s whose mask %08x leaves its own lane %u out", site, mask, self.lane);
    Pending* mine = nullptr;
    Pending* free = nullptr;
    for (int i = 0; i < kPendingPerWarp; i++) {
        Pending& p = pending[self.warp * kPendingPerWarp + i];
        if (!p.open) {
            free = &p;
        } else if (p.mask && p.mask == mask && !(p.joined & bit)) {
            mine = &p;
        } else if (p.mask && (p.mask & mask)) {
            fail("divergent warp operation: lane %u at %s with mask %08x, others at %s with mask %08x", self.lane, site, mask, p.site, p.mask);
        }
    }
    if (mine && (mine->combine != combine || std::strcmp(mine->site, site) != 0))
        fail("divergent warp operation: lane %u at %s, others at %s", self.lane, site, mine->site);
    if (!mine) {
        if (!free) fail("more than %d warp operations pending at %s", kPendingPerWarp, site);
        mine = free;
        mine->open = true;
        mine->combine = combine;
        mine->mask = mask;
        mine->joined = mine->fetched = 0;
        mine->site = site;
        // What an absent lane would have brought: all ones, a NaN.
        std::memset(&mine->lanes, 0xff, sizeof mine->lanes);
    }
    std::copy(in, in + n_in, mine->lanes.in[self.lane]);
    mine->joined |= bit;
    self.state = State::InWarpOperation;
    self.site = site;
    finish_if_complete(self.warp, *mine);
    if (self.state != State::Ready) yield_as(State::InWarpOperation, site);
    std::copy(mine->lanes.out[self.lane], mine->lanes.out[self.lane] + n_out, out);
    mine->fetched &= ~bit;
    if (!mine->fetched) mine->open = false;
}

void warp_barrier(const char* site, uint32_t mask) { collective(site, nullptr, mask, nullptr, 0, nullptr, 0); }

void combine_shuffle(Lanes& lanes) {
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t from = lanes.in[l][2];
        for (int w = 0; w < 2; w++)
            lanes.out[l][w] = from < 32 && lanes.present >> from & 1 ? lanes.in[from][w] : 0xffffffffu;
    }
}

void combine_ballot(Lanes& lanes) {
    uint32_t set = 0;
    for (uint32_t l = 0; l < 32; l++)
        if (lanes.present >> l & 1 && lanes.in[l][0]) set |= 1u << l;
    for (auto& out : lanes.out) out[0] = set;
}

static void demand_full_warp(const Lanes& lanes, const char* what) {
    if (lanes.present != 0xffffffffu) fail("%s with lanes %08x only", what, lanes.present);
}

/// Lane 8 m + r brings the address of row r of matrix m; rows are 8 bf16.
static void gather_rows(Lanes& lanes, uint16_t matrices[4][8][8]) {
    demand_full_warp(lanes, "ldmatrix");
    for (uint32_t l = 0; l < 32; l++) {
        const void* row;
        std::memcpy(&row, lanes.in[l], sizeof row);
        std::memcpy(matrices[l / 8][l % 8], row, 16);
    }
}

void combine_ldmatrix(Lanes& lanes) {
    uint16_t m[4][8][8];
    gather_rows(lanes, m);
    for (uint32_t l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) lanes.out[l][i] = m[i][l / 4][2 * (l % 4)] | uint32_t(m[i][l / 4][2 * (l % 4) + 1]) << 16;
}

void combine_ldmatrix_transposed(Lanes& lanes) {
    uint16_t m[4][8][8];
    gather_rows(lanes, m);
    for (uint32_t l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++) lanes.out[l][i] = m[i][2 * (l % 4)][l / 4] | uint32_t(m[i][2 * (l % 4) + 1][l / 4]) << 16;
}

/// D = A B + C, m16n8k16, 16 bits in, f32 out; fragments as in the PTX manual, with g = lane / 4, q = 2 (lane % 4):
/// a0 (g, q), a1 (g + 8, q), a2 (g, q + 8), a3 (g + 8, q + 8); b0 (q, g), b1 (q + 8, g); c0 (g, q), c2 (g + 8, q).
static void combine_mma(Lanes& lanes, float (*value)(uint32_t)) {
    demand_full_warp(lanes, "mma");
    float a[16][16], b[16][8], sums[16][8] = {};
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t g = l / 4, q = 2 * (l % 4);
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t row = g + 8 * (i % 2), col = q + 8 * (i / 2);
            a[row][col] = value(lanes.in[l][i] & 0xffff);
            a[row][col + 1] = value(lanes.in[l][i] >> 16);
        }
        for (uint32_t i = 0; i < 2; i++) {
            b[q + 8 * i][g] = value(lanes.in[l][4 + i] & 0xffff);
            b[q + 8 * i + 1][g] = value(lanes.in[l][4 + i] >> 16);
        }
    }
    for (int row = 0; row < 16; row++)
        for (int k = 0; k < 16; k++)
            for (int col = 0; col < 8; col++) sums[row][col] += a[row][k] * b[k][col];
    for (uint32_t l = 0; l < 32; l++) {
        uint32_t g = l / 4, q = 2 * (l % 4);
        for (uint32_t i = 0; i < 4; i++) {
            float c;
            std::memcpy(&c, &lanes.in[l][6 + i], 4);
            c += sums[g + 8 * (i / 2)][q + i % 2];
            std::memcpy(&lanes.out[l][i], &c, 4);
        }
    }
}

void combine_mma_bf16(Lanes& lanes) { combine_mma(lanes, from_bf16); }
void combine_mma_f16(Lanes& lanes) { combine_mma(lanes, from_f16); }

}  // namespace emulator
