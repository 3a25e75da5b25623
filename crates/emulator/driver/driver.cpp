// A libcuda.so whose device is the emulator, so that a program's real CUDA backend, driver calls and all, runs on machines
// without a GPU. Only what this project calls is there.
//
// Streams are lazy: what is queued runs when somebody waits for it, so a result that is read without a wait is not there, and
// pinned memory that is overwritten too early is seen. Errors of kernels are sticky, as on a device. Any call can be made to fail
// (control.cpp), and calls and bytes are counted.
#include "driver.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

using namespace fake;

extern "C" {
void* emulator_allocate(size_t bytes);
void emulator_release(void* base);
void emulator_write(void* to, const void* from, size_t bytes);
size_t emulator_read(void* to, const void* from, size_t bytes);
void emulator_limit_shared(size_t bytes);
size_t emulator_launch(const char*, const uint32_t*, const uint32_t*, size_t, void**, size_t, uint64_t, char*, size_t, uint64_t*);
size_t emulator_parameters(const char* name, uint32_t* sizes, size_t capacity);
}

namespace fake {

namespace {

/// Shared memory of a block, static and dynamic together: without asking, and asked for.
constexpr unsigned kFreeShared = 48 << 10, kOptInShared = 227 << 10;

/// Pieces of a mebibyte and more are whole granules; smaller ones share granules.
constexpr size_t kLargePiece = 1 << 20, kGranule = 2 << 20, kSmallStep = 512;

size_t rounded(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

Result fault(const char* call, const char* what) {
    fprintf(stderr, "fake driver: %s: %s\n", call, what);
    return Result::InvalidValue;
}

/// Whether `bytes` at `at` lie in one live allocation.
bool is_device(uint64_t at, size_t bytes) {
    auto after = state().device.upper_bound(at);
    if (after == state().device.begin()) return false;
    auto [base, size] = *--after;
    return at - base <= size && bytes <= size - (at - base);
}

bool is_pinned(const void* at) {
    auto address = reinterpret_cast<uint64_t>(at);
    auto after = state().pinned.upper_bound(address);
    if (after == state().pinned.begin()) return false;
    auto [base, size] = *--after;
    return address - base < size;
}

void run_until(Stream& stream, uint64_t position) {
    while (stream.done < position) {
        Operation operation = std::move(stream.queue.front());
        stream.queue.pop_front();
        if (state().sticky == Result::Success) state().sticky = operation();
        stream.done++;
    }
}

/// Queues an operation, or puts it into the graph that is being captured.
Result enqueue(Stream& stream, Operation operation) {
    if (stream.graph) {
        stream.graph->push_back(std::move(operation));
    } else {
        stream.queue.push_back(std::move(operation));
        stream.queued++;
    }
    return Result::Success;
}

}  // namespace

State& state() {
    static State& all = *new State;
    return all;
}

size_t taken(size_t bytes) {
    size_t large = 0, small = 0;
    auto add = [&](size_t piece) { piece < kLargePiece ? small += rounded(piece, kSmallStep) : large += rounded(piece, kGranule); };
    for (auto [base, piece] : state().device) add(piece);
    if (bytes) add(bytes);
    return large + rounded(small, kGranule);
}

}  // namespace fake

#define EXPORT extern "C" __attribute__((visibility("default")))
/// Begins an entry point: one caller at a time, counted, failing when told to or when the device has failed before.
#define ENTER()                                                              \
    std::lock_guard<std::recursive_mutex> lock(state().mutex);               \
    if (Result told = state().enter(__func__); told != Result::Success) return told
/// What waits or allocates breaks a capture.
#define NOT_IN_CAPTURE() \
    if (state().capturing) return Result::CaptureUnsupported

EXPORT Result cuInit(unsigned) {
    ENTER();
    return state().n_devices == 0 ? Result::NoDevice : Result::Success;
}
EXPORT Result cuDriverGetVersion(int* version) {
    ENTER();
    *version = state().version;
    return Result::Success;
}
EXPORT Result cuDeviceGetCount(int* count) {
    ENTER();
    *count = state().n_devices;
    return Result::Success;
}
EXPORT Result cuDeviceGet(int* device, int ordinal) {
    ENTER();
    if (ordinal < 0 || ordinal >= state().n_devices) return Result::InvalidDevice;
    *device = ordinal;
    return Result::Success;
}
EXPORT Result cuDeviceGetName(char* name, int capacity, int) {
    ENTER();
    snprintf(name, size_t(capacity), "Emulated device");
    return Result::Success;
}
EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, int) {
    ENTER();
    *bytes = state().memory;
    return Result::Success;
}
EXPORT Result cuDeviceGetAttribute(int* value, int attribute, int device) {
    ENTER();
    const int capability = state().capabilities[std::min(size_t(device), state().capabilities.size() - 1)];
    switch (attribute) {
        case 16: *value = 132; break;                   // multiprocessors
        case 75: *value = capability / 10; break;
        case 76: *value = capability % 10; break;
        case 88: *value = state().reads_pageable; break;
        case 97: *value = kOptInShared; break;
        default: return fault(__func__, "an attribute nobody needed yet");
    }
    return Result::Success;
}
EXPORT Result cuDevicePrimaryCtxRetain(void** context, int) {
    ENTER();
    *context = &state();
    return Result::Success;
}
EXPORT Result cuDevicePrimaryCtxRelease_v2(int) {
    ENTER();
    return Result::Success;
}
EXPORT Result cuCtxSetCurrent(void*) {
    ENTER();
    return Result::Success;
}

EXPORT Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER();
    *total = state().memory;
    *free = state().memory - std::min(taken(0), state().memory);
    return Result::Success;
}
EXPORT Result cuMemAlloc_v2(uint64_t* at, size_t bytes) {
    ENTER();
    NOT_IN_CAPTURE();
    if (bytes == 0) return fault(__func__, "no bytes");
    if (taken(bytes) > state().memory) return Result::OutOfMemory;
    void* base = emulator_allocate(bytes);
    if (!base) return Result::OutOfMemory;
    *at = reinterpret_cast<uint64_t>(base);
    state().device[*at] = bytes;
    state().used += bytes;
    return Result::Success;
}
EXPORT Result cuMemFree_v2(uint64_t at) {
    ENTER();
    NOT_IN_CAPTURE();
    auto found = state().device.find(at);
    if (found == state().device.end()) return fault(__func__, "no such memory");
    for (Stream* stream : state().streams) run_until(*stream, stream->queued);
    emulator_release(reinterpret_cast<void*>(at));
    state().used -= found->second;
    state().device.erase(found);
    return Result::Success;
}
EXPORT Result cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    ENTER();
    NOT_IN_CAPTURE();
    *at = ::operator new(bytes, std::align_val_t(4096));
    memset(*at, 0xff, bytes);
    state().pinned[reinterpret_cast<uint64_t>(*at)] = bytes;
    return Result::Success;
}
EXPORT Result cuMemFreeHost(void* at) {
    ENTER();
    if (!state().pinned.erase(reinterpret_cast<uint64_t>(at))) return fault(__func__, "no such memory");
    for (Stream* stream : state().streams) run_until(*stream, stream->queued);
    ::operator delete(at, std::align_val_t(4096));
    return Result::Success;
}

EXPORT Result cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    ENTER();
    if (!is_device(to, bytes)) return fault(__func__, "a range that is no device memory");
    state().bytes_in += bytes;
    auto* device = reinterpret_cast<void*>(to);
    // A device that reads ordinary memory itself does so when it gets there, not when it is told to.
    if (is_pinned(from) || state().reads_pageable)
        return enqueue(*stream, [=] { return emulator_write(device, from, bytes), Result::Success; });
    std::string copy(static_cast<const char*>(from), bytes);
    return enqueue(*stream, [=] { return emulator_write(device, copy.data(), bytes), Result::Success; });
}
EXPORT Result cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    ENTER();
    if (!is_device(from, bytes)) return fault(__func__, "a range that is no device memory");
    state().bytes_out += bytes;
    enqueue(*stream, [=] {
        size_t unwritten = emulator_read(to, reinterpret_cast<void*>(from), bytes);
        if (!unwritten) return Result::Success;
        fprintf(stderr, "fake driver: %zu of %zu bytes that are copied to the host were never written\n", unwritten, bytes);
        return Result::IllegalAddress;
    });
    if (!is_pinned(to)) {
        NOT_IN_CAPTURE();
        run_until(*stream, stream->queued);
    }
    return state().sticky;
}
/// CUDA_MEMCPY2D, of which only device to host is known.
struct Copy2D {
    size_t from_x, from_y;
    int from_kind;
    const void* from_host;
    uint64_t from_device;
    void* from_array;
    size_t from_pitch, to_x, to_y;
    int to_kind;
    void* to_host;
    uint64_t to_device;
    void* to_array;
    size_t to_pitch, width, rows;
};
EXPORT Result cuMemcpy2DAsync_v2(const Copy2D* wanted, Stream* stream) {
    ENTER();
    const Copy2D copy = *wanted;
    if (copy.from_kind != 2 || copy.to_kind != 1 || !is_device(copy.from_device, copy.from_pitch * (copy.rows - 1) + copy.width) || !is_pinned(copy.to_host))
        return fault(__func__, "a range that is no device memory");
    state().bytes_out += copy.width * copy.rows;
    // Rows are as long as the longest needs; what the others did not write is nobody's to read.
    return enqueue(*stream, [=] {
        for (size_t row = 0; row < copy.rows; row++)
            emulator_read(static_cast<char*>(copy.to_host) + row * copy.to_pitch, reinterpret_cast<void*>(copy.from_device + row * copy.from_pitch), copy.width);
        return Result::Success;
    });
}
EXPORT Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
    ENTER();
    if (!is_device(to, bytes) || !is_device(from, bytes)) return fault(__func__, "a range that is no device memory");
    return enqueue(*stream, [=] { return emulator_write(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), Result::Success; });
}

EXPORT Result cuStreamCreate(Stream** stream, unsigned) {
    ENTER();
    *stream = new Stream;
    state().streams.insert(*stream);
    return Result::Success;
}
EXPORT Result cuStreamSynchronize(Stream* stream) {
    ENTER();
    NOT_IN_CAPTURE();
    run_until(*stream, stream->queued);
    return state().sticky;
}
/// What is queued stays so: a question runs nothing.
EXPORT Result cuStreamQuery(Stream* stream) {
    ENTER();
    NOT_IN_CAPTURE();
    if (state().sticky != Result::Success) return state().sticky;
    return stream->done < stream->queued ? Result::NotReady : Result::Success;
}
EXPORT Result cuStreamDestroy_v2(Stream* stream) {
    ENTER();
    run_until(*stream, stream->queued);
    state().streams.erase(stream);
    delete stream;
    return Result::Success;
}
EXPORT Result cuEventCreate(Event** event, unsigned) {
    ENTER();
    *event = new Event;
    return Result::Success;
}
EXPORT Result cuEventRecord(Event* event, Stream* stream) {
    ENTER();
    NOT_IN_CAPTURE();
    event->stream = stream;
    event->position = stream->queued;
    event->was_asked = false;
    event->number = ++state().events;
    return Result::Success;
}
/// Not ready at the first look, then it is: whoever does not look again sees old memory.
EXPORT Result cuEventQuery(Event* event) {
    ENTER();
    NOT_IN_CAPTURE();
    if (!event->stream) return Result::Success;
    const bool hangs = state().hangs_from && event->number >= state().hangs_from;
    if (hangs || !std::exchange(event->was_asked, true)) return Result::NotReady;
    run_until(*event->stream, event->position);
    return state().sticky;
}
EXPORT Result cuEventDestroy_v2(Event* event) {
    ENTER();
    if (event->stream) run_until(*event->stream, event->position);
    delete event;
    return Result::Success;
}

/// Any image will do, machine code or, if the device takes them, what nvcc makes for several: the kernels are those that the
/// emulator holds.
EXPORT Result cuModuleLoadData(void** module, const void* image) {
    ENTER();
    if (!image) return Result::InvalidValue;
    const bool is_fatbin = !memcmp(image, "\x50\xed\x55\xba", 4), is_elf = !memcmp(image, "\x7f" "ELF", 4);
    if (!is_fatbin && !is_elf) return fault(__func__, "an image of no known kind");
    if (is_fatbin && !state().takes_fatbins) return Result::NoBinary;
    *module = &state();
    return Result::Success;
}
EXPORT Result cuModuleUnload(void*) {
    ENTER();
    return Result::Success;
}
EXPORT Result cuModuleGetFunction(Function** function, void*, const char* name) {
    ENTER();
    uint32_t sizes[64];
    size_t n = emulator_parameters(name, sizes, 64);
    if (n == SIZE_MAX) return Result::NotFound;
    Function& found = state().functions[name];
    found.name = name;
    found.sizes.assign(sizes, sizes + n);
    *function = &found;
    return Result::Success;
}
EXPORT Result cuFuncSetAttribute(Function* function, int attribute, int value) {
    ENTER();
    if (attribute != 8 || value < 0 || unsigned(value) > kOptInShared) return Result::InvalidValue;
    function->most_dynamic = value;
    return Result::Success;
}
EXPORT Result cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream* stream,
                             void** arguments, void**) {
    ENTER();
    if (!gx || !gy || !gz || gy > 65535 || gz > 65535 || !bx || bx * by * bz > 1024) return fault(f->name.c_str(), "a grid or block no device takes");
    const bool asked = f->most_dynamic >= 0;
    if (shared > (asked ? unsigned(f->most_dynamic) : kFreeShared)) return fault(f->name.c_str(), "more shared memory than was asked for");
    std::vector<std::string> values;
    for (size_t i = 0; i < f->sizes.size(); i++) values.emplace_back(static_cast<char*>(arguments[i]), f->sizes[i]);
    state().launches++;
    return enqueue(*stream, [=]() mutable {
        const uint32_t grid[] = {gx, gy, gz}, block[] = {bx, by, bz};
        // Aligned copies: a kernel reads a pointer as a pointer.
        std::vector<uint64_t> words(values.size());
        std::vector<void*> pointers(values.size());
        for (size_t i = 0; i < values.size(); i++) {
            memcpy(&words[i], values[i].data(), values[i].size());
            pointers[i] = &words[i];
        }
        char text[1024];
        uint64_t traffic[2];
        // What a kernel has of it besides is known when it runs; a driver knows before, and refuses the launch.
        emulator_limit_shared(asked ? kOptInShared : kFreeShared);
        if (!emulator_launch(f->name.c_str(), grid, block, shared, pointers.data(), pointers.size(), state().order, text, sizeof text, traffic)) return Result::Success;
        fprintf(stderr, "fake driver: %s\n", text);
        return Result::LaunchFailed;
    });
}

EXPORT Result cuStreamBeginCapture_v2(Stream* stream, int) {
    ENTER();
    NOT_IN_CAPTURE();
    stream->graph = new Graph;
    state().capturing = true;
    return Result::Success;
}
EXPORT Result cuStreamEndCapture(Stream* stream, Graph** graph) {
    ENTER();
    if (!stream->graph) return fault(__func__, "no capture");
    *graph = std::exchange(stream->graph, nullptr);
    state().capturing = false;
    return Result::Success;
}
EXPORT Result cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
    ENTER();
    *executable = new Graph(*graph);
    return Result::Success;
}
EXPORT Result cuGraphLaunch(Graph* executable, Stream* stream) {
    ENTER();
    state().graph_launches++;
    for (const Operation& operation : *executable) enqueue(*stream, operation);
    return Result::Success;
}
EXPORT Result cuGraphDestroy(Graph* graph) {
    ENTER();
    delete graph;
    return Result::Success;
}
EXPORT Result cuGraphExecDestroy(Graph* executable) {
    ENTER();
    delete executable;
    return Result::Success;
}

// For libraries that compute on the device (cublaslt/): their calls are counted and fail as the driver's.
EXPORT int fake_driver_enter(const char* name) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    return int(state().enter(name));
}
/// Whether `bytes` at `at` are device memory.
EXPORT int fake_driver_holds(uint64_t at, size_t bytes) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    return is_device(at, bytes);
}
/// Queues `run`, which gives a CUresult, with a copy of its data; 0 when there is no such stream.
EXPORT int fake_driver_enqueue(Stream* stream, int (*run)(const void*), const void* data, size_t bytes) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    if (!state().streams.count(stream)) return 0;
    std::string copy(static_cast<const char*>(data), bytes);
    enqueue(*stream, [=] { return Result(run(copy.data())); });
    return 1;
}

EXPORT Result cuGetErrorName(Result code, const char** text) {
    *text = nullptr;
    ENTER();
    switch (code) {
        case Result::OutOfMemory: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case Result::NoDevice: *text = "CUDA_ERROR_NO_DEVICE"; break;
        case Result::NoBinary: *text = "CUDA_ERROR_NO_BINARY_FOR_GPU"; break;
        case Result::IllegalAddress: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        case Result::LaunchFailed: *text = "CUDA_ERROR_LAUNCH_FAILED"; break;
        default: *text = "CUDA_ERROR"; break;
    }
    return Result::Success;
}
EXPORT Result cuGetErrorString(Result, const char** text) {
    *text = "an error of the fake driver";
    return Result::Success;
}
