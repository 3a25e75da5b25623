// How tests look into the fake driver and make it fail: in the process through these functions, in another one by FAKE_CUDA_*.
#include "driver.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace fake {

/// From this code on, CUDA's errors of kernels stay until the process ends.
static bool is_sticky(Result code) { return int(code) >= 700 && int(code) < 800; }

State::State() {
    auto number = [](const char* name, auto& value) {
        if (const char* text = getenv(name)) value = std::remove_reference_t<decltype(value)>(strtoull(text, nullptr, 10));
    };
    number("FAKE_CUDA_DEVICES", n_devices);
    // As the real one: those named before the first that is not there.
    if (const char* shown = getenv("CUDA_VISIBLE_DEVICES")) {
        int n_shown = 0, ordinal = 0, n_read = 0;
        while (sscanf(shown, "%d%n", &ordinal, &n_read) == 1 && ordinal >= 0 && ordinal < n_devices) {
            ++n_shown, shown += n_read;
            if (*shown != ',') break;
            ++shown;
        }
        n_devices = n_shown;
    }
    number("FAKE_CUDA_VERSION", version);
    // One a device: 75,90.
    if (const char* text = getenv("FAKE_CUDA_CAPABILITY")) {
        capabilities.clear();
        int one = 0, n_read = 0;
        while (sscanf(text, "%d%n", &one, &n_read) == 1) {
            capabilities.push_back(one), text += n_read;
            if (*text != ',') break;
            ++text;
        }
        if (capabilities.empty()) fprintf(stderr, "fake driver: FAKE_CUDA_CAPABILITY wants numbers\n"), abort();
    }
    number("FAKE_CUDA_MEMORY", memory);
    number("FAKE_CUDA_HANG", hangs_from);
    number("FAKE_CUDA_PAGEABLE", reads_pageable);
    number("FAKE_CUDA_FATBINS", takes_fatbins);
    // name:number of the call:code
    if (const char* text = getenv("FAKE_CUDA_FAIL")) {
        const char* colon = strchr(text, ':');
        unsigned long long at = 0;
        int code = 0;
        if (!colon || sscanf(colon, ":%llu:%d", &at, &code) != 2) {
            fprintf(stderr, "fake driver: FAKE_CUDA_FAIL wants NAME:CALL:CODE\n");
            abort();
        }
        fails.assign(text, colon), fails_at = at, failure = Result(code);
    }
}

Result State::enter(const char* name) {
    uint64_t call = ++calls[name];
    // Releasing works even on a device that failed, so that a process can end, and so does naming what failed.
    const bool releases = strstr(name, "GetError") || strstr(name, "Free") || strstr(name, "Destroy") || strstr(name, "Release") || strstr(name, "Unload");
    const bool told = fails == name && call == fails_at;
    if (told && is_sticky(failure)) sticky = failure;
    const Result result = told ? failure : releases ? Result::Success : sticky;
    // A capture that cannot be ended is over all the same.
    if (result != Result::Success && !strcmp(name, "cuStreamEndCapture")) {
        capturing = false;
        for (Stream* stream : streams) stream->graph = nullptr;
    }
    return result;
}

}  // namespace fake

using namespace fake;
extern "C" void emulator_write(void* to, const void* from, size_t bytes);
extern "C" void emulator_release(void* base);
#define EXPORT extern "C" __attribute__((visibility("default")))

/// Forgets counts, failures and memory that a hung device kept; the device works again.
EXPORT void fake_driver_reset() {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    // What a hanging device left undone is of memory that goes now.
    for (Stream* stream : state().streams) {
        stream->queue.clear();
        stream->done = stream->queued;
    }
    for (auto [base, bytes] : state().device) emulator_release(reinterpret_cast<void*>(base));
    state().device.clear();
    state().used = 0;
    state().calls.clear();
    state().bytes_in = state().bytes_out = state().launches = state().graph_launches = 0;
    state().fails.clear();
    state().sticky = Result::Success;
    state().reads_pageable = state().capturing = false;
    state().hangs_from = 0;
    state().memory = size_t(1) << 30;
    state().n_devices = 1, state().version = 13000, state().capabilities = {90}, state().order = 0;
}
EXPORT void fake_driver_fail(const char* name, uint64_t call, int code) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    state().fails = name, state().fails_at = call, state().failure = Result(code);
}
EXPORT void fake_driver_set(const char* what, uint64_t value) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    if (!strcmp(what, "hang")) state().hangs_from = value ? state().events + value : 0;
    if (!strcmp(what, "pageable")) state().reads_pageable = value != 0;
    if (!strcmp(what, "memory")) state().memory = value;
    if (!strcmp(what, "order")) state().order = value;
    if (!strcmp(what, "devices")) state().n_devices = int(value);
    if (!strcmp(what, "version")) state().version = int(value);
    if (!strcmp(what, "capability")) state().capabilities = {int(value)};
}
/// {bytes to the device, bytes to the host, launches, launches of graphs, allocations alive, their bytes, what these take of
/// its memory}
EXPORT void fake_driver_counts(uint64_t out[7]) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    const uint64_t counts[] = {state().bytes_in, state().bytes_out, state().launches, state().graph_launches, state().device.size(), state().used, taken(0)};
    memcpy(out, counts, sizeof counts);
}
/// Makes memory that nobody wrote pass for written: each byte is 0xff.
EXPORT void fake_driver_fill() {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    for (auto [base, bytes] : state().device) {
        auto* at = reinterpret_cast<char*>(base);
        emulator_write(at, std::string(at, bytes).data(), bytes);
    }
}
/// The `index`-th entry point that was called, by name, and how often; 0 past the last.
EXPORT uint64_t fake_driver_calls(size_t index, char* name, size_t capacity) {
    std::lock_guard<std::recursive_mutex> lock(state().mutex);
    if (index >= state().calls.size()) return 0;
    auto at = state().calls.begin();
    while (index--) ++at;
    snprintf(name, capacity, "%s", at->first.c_str());
    return at->second;
}
