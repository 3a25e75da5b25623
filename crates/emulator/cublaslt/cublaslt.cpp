// A libcublasLt.so.13 for the fake driver: what this project calls of it, as strict as the header says, or stricter. Products
// are queued on the driver's lazy streams, read only what was written, and add from the last column to the first, an order that
// no kernel of ours has. Calls are counted and made to fail as the driver's own (control.cpp).
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <vector>

extern "C" {
// The fake driver's.
int fake_driver_enter(const char* name);
int fake_driver_holds(uint64_t at, size_t bytes);
int fake_driver_enqueue(void* stream, int (*run)(const void*), const void* data, size_t bytes);
void emulator_write(void* to, const void* from, size_t bytes);
size_t emulator_read(void* to, const void* from, size_t bytes);
}
#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

/// cublasStatus_t, as far as it is given.
enum Status { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, BF16 = 14 };

struct Handle {};
struct Operation { int compute, scale, transposed[2] = {0, 0}; };
struct Layout { int type; uint64_t rows, columns; int64_t stride; };
struct Preference { uint64_t workspace = 0; uint32_t alignments[4] = {256, 256, 256, 256}; };
/// What a heuristic says, in the eight words of cublasLtMatmulAlgo_t.
struct Algorithm { uint64_t magic, m, n, k, stride, workspace; uint32_t alignments[4]; };
static_assert(sizeof(Algorithm) == 64);
struct Heuristic { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };
constexpr uint64_t kMagic = 0x656b6166;
/// Wanted of the workspace.
constexpr size_t kWorkspace = 4096;

/// Everything that was made and not released.
std::set<const void*>& alive() {
    static std::set<const void*>& all = *new std::set<const void*>;
    return all;
}

int fault(const char* call, const char* what) {
    fprintf(stderr, "fake cuBLASLt: %s: %s\n", call, what);
    return INVALID_VALUE;
}

template <typename T>
int make(T** out, T value) {
    *out = new T(value);
    alive().insert(*out);
    return SUCCESS;
}

template <typename T>
int release(const char* call, T* it) {
    if (!alive().erase(it)) return fault(call, "something that is not there");
    delete it;
    return SUCCESS;
}

/// The errors of the driver are none of this library's.
int entered(const char* name) {
    const int told = fake_driver_enter(name);
    return told >= 100 ? EXECUTION_FAILED : told;
}

#define ENTER() \
    if (int told = entered(__func__)) return told
#define WANT(condition, what) \
    if (!(condition)) return fault(__func__, what)

struct Product {
    uint64_t a, b, y, m, n, k, stride, workspace, workspace_bytes;
    bool adds;
};

/// Of what is queued, at last.
int compute(const void* data) {
    Product p;
    memcpy(&p, data, sizeof p);
    std::vector<uint16_t> a(p.m * p.k), b(p.n * p.k);
    size_t unwritten = emulator_read(a.data(), reinterpret_cast<void*>(p.a), 2 * a.size()) + emulator_read(b.data(), reinterpret_cast<void*>(p.b), 2 * b.size());
    std::vector<float> row(p.m);
    auto number = [](uint16_t bits) {
        const uint32_t word = uint32_t(bits) << 16;
        float value;
        memcpy(&value, &word, 4);
        return value;
    };
    // What lies in the workspace is lost.
    const std::string garbage(kWorkspace, '\xff');
    emulator_write(reinterpret_cast<void*>(p.workspace), garbage.data(), garbage.size());
    for (uint64_t token = 0; token < p.n; token++) {
        void* at = reinterpret_cast<void*>(p.y + 4 * token * p.stride);
        if (p.adds) unwritten += emulator_read(row.data(), at, 4 * p.m);
        for (uint64_t r = 0; r < p.m; r++) {
            float sum = 0;
            for (uint64_t i = p.k; i-- > 0;) sum += number(a[r * p.k + i]) * number(b[token * p.k + i]);
            row[r] = p.adds ? row[r] + sum : sum;
        }
        emulator_write(at, row.data(), 4 * p.m);
    }
    if (!unwritten) return 0;
    fprintf(stderr, "fake cuBLASLt: %zu bytes of a product were never written\n", unwritten);
    return 700;  // CUDA_ERROR_ILLEGAL_ADDRESS
}

}  // namespace

EXPORT size_t cublasLtGetVersion() {
    entered(__func__);
    return 130002;
}
EXPORT int cublasLtCreate(Handle** handle) {
    ENTER();
    return make(handle, Handle());
}
EXPORT int cublasLtDestroy(Handle* handle) {
    ENTER();
    return release(__func__, handle);
}
EXPORT int cublasLtMatmulDescCreate(Operation** operation, int compute, int scale) {
    ENTER();
    return make(operation, Operation{compute, scale});
}
EXPORT int cublasLtMatmulDescSetAttribute(Operation* operation, int attribute, const int* value, size_t bytes) {
    ENTER();
    WANT(alive().count(operation) && (attribute == 3 || attribute == 4) && bytes == 4, "an attribute nobody needed yet");
    operation->transposed[attribute - 3] = *value;
    return SUCCESS;
}
EXPORT int cublasLtMatmulDescDestroy(Operation* operation) {
    ENTER();
    return release(__func__, operation);
}
EXPORT int cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    ENTER();
    return make(layout, Layout{type, rows, columns, stride});
}
EXPORT int cublasLtMatrixLayoutDestroy(Layout* layout) {
    ENTER();
    return release(__func__, layout);
}
EXPORT int cublasLtMatmulPreferenceCreate(Preference** preference) {
    ENTER();
    return make(preference, Preference());
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(Preference* preference, int attribute, const void* value, size_t bytes) {
    ENTER();
    WANT(alive().count(preference), "something that is not there");
    if (attribute == 1 && bytes == 8) return memcpy(&preference->workspace, value, 8), SUCCESS;
    WANT(attribute >= 5 && attribute <= 8 && bytes == 4, "an attribute nobody needed yet");
    memcpy(&preference->alignments[attribute - 5], value, 4);
    return SUCCESS;
}
EXPORT int cublasLtMatmulPreferenceDestroy(Preference* preference) {
    ENTER();
    return release(__func__, preference);
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(Handle* handle, const Operation* operation, const Layout* a, const Layout* b, const Layout* c, const Layout* d,
                                          const Preference* preference, int wanted, Heuristic* out, int* n) {
    ENTER();
    for (const void* it : std::vector<const void*>{handle, operation, a, b, c, d, preference}) WANT(alive().count(it), "something that is not there");
    WANT(wanted >= 1, "no result is wanted");
    WANT(operation->compute == 68 && operation->scale == F32, "sums that are not in f32");
    WANT(operation->transposed[0] == 1 && operation->transposed[1] == 0, "only A^T B is known");
    WANT(a->type == BF16 && b->type == BF16 && c->type == F32 && d->type == F32, "only bf16 to f32 is known");
    const uint64_t m = a->columns, n_columns = b->columns, k = a->rows;
    WANT(m && n_columns && k && b->rows == k, "matrices that do not fit together");
    for (const Layout* y : {c, d}) WANT(y->rows == m && y->columns == n_columns && y->stride == c->stride, "results that do not fit");
    for (const Layout* it : {a, b, c, d}) WANT(it->stride >= int64_t(it->rows), "columns that overlap");
    WANT(a->stride == int64_t(k) && b->stride == int64_t(k), "gaps between columns are not known");
    for (uint32_t alignment : preference->alignments) WANT(alignment && !(alignment & (alignment - 1)), "an alignment that is none");
    *n = 0;
    // Tensor cores want whole vectors of 16 bytes.
    if (k % 8 || c->stride % 4 || preference->workspace < kWorkspace) return NOT_SUPPORTED;
    for (uint32_t alignment : preference->alignments)
        if (alignment < 16) return NOT_SUPPORTED;
    *out = Heuristic{{kMagic, m, n_columns, k, uint64_t(c->stride), kWorkspace, {}}, kWorkspace, SUCCESS, 1, {}};
    memcpy(out->algorithm.alignments, preference->alignments, sizeof preference->alignments);
    *n = 1;
    return SUCCESS;
}

EXPORT int cublasLtMatmul(Handle* handle, const Operation* operation, const float* alpha, uint64_t a, const Layout* of_a, uint64_t b, const Layout* of_b,
                          const float* beta, uint64_t c, const Layout* of_c, uint64_t d, const Layout* of_d, const Algorithm* algorithm, uint64_t workspace,
                          size_t workspace_bytes, void* stream) {
    ENTER();
    for (const void* it : std::vector<const void*>{handle, operation, of_a, of_b, of_c, of_d}) WANT(alive().count(it), "something that is not there");
    WANT(algorithm && algorithm->magic == kMagic, "an algorithm that no heuristic gave");
    const Algorithm& chosen = *algorithm;
    WANT(chosen.m == of_a->columns && chosen.n == of_b->columns && chosen.k == of_a->rows && chosen.stride == uint64_t(of_d->stride), "an algorithm for another shape");
    const uint64_t at[] = {a, b, c, d};
    for (int i = 0; i < 4; i++) WANT(at[i] % chosen.alignments[i] == 0, "an address less aligned than was promised");
    WANT(*alpha == 1 && (*beta == 0 || *beta == 1), "factors nobody needed yet");
    WANT(c == d, "C and D are apart");
    WANT(workspace_bytes >= chosen.workspace && workspace % 16 == 0 && fake_driver_holds(workspace, workspace_bytes), "a workspace that is none");
    const uint64_t y_bytes = 4 * ((chosen.n - 1) * chosen.stride + chosen.m);
    WANT(fake_driver_holds(a, 2 * chosen.m * chosen.k) && fake_driver_holds(b, 2 * chosen.n * chosen.k) && fake_driver_holds(d, y_bytes), "a matrix that is not in device memory");
    const Product product = {a, b, d, chosen.m, chosen.n, chosen.k, chosen.stride, workspace, workspace_bytes, *beta == 1};
    WANT(fake_driver_enqueue(stream, compute, &product, sizeof product), "no stream of the driver");
    return SUCCESS;
}
