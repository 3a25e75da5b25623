// What the fake driver knows; shared by its entry points and by what tests control it with.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace fake {

/// CUresult, as far as it is given.
enum class Result : int {
    Success = 0,
    InvalidValue = 1,
    OutOfMemory = 2,
    NoDevice = 100,
    InvalidDevice = 101,
    NoBinary = 209,
    NotFound = 500,
    NotReady = 600,
    IllegalAddress = 700,
    LaunchFailed = 719,
    CaptureUnsupported = 900,
};

using Operation = std::function<Result()>;
using Graph = std::vector<Operation>;

struct Stream {
    std::deque<Operation> queue;
    uint64_t queued = 0, done = 0;
    Graph* graph = nullptr;  ///< while it is captured
};

struct Event {
    Stream* stream = nullptr;
    uint64_t position = 0, number = 0;
    bool was_asked = false;
};

struct Function {
    std::string name;
    std::vector<uint32_t> sizes;
    int most_dynamic = -1;  ///< that was asked for
};

struct State {
    std::recursive_mutex mutex;
    // What the device is; FAKE_CUDA_* in the environment.
    int n_devices = 1, version = 13000;
    std::vector<int> capabilities = {90};  ///< by device; the last is that of all further ones
    size_t memory = size_t(1) << 30;
    uint64_t hangs_from = 0;  ///< the number of the event from which on none is ever done; 0: no such
    bool reads_pageable = false;  ///< copies of ordinary memory read it when they run
    bool takes_fatbins = true;
    uint64_t order = 0;
    // What there is.
    std::map<uint64_t, size_t> device, pinned;
    std::set<Stream*> streams;
    std::map<std::string, Function> functions;
    size_t used = 0;
    uint64_t events = 0;  ///< that were recorded
    bool capturing = false;
    Result sticky = Result::Success;
    // What was done since the last reset.
    std::map<std::string, uint64_t> calls;
    uint64_t bytes_in = 0, bytes_out = 0, launches = 0, graph_launches = 0;
    // Call number `fails_at` of `fails` gives `failure`.
    std::string fails;
    uint64_t fails_at = 0;
    Result failure = Result::Success;

    State();
    /// Counts a call; the error it must give instead of doing anything.
    Result enter(const char* name);
};

State& state();
/// What the device's pieces take of its memory, with one of so many bytes more unless they are 0.
size_t taken(size_t bytes);

}  // namespace fake
