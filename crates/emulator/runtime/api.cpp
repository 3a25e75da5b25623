// What the Rust side calls: buffers, launches, the table of kernels.
#include "runtime.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <unistd.h>

namespace emulator {
std::string launch(const char*, dim3, dim3, size_t, void**, size_t, uint64_t);
const std::vector<uint32_t>* parameters_of(const char*);
std::vector<std::string> kernel_names();
void memory_limit_shared(size_t bytes);

namespace {
struct Mapping {
    char* start;
    size_t bytes;
};
std::map<void*, Mapping>& mappings = *new std::map<void*, Mapping>;
std::mutex& one_at_a_time = *new std::mutex;
size_t next_id = 1;
}  // namespace
}  // namespace emulator

using namespace emulator;

#define EXPORT extern "C" __attribute__((visibility("default")))

/// A device buffer, filled with 0xff, its end (to 16 bytes) against a page that cannot be touched. Null without memory.
EXPORT void* emulator_allocate(size_t bytes) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    size_t page = size_t(sysconf(_SC_PAGESIZE)), rounded = (bytes + 15) / 16 * 16, inner = (rounded + page - 1) / page * page;
    if (!inner) inner = page;
    auto* start = static_cast<char*>(mmap(nullptr, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (start == MAP_FAILED || mprotect(start + page, inner, PROT_READ | PROT_WRITE)) return nullptr;
    char* base = start + page + inner - rounded;
    std::memset(start + page, 0xff, inner);
    mappings[base] = {start, inner + 2 * page};
    memory_add(base, bytes, next_id++);
    return base;
}

EXPORT void emulator_release(void* base) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    memory_remove(base);
    munmap(mappings[base].start, mappings[base].bytes);
    mappings.erase(base);
}

EXPORT void emulator_write(void* to, const void* from, size_t bytes) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    std::memcpy(to, from, bytes);
    memory_mark_written(to, bytes);
}

/// Copies to the host; how many of the bytes nobody ever wrote (always 0 in unchecked images).
EXPORT size_t emulator_read(void* to, const void* from, size_t bytes) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    std::memcpy(to, from, bytes);
    return memory_count_unwritten(from, bytes);
}

/// Most shared memory that a block of the launches to come may take, dynamic and static together; at first all there is.
EXPORT void emulator_limit_shared(size_t bytes) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    memory_limit_shared(bytes);
}

/// Runs a kernel; 0, or the length of the message in `text`.
EXPORT size_t emulator_launch(const char* name, const uint32_t grid[3], const uint32_t block[3], size_t dynamic_bytes, void** arguments,
                              size_t n_arguments, uint64_t order, char* text, size_t capacity, uint64_t traffic[2]) {
    std::lock_guard<std::mutex> lock(one_at_a_time);
    std::string message = launch(name, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, dynamic_bytes, arguments, n_arguments, order);
    traffic[0] = global_bytes_read;
    traffic[1] = global_bytes_written;
    snprintf(text, capacity, "%s", message.c_str());
    return message.size();
}

/// The number of a kernel's parameters and, up to `capacity`, their sizes; SIZE_MAX for a name that is not there.
EXPORT size_t emulator_parameters(const char* name, uint32_t* sizes, size_t capacity) {
    const auto* found = parameters_of(name);
    if (!found) return SIZE_MAX;
    for (size_t i = 0; i < found->size() && i < capacity; i++) sizes[i] = (*found)[i];
    return found->size();
}

/// Writes the name of the `index`-th kernel, in order; 0 past the last.
EXPORT size_t emulator_kernel_name(size_t index, char* text, size_t capacity) {
    auto names = kernel_names();
    if (index >= names.size()) return 0;
    snprintf(text, capacity, "%s", names[index].c_str());
    return names[index].size();
}

EXPORT int emulator_is_checked() { return kChecked; }
