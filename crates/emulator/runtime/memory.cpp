// What kernels may touch: device buffers between guard pages, shared memory, and (in checked images) who touched each
// byte last. The compiler calls __tsan_* at every access of instrumented code; no sanitizer library is linked.
#include "runtime.h"

#include <algorithm>
#include <memory>

extern "C" {
extern const char __ehdr_start __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace emulator {

#ifdef EMULATOR_CHECKED
const bool kChecked = true;
#else
const bool kChecked = false;
#endif
uint64_t global_bytes_read, global_bytes_written;

namespace {

constexpr uint8_t kInitialised = 1, kReadByMany = 2, kReadByManyWarps = 4;
/// Stands for "some thread, atomically": ordered with other atomics only.
constexpr uint16_t kAtomic = 0xffff;
constexpr size_t kCanary = 64, kMaxDynamic = 232448, kMaxStatic = 49152;

/// Who touched a byte last, and when. Epochs count barriers, block starts and launches; syncs count __syncwarp.
struct Cell {
    uint32_t write_epoch = 0, read_epoch = 0;
    uint16_t write_thread = 0, read_thread = 0;
    uint16_t write_sync = 0, read_sync = 0;
    uint8_t flags = 0;
};

enum class Kind : uint8_t { Global, Dynamic, Static };
struct Region {
    char* base;
    size_t bytes;
    size_t id;
    Kind kind;
    std::unique_ptr<Cell[]> cells;
};

std::vector<Region>& regions = *new std::vector<Region>;  // sorted by base
size_t last_hit;
uint32_t epoch = 1, launch_epoch = 1, block_epoch = 1;
uint16_t syncs[32];
alignas(128) char dynamic[kMaxDynamic + kCanary];
size_t dynamic_bytes;
/// Most shared memory of a block, dynamic and static together: less where a launch was not allowed all of it.
size_t shared_limit = kMaxDynamic;
/// Variables of the running launch, each a region of its own with room between them.
struct Variable {
    const char* site;
    char* base;
    size_t bytes;
};
std::vector<Variable>& variables = *new std::vector<Variable>;
alignas(128) char variable_room[2 * kMaxStatic];
size_t variable_bytes, variable_end;

const char* name_of(Kind kind) {
    return kind == Kind::Global ? "device buffer" : kind == Kind::Dynamic ? "dynamic shared memory" : "static shared memory";
}

Region* find(const char* at) {
    if (last_hit < regions.size()) {
        Region& r = regions[last_hit];
        if (at >= r.base && at < r.base + r.bytes) return &r;
    }
    auto after = std::upper_bound(regions.begin(), regions.end(), at, [](const char* a, const Region& r) { return a < r.base; });
    if (after == regions.begin()) return nullptr;
    Region& r = *--after;
    if (at >= r.base + r.bytes) return nullptr;
    last_hit = size_t(&r - regions.data());
    return &r;
}

std::string place(const Region& r, const char* at) {
    std::string which = r.kind == Kind::Global ? " " + std::to_string(r.id) : "";
    return std::string(name_of(r.kind)) + which + " of " + std::to_string(r.bytes) + " bytes, offset " + std::to_string(at - r.base);
}

[[noreturn]] void out_of_bounds(const char* at, size_t bytes, bool write, const void* pc) {
    char text[96];
    snprintf(text, sizeof text, "out of bounds: %s of %zu bytes at code +%#zx: ", write ? "write" : "read", bytes,
             size_t(static_cast<const char*>(pc) - &__ehdr_start));
    abandon(text + memory_describe(at));
}

[[noreturn]] void report(const char* what, const Region& r, const char* at, bool write, uint32_t other, const void* pc) {
    char text[200];
    snprintf(text, sizeof text, "%s: %s at code +%#zx, ", what, write ? "write" : "read", size_t(static_cast<const char*>(pc) - &__ehdr_start));
    std::string with = other == ~0u ? "" : ", other thread " + std::to_string(other);
    abandon(text + place(r, at) + with);
}

/// Whether an access of thread `t` in warp-sync period `s` comes after the recorded one.
bool is_ordered(uint32_t other_thread, uint16_t other_sync, const Fiber& self) {
    if (other_thread == self.index) return true;
    return other_thread / 32 == self.warp && other_sync != syncs[self.warp];
}

void check(const char* at, size_t bytes, bool write, const void* pc) {
    Fiber& self = running();
    Region* r = find(at);
    if (!r || at + bytes > r->base + r->bytes) out_of_bounds(at, bytes, write, pc);
    if (r->kind == Kind::Global) (write ? global_bytes_written : global_bytes_read) += bytes;
    uint32_t valid_since = r->kind == Kind::Global ? launch_epoch : block_epoch;
    Cell* cell = &r->cells[size_t(at - r->base)];
    for (size_t i = 0; i < bytes; i++, cell++) {
        bool current_write = cell->write_epoch >= valid_since, current_read = cell->read_epoch >= valid_since;
        if (r->kind != Kind::Global && !current_write) cell->flags &= uint8_t(~kInitialised);
        if (current_write && cell->write_epoch < block_epoch) report("race between blocks", *r, at + i, write, cell->write_thread, pc);
        if (current_write && cell->write_epoch == epoch && !is_ordered(cell->write_thread, cell->write_sync, self))
            report("race", *r, at + i, write, cell->write_thread, pc);
        if (write) {
            if (current_read && cell->read_epoch < block_epoch && r->kind == Kind::Global)
                report("race between blocks", *r, at + i, write, cell->read_thread, pc);
            if (current_read && cell->read_epoch == epoch) {
                bool many_warps = cell->flags & kReadByManyWarps;
                bool many = cell->flags & kReadByMany;
                bool ordered = many_warps ? false : many ? cell->read_thread / 32 == self.warp && cell->read_sync != syncs[self.warp]
                                                         : is_ordered(cell->read_thread, cell->read_sync, self);
                if (!ordered) report("race", *r, at + i, write, cell->read_thread, pc);
            }
            cell->write_epoch = epoch;
            cell->write_thread = uint16_t(self.index);
            cell->write_sync = syncs[self.warp];
            cell->flags |= kInitialised;
        } else {
            if (!(cell->flags & kInitialised)) report("uninitialised", *r, at + i, write, ~0u, pc);
            if (cell->read_epoch == epoch && cell->read_thread != self.index) {
                bool stale = cell->read_thread / 32 == self.warp && cell->read_sync != syncs[self.warp] && !(cell->flags & kReadByManyWarps);
                if (stale) cell->flags &= uint8_t(~kReadByMany);
                else cell->flags |= kReadByMany | (cell->read_thread / 32 != self.warp ? kReadByManyWarps : 0);
            } else if (cell->read_epoch != epoch) {
                cell->flags &= uint8_t(~(kReadByMany | kReadByManyWarps));
            }
            cell->read_epoch = epoch;
            cell->read_thread = uint16_t(self.index);
            cell->read_sync = syncs[self.warp];
        }
    }
}

void check_atomic(Region& r, char* at, size_t bytes, const void* pc) {
    Fiber& self = running();
    uint32_t valid_since = r.kind == Kind::Global ? launch_epoch : block_epoch;
    Cell* cell = &r.cells[size_t(at - r.base)];
    for (size_t i = 0; i < bytes; i++, cell++) {
        bool written = cell->write_epoch >= valid_since;
        if (r.kind != Kind::Global && !written) cell->flags &= uint8_t(~kInitialised);
        if (!(cell->flags & kInitialised)) report("uninitialised", r, at + i, true, ~0u, pc);
        bool by_plain = written && cell->write_thread != kAtomic;
        if (by_plain && cell->write_epoch < block_epoch) report("race between blocks", r, at + i, true, cell->write_thread, pc);
        if (by_plain && cell->write_epoch == epoch && !is_ordered(cell->write_thread, cell->write_sync, self))
            report("race", r, at + i, true, cell->write_thread, pc);
        if (cell->read_epoch == epoch && (cell->flags & kReadByMany || !is_ordered(cell->read_thread, cell->read_sync, self)))
            report("race", r, at + i, true, cell->read_thread, pc);
        cell->write_epoch = epoch;
        cell->write_thread = kAtomic;
    }
}

/// The thread's own stack and record, and the image's constants, are nobody else's business.
bool is_private(const char* at) {
    const char *low, *high;
    stack_of_running(&low, &high);
    if (at >= low && at < high) return true;
    if (at >= variable_room && at < variable_room + sizeof variable_room) return false;
    if (at >= dynamic && at < dynamic + sizeof dynamic) return false;
    if (at >= &__ehdr_start && at < _end) return true;
    auto* record = reinterpret_cast<const char*>(&running());
    return at >= record && at < record + sizeof(Fiber);
}

__attribute__((unused)) void on_access(const void* address, size_t bytes, bool write, const void* pc) {
    auto* at = static_cast<const char*>(address);
    if (in_launch && !is_private(at)) check(at, bytes, write, pc);
}

}  // namespace

void memory_add(void* base, size_t bytes, size_t id) {
    Region r{static_cast<char*>(base), bytes, id, Kind::Global, kChecked ? std::make_unique<Cell[]>(bytes) : nullptr};
    auto after = std::upper_bound(regions.begin(), regions.end(), r.base, [](const char* a, const Region& o) { return a < o.base; });
    regions.insert(after, std::move(r));
}

void memory_remove(void* base) {
    std::erase_if(regions, [base](const Region& r) { return r.base == base; });
}

static void add_shared(char* base, size_t bytes, Kind kind) {
    if (!bytes) return;
    Region r{base, bytes, 0, kind, kChecked ? std::make_unique<Cell[]>(bytes) : nullptr};
    auto after = std::upper_bound(regions.begin(), regions.end(), r.base, [](const char* a, const Region& o) { return a < o.base; });
    regions.insert(after, std::move(r));
}

void memory_limit_shared(size_t bytes) { shared_limit = bytes; }

void memory_begin_launch(size_t bytes) {
    if (dynamic_bytes != bytes || bytes == 0 || epoch == 1) {
        dynamic_bytes = bytes;
        std::erase_if(regions, [](const Region& r) { return r.kind == Kind::Dynamic; });
        add_shared(dynamic, bytes, Kind::Dynamic);
    }
    std::erase_if(regions, [](const Region& r) { return r.kind == Kind::Static; });
    variables.clear();
    variable_bytes = variable_end = 0;
    launch_epoch = ++epoch;
    global_bytes_read = global_bytes_written = 0;
    last_hit = 0;
}

void memory_begin_block() {
    block_epoch = ++epoch;
    std::memset(dynamic, 0xff, dynamic_bytes);
    std::memset(dynamic + dynamic_bytes, 0x5a, kCanary);
    std::memset(variable_room, 0xff, variable_end);
    std::fill(syncs, syncs + 32, uint16_t(0));
}

void memory_end_launch() {
    for (size_t i = 0; i < kCanary; i++)
        if (dynamic[dynamic_bytes + i] != 0x5a) fail("out of bounds: wrote past %zu bytes of dynamic shared memory", dynamic_bytes);
}

void memory_advance_epoch() { ++epoch; }
void memory_warp_synced(uint32_t warp) { ++syncs[warp]; }

void* dynamic_shared(size_t alignment) {
    (void)alignment;
    return dynamic;
}

void* static_shared(const char* site, size_t bytes) {
    for (const Variable& v : variables)
        if (v.site == site || std::strcmp(v.site, site) == 0) return v.base;
    variable_bytes += bytes;
    char* base = variable_room + variable_end;
    if (variable_bytes > kMaxStatic) fail("%zu bytes of static shared memory; 49152 at most", variable_bytes);
    if (variable_bytes + dynamic_bytes > shared_limit)
        fail("%zu bytes of static and %zu of dynamic shared memory; %zu at most together", variable_bytes, dynamic_bytes, shared_limit);
    variable_end += (bytes + kCanary + 15) / 16 * 16;
    std::memset(base, 0xff, bytes);
    add_shared(base, bytes, Kind::Static);
    variables.push_back({site, base, bytes});
    return base;
}

void memory_mark_written(const void* address, size_t bytes) {
    if (!kChecked || !bytes) return;
    Region* r = find(static_cast<const char*>(address));
    if (!r) return;
    Cell* cell = &r->cells[size_t(static_cast<const char*>(address) - r->base)];
    for (size_t i = 0; i < bytes; i++) cell[i].flags |= kInitialised;
}

size_t memory_count_unwritten(const void* address, size_t bytes) {
    if (!kChecked || !bytes) return 0;
    Region* r = find(static_cast<const char*>(address));
    if (!r) return bytes;
    Cell* cell = &r->cells[size_t(static_cast<const char*>(address) - r->base)];
    return size_t(std::count_if(cell, cell + bytes, [](const Cell& c) { return !(c.flags & kInitialised); }));
}

void memory_mark_unwritten(const void* address, size_t bytes) {
    if (!kChecked) return;
    Region* r = find(static_cast<const char*>(address));
    Cell* cell = &r->cells[size_t(static_cast<const char*>(address) - r->base)];
    for (size_t i = 0; i < bytes; i++) cell[i].flags &= uint8_t(~kInitialised);
}

std::string memory_describe(const void* address) {
    auto* at = static_cast<const char*>(address);
    const Region* nearest = nullptr;
    for (auto& r : regions)
        if (at + 4096 > r.base && at < r.base + r.bytes + 4096) nearest = &r;
    if (nearest) return place(*nearest, at);
    char text[64];
    snprintf(text, sizeof text, "address %p, in no buffer", address);
    return text;
}

void check_aligned(const void* address, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes) fail("misaligned: read of %zu bytes at %s", bytes, memory_describe(address).c_str());
}

void check_read(const void* address, size_t bytes, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment) fail("misaligned: read of %zu bytes at %s", bytes, memory_describe(address).c_str());
    if (kChecked) check(static_cast<const char*>(address), bytes, false, __builtin_return_address(0));
}

void check_write(const void* address, size_t bytes, size_t alignment) {
    if (reinterpret_cast<uintptr_t>(address) % alignment) fail("misaligned: write of %zu bytes at %s", bytes, memory_describe(address).c_str());
    if (kChecked) check(static_cast<const char*>(address), bytes, true, __builtin_return_address(0));
}

void copy_async(void* to, const void* from, unsigned copied, unsigned total) {
    if (copied) check_read(from, copied, total);
    check_write(to, total, total);
    // Until it is waited for, whoever reads sees NaN, and the checked image says why.
    std::memset(to, 0xff, total);
    memory_mark_unwritten(to, total);
    running().copies.push_back({to, from, copied, total, running().open_group});
}

void copy_async_commit() { running().open_group++; }

void copy_async_wait(unsigned newest_left_open) {
    Fiber& self = running();
    auto due = [&](const Copy& c) { return c.group + newest_left_open < self.open_group; };
    for (const Copy& c : self.copies) {
        if (!due(c)) continue;
        if (c.copied) std::memcpy(c.to, c.from, c.copied);
        std::memset(static_cast<char*>(c.to) + c.copied, 0, c.total - c.copied);
        memory_mark_written(c.to, c.total);
    }
    std::erase_if(self.copies, due);
}

template <typename T, typename F>
static T atomic(T* at, F&& change) {
    if (reinterpret_cast<uintptr_t>(at) % sizeof(T)) fail("misaligned atomic at %s", memory_describe(at).c_str());
    if (kChecked) {
        Region* r = find(reinterpret_cast<char*>(at));
        if (!r || reinterpret_cast<char*>(at + 1) > r->base + r->bytes) out_of_bounds(reinterpret_cast<char*>(at), sizeof(T), true, __builtin_return_address(0));
        check_atomic(*r, reinterpret_cast<char*>(at), sizeof(T), __builtin_return_address(0));
    }
    T old = *at;
    *at = change(old);
    return old;
}

uint32_t atomic_add_u32(uint32_t* at, uint32_t v) { return atomic(at, [v](uint32_t o) { return o + v; }); }
uint64_t atomic_add_u64(uint64_t* at, uint64_t v) { return atomic(at, [v](uint64_t o) { return o + v; }); }
uint32_t atomic_max_u32(uint32_t* at, uint32_t v) { return atomic(at, [v](uint32_t o) { return std::max(o, v); }); }
uint32_t atomic_min_u32(uint32_t* at, uint32_t v) { return atomic(at, [v](uint32_t o) { return std::min(o, v); }); }
uint64_t atomic_min_u64(uint64_t* at, uint64_t v) { return atomic(at, [v](uint64_t o) { return std::min(o, v); }); }

}  // namespace emulator

#ifdef EMULATOR_CHECKED
#define ACCESS(name, bytes, write) \
    extern "C" void __tsan_##name(void* at) { emulator::on_access(at, bytes, write, __builtin_return_address(0)); }
#define ACCESSES(bytes)                                                                                  \
    ACCESS(read##bytes, bytes, false) ACCESS(write##bytes, bytes, true)                                  \
    ACCESS(unaligned_read##bytes, bytes, false) ACCESS(unaligned_write##bytes, bytes, true)              \
    ACCESS(volatile_read##bytes, bytes, false) ACCESS(volatile_write##bytes, bytes, true)
ACCESSES(1) ACCESSES(2) ACCESSES(4) ACCESSES(8) ACCESSES(16)
extern "C" void __tsan_init() {}
extern "C" void __tsan_read_range(void* at, size_t bytes) { emulator::on_access(at, bytes, false, __builtin_return_address(0)); }
extern "C" void __tsan_write_range(void* at, size_t bytes) { emulator::on_access(at, bytes, true, __builtin_return_address(0)); }
#endif
