// Runs a launch: block after block, every CUDA thread a fiber, switched only where CUDA lets threads wait.
#include "runtime.h"

#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <map>
#include <mutex>
#include <random>
#include <sys/mman.h>
#include <ucontext.h>

namespace emulator {

Identity* current;
dim3 block_size, grid_size;
bool in_launch;

namespace {

constexpr size_t kStackBytes = 64 << 10;
constexpr uint32_t kMaxThreads = 1024;

struct Kernel {
    Thunk thunk;
    std::vector<uint32_t> sizes;
};
// Kernels register before main; a leaked map outlives every static.
std::map<std::string, Kernel>& kernels() {
    static auto* all = new std::map<std::string, Kernel>;
    return *all;
}

// Never destroyed: a sanitizer callback may still look at them while the process ends.
std::vector<Fiber>& all_fibers = *new std::vector<Fiber>;
char* stacks;
uint32_t n_threads;
void* scheduler_stack_pointer;
Identity nobody{};
sigjmp_buf leave_launch;
std::string& message = *new std::string;

const Kernel* launched;
void** launch_arguments;
const char* launch_name;

extern "C" void emulator_switch(void** save, void* load);
#if defined(__x86_64__)
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, .-emulator_switch
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, %function
emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch, .-emulator_switch
)");
#else
#error "the emulator switches fibers in assembly: x86-64 and aarch64 only"
#endif

void fiber_main() {
    launched->thunk(launch_arguments);
    Fiber& self = running();
    if (!self.copies.empty()) fail("exits with %zu cp.async in flight", self.copies.size());
    collective_lane_exited(self);
    yield_as(State::Exited, "");
    __builtin_trap();
}

void prepare(Fiber& fiber) {
    char* top = stacks + (fiber.index + 1) * kStackBytes - 64;
    auto* slots = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
    // Six saved registers, then the address `ret` goes to; rsp + 8 is a multiple of 16 there.
    slots[-1] = nullptr;
    slots[-2] = reinterpret_cast<void*>(fiber_main);
    for (int i = 3; i <= 8; i++) slots[-i] = nullptr;
    fiber.stack_pointer = slots - 8;
#else
    auto* frame = slots - 20;
    for (int i = 0; i < 20; i++) frame[i] = nullptr;
    frame[11] = reinterpret_cast<void*>(fiber_main);
    fiber.stack_pointer = frame;
#endif
}

void run(Fiber& fiber) {
    current = &fiber.identity;
    emulator_switch(&scheduler_stack_pointer, fiber.stack_pointer);
    current = &nobody;
}

std::string waiting_threads() {
    std::string list;
    int named = 0;
    for (auto& f : all_fibers) {
        if (f.index >= n_threads || f.state == State::Exited || named == 4) continue;
        list += std::string(named++ ? "; " : "") + "thread " + std::to_string(f.index) +
                (f.state == State::AtBarrier ? " at __syncthreads " : " in a warp operation at ") + f.site;
    }
    return list;
}

/// Lets a barrier go when every thread stands at the same one; reports it otherwise.
bool release_barrier() {
    uint32_t waiting = 0, exited = 0;
    const Fiber* first = nullptr;
    for (uint32_t i = 0; i < n_threads; i++) {
        Fiber& f = all_fibers[i];
        waiting += f.state == State::AtBarrier;
        exited += f.state == State::Exited;
        if (f.state != State::AtBarrier) continue;
        if (!first) first = &f;
        if (std::string_view(first->site) != f.site)
            abandon("divergent __syncthreads: thread " + std::to_string(first->index) + " waits at " + first->site +
                    ", thread " + std::to_string(f.index) + " at " + f.site);
    }
    if (waiting + exited != n_threads || waiting == 0) return false;
    if (exited) abandon("divergent __syncthreads: " + std::to_string(exited) + " threads have exited while " + waiting_threads());
    for (uint32_t i = 0; i < n_threads; i++) all_fibers[i].state = State::Ready;
    memory_advance_epoch();
    return true;
}

void run_block(uint64_t order, std::mt19937_64& random) {
    uint32_t n_warps = (n_threads + 31) / 32;
    std::vector<uint32_t> warps(n_warps), lanes(32);
    auto redraw = [&] {
        for (uint32_t i = 0; i < n_warps; i++) warps[i] = order == 1 ? n_warps - 1 - i : i;
        for (uint32_t i = 0; i < 32; i++) lanes[i] = order == 1 ? 31 - i : i;
        if (order >= 2) {
            std::shuffle(warps.begin(), warps.end(), random);
            std::shuffle(lanes.begin(), lanes.end(), random);
        }
    };
    memory_begin_block();
    collective_begin_block(n_warps);
    for (uint32_t i = 0; i < n_threads; i++) {
        Fiber& f = all_fibers[i];
        f.state = State::Ready;
        f.site = "";
        f.copies.clear();
        f.open_group = 0;
        prepare(f);
    }
    redraw();
    uint32_t left = n_threads;
    while (left) {
        bool ran = false;
        for (uint32_t w : warps) {
            for (bool any = true; any;) {
                any = false;
                for (uint32_t l : lanes) {
                    uint32_t i = w * 32 + l;
                    if (i >= n_threads || all_fibers[i].state != State::Ready) continue;
                    run(all_fibers[i]);
                    any = ran = true;
                    left -= all_fibers[i].state == State::Exited;
                }
                if (order >= 2 && random() % 4 == 0) break;
            }
        }
        if (ran) continue;
        if (!release_barrier()) abandon("deadlock: " + waiting_threads());
        redraw();
    }
}

void on_fault(int signal, siginfo_t* info, void*) {
    if (!in_launch) {
        std::signal(signal, SIG_DFL);
        return;
    }
    if (signal == SIGILL) abandon("misaligned access or index past a fixed array");
    abandon((signal == SIGSEGV || signal == SIGBUS ? "out of bounds: " : "fault: ") + memory_describe(info->si_addr));
}

void install_handlers() {
    static char* alternate = static_cast<char*>(mmap(nullptr, 64 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    stack_t stack{};
    stack.ss_sp = alternate;
    stack.ss_size = 64 << 10;
    sigaltstack(&stack, nullptr);
    struct sigaction action {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) sigaction(s, &action, nullptr);
}

}  // namespace

Fiber& fiber_at(uint32_t index) { return all_fibers[index]; }
uint32_t fibers() { return n_threads; }
void wake(Fiber& fiber) { fiber.state = State::Ready; }

void yield_as(State state, const char* site) {
    Fiber& self = running();
    self.state = state;
    self.site = site;
    emulator_switch(&self.stack_pointer, scheduler_stack_pointer);
    current = &self.identity;
}

void block_barrier(const char* site) { yield_as(State::AtBarrier, site); }

void stack_of_running(const char** low, const char** high) {
    uint32_t i = running().index;
    *low = stacks + i * kStackBytes;
    *high = *low + kStackBytes;
}

std::string describe(const Fiber& f) {
    return "block (" + std::to_string(f.identity.block.x) + ", " + std::to_string(f.identity.block.y) + ", " +
           std::to_string(f.identity.block.z) + ") thread " + std::to_string(f.index);
}

void abandon(std::string text) {
    std::string where = current == &nobody || !current ? "" : " in " + describe(running());
    message = std::string(launch_name) + ": " + std::move(text) + where;
    siglongjmp(leave_launch, 1);
}

void fail(const char* format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    abandon(text);
}

void register_kernel(const char* name, Thunk thunk, const uint32_t* sizes, uint32_t n_sizes) {
    kernels()[name] = {thunk, std::vector<uint32_t>(sizes, sizes + n_sizes)};
}

/// What a driver would refuse, in words; empty when the launch may go on.
static std::string refuse(const char* name, const dim3& grid, const dim3& block, size_t dynamic_bytes, size_t n_arguments) {
    auto found = kernels().find(name);
    if (found == kernels().end()) return "no such kernel";
    if (found->second.sizes.size() != n_arguments)
        return "takes " + std::to_string(found->second.sizes.size()) + " arguments, not " + std::to_string(n_arguments);
    if (block.y != 1 || block.z != 1 || block.x == 0 || block.x > kMaxThreads)
        return "a block of " + std::to_string(block.x) + " x " + std::to_string(block.y) + " x " + std::to_string(block.z) +
               " threads; one dimension, 1 to 1024";
    if (!grid.x || !grid.y || !grid.z || grid.y > 65535 || grid.z > 65535) return "an empty grid, or y or z above 65535";
    if (dynamic_bytes > (227u << 10)) return std::to_string(dynamic_bytes) + " bytes of dynamic shared memory; 232448 at most";
    return "";
}

/// Runs a kernel over a grid; empty, or what went wrong.
std::string launch(const char* name, dim3 grid, dim3 block, size_t dynamic_bytes, void** arguments, size_t n_arguments, uint64_t order) {
    std::string refused = refuse(name, grid, block, dynamic_bytes, n_arguments);
    if (!refused.empty()) return std::string(name) + ": " + refused;
    launched = &kernels()[name];
    launch_name = name;
    launch_arguments = arguments;
    if (!stacks) {
        stacks = static_cast<char*>(mmap(nullptr, kMaxThreads * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        all_fibers.resize(kMaxThreads);
        for (uint32_t i = 0; i < kMaxThreads; i++) {
            all_fibers[i].index = i;
            all_fibers[i].lane = i % 32;
            all_fibers[i].warp = i / 32;
            all_fibers[i].identity.thread = {i, 0, 0};
        }
    }
    // Another image of the runtime may have taken the signals since.
    install_handlers();
    current = &nobody;
    n_threads = block.x;
    block_size = block;
    grid_size = grid;
    message.clear();
    std::mt19937_64 random(order);
    in_launch = true;
    if (sigsetjmp(leave_launch, 1) == 0) {
        memory_begin_launch(dynamic_bytes);
        uint64_t n_blocks = uint64_t(grid.x) * grid.y * grid.z;
        for (uint64_t i = 0; i < n_blocks; i++) {
            uint64_t b = order == 1 ? n_blocks - 1 - i : i;
            uint3 at = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
            for (uint32_t t = 0; t < n_threads; t++) all_fibers[t].identity.block = at;
            run_block(order, random);
        }
        memory_end_launch();
    }
    in_launch = false;
    current = &nobody;
    return message;
}

/// The sizes of a kernel's parameters, or none; names in order when `name` is null.
const std::vector<uint32_t>* parameters_of(const char* name) {
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second.sizes;
}

std::vector<std::string> kernel_names() {
    std::vector<std::string> names;
    for (auto& [name, kernel] : kernels()) names.push_back(name);
    return names;
}

}  // namespace emulator
