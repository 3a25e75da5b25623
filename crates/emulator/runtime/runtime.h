// What the parts of the runtime share; kernels do not see it.
#pragma once

#include "emulator.h"

#include <csetjmp>
#include <string>
#include <vector>

namespace emulator {

enum class State : uint8_t { Ready, AtBarrier, InWarpOperation, Exited };

/// A queued cp.async.
struct Copy {
    void* to;
    const void* from;
    unsigned copied, total;
    uint32_t group;
};

/// One CUDA thread of the running block. `identity` is first: `current` points at it.
struct Fiber {
    Identity identity;
    void* stack_pointer = nullptr;
    State state = State::Ready;
    const char* site = "";
    uint32_t index = 0, lane = 0, warp = 0;
    uint32_t open_group = 0;
    std::vector<Copy> copies;
};

inline Fiber& running() { return *reinterpret_cast<Fiber*>(current); }
std::string describe(const Fiber& fiber);

/// Gives the processor back; returns when the fiber is scheduled again.
void yield_as(State state, const char* site);
void wake(Fiber& fiber);
Fiber& fiber_at(uint32_t index);
uint32_t fibers();

// Memory, in memory.cpp.
void memory_begin_launch(size_t dynamic_bytes);
void memory_begin_block();
void memory_end_launch();
void memory_advance_epoch();
void memory_warp_synced(uint32_t warp);
void memory_mark_written(const void* address, size_t bytes);
void memory_mark_unwritten(const void* address, size_t bytes);
size_t memory_count_unwritten(const void* address, size_t bytes);
std::string memory_describe(const void* address);
void memory_add(void* base, size_t bytes, size_t id);
void memory_remove(void* base);

// Warp operations, in collective.cpp.
void collective_begin_block(uint32_t n_warps);
void collective_lane_exited(const Fiber& fiber);

/// Where the running fiber's stack lies.
void stack_of_running(const char** low, const char** high);
/// Ends the launch with a message, from a signal handler or a fiber.
[[noreturn]] void abandon(std::string message);

/// Whether a kernel runs; initialisers of the image touch memory too.
extern bool in_launch;
/// Whether this image checks every access.
extern const bool kChecked;

/// Bytes of global memory that checked kernels read and wrote since the launch began.
extern uint64_t global_bytes_read, global_bytes_written;

}  // namespace emulator
