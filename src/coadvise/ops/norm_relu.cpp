// BatchNorm in training and the ReLU after it, forward and backward, for channels-last tensors: (rows, channels) with
// rows = batch x height x width. Compiled on first use by norm_relu.py.
//
// Forward reads x twice and writes y; backward reads x and the gradient twice and writes one. Whether the ReLU let a
// value through is computed again from x, so that x is all that is kept. Sums over rows are those of blocks of a fixed
// size, in float32 inside of a block and in float64 over the blocks: the same for any number of threads.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t ROWS = 256;  // of a block: its part of x stays in the cache while tiles of channels are summed

struct BFloat16 { uint16_t bits; };

inline float get(float v) { return v; }
inline float get(BFloat16 v) {
    const uint32_t word = uint32_t(v.bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}
inline void put(float& to, float v) { to = v; }
// Round to nearest even; a NaN stays one because its quiet bit is set.
inline void put(BFloat16& to, float v) {
    uint32_t word;
    std::memcpy(&word, &v, 4);
    const uint32_t even = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
    to.bits = uint16_t(v != v ? (word >> 16) | 0x40 : even);
}

// Sums of two values of each channel, over the rows of each block: of W channels from `c` on.
template <int64_t W, class Two>
inline void sum_tile(int64_t from, int64_t to, int64_t c, double* first, double* second, Two two) {
    float a[W] = {}, b[W] = {};
    for (int64_t row = from; row < to; ++row)
#pragma GCC ivdep
        for (int64_t i = 0; i < W; ++i) two(row, c + i, a[i], b[i]);
    for (int64_t i = 0; i < W; ++i) { first[c + i] = a[i]; second[c + i] = b[i]; }
}

template <class Two>
void sums(int64_t rows, int64_t channels, double* first, double* second, int threads, Two two) {
    const int64_t blocks = (rows + ROWS - 1) / ROWS;
    std::vector<double> all(2 * blocks * channels);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t from = block * ROWS, to = from + ROWS < rows ? from + ROWS : rows;
        double *a = all.data() + 2 * block * channels, *b = a + channels;
        int64_t c = 0;  // whole rows of 64 channels are read in the order of memory
        for (; c + 64 <= channels; c += 64) sum_tile<64>(from, to, c, a, b, two);
        for (; c + 32 <= channels; c += 32) sum_tile<32>(from, to, c, a, b, two);
    }
    for (int64_t c = 0; c < channels; ++c) first[c] = second[c] = 0;
    for (int64_t block = 0; block < blocks; ++block)
        for (int64_t c = 0; c < channels; ++c) {
            first[c] += all[2 * block * channels + c];
            second[c] += all[(2 * block + 1) * channels + c];
        }
}

// One function of every value, 32 channels of a row at a time.
template <class One>
void each(int64_t rows, int64_t channels, int threads, One one) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t c = 0; c < channels; c += 32)
#pragma GCC ivdep
            for (int64_t i = 0; i < 32; ++i) one(row * channels + c + i, c + i);
}

// Sum of x and of its square about `shift`, a value near x of each channel, so that no digits are lost.
template <class T>
void statistics(const T* x, const float* shift, double* first, double* second, int64_t rows, int64_t channels,
                int threads) {
    sums(rows, channels, first, second, threads, [=](int64_t row, int64_t c, float& a, float& b) {
        const float v = get(x[row * channels + c]) - shift[c];
        a += v;
        b += v * v;
    });
}

// y = max(0, x * scale + offset); a NaN stays one.
template <class T>
void forward(const T* x, const float* scale, const float* offset, T* y, int64_t rows, int64_t channels, int threads) {
    each(rows, channels, threads, [=](int64_t at, int64_t c) {
        const float v = get(x[at]) * scale[c] + offset[c];
        put(y[at], v < 0 ? 0.f : v);
    });
}

// Sums of the gradient behind the ReLU, and of it times (x - mean).
template <class T>
void reduced(const T* x, const T* grad, const float* scale, const float* offset, const float* mean, double* first,
             double* second, int64_t rows, int64_t channels, int threads) {
    sums(rows, channels, first, second, threads, [=](int64_t row, int64_t c, float& a, float& b) {
        const float v = get(x[row * channels + c]), g = get(grad[row * channels + c]);
        const float passed = v * scale[c] + offset[c] > 0 ? g : 0.f;
        a += passed;
        b += passed * (v - mean[c]);
    });
}

// out = scale * passed + slope * (x - mean) + rest, by channel.
template <class T>
void backward(const T* x, const T* grad, const float* scale, const float* offset, const float* mean, const float* slope,
              const float* rest, T* out, int64_t rows, int64_t channels, int threads) {
    each(rows, channels, threads, [=](int64_t at, int64_t c) {
        const float v = get(x[at]), g = get(grad[at]);
        const float passed = v * scale[c] + offset[c] > 0 ? g : 0.f;
        put(out[at], scale[c] * passed + (slope[c] * (v - mean[c]) + rest[c]));
    });
}

}  // namespace

#define NORM_RELU(NAME, T)                                                                                            \
    extern "C" void statistics_##NAME(const void* x, const void* shift, void* first, void* second, int64_t rows,     \
                                      int64_t channels, int threads) {                                               \
        statistics((const T*)x, (const float*)shift, (double*)first, (double*)second, rows, channels, threads);      \
    }                                                                                                                 \
    extern "C" void forward_##NAME(const void* x, const void* scale, const void* offset, void* y, int64_t rows,      \
                                   int64_t channels, int threads) {                                                  \
        forward((const T*)x, (const float*)scale, (const float*)offset, (T*)y, rows, channels, threads);             \
    }                                                                                                                 \
    extern "C" void reduced_##NAME(const void* x, const void* grad, const void* scale, const void* offset,           \
                                   const void* mean, void* first, void* second, int64_t rows, int64_t channels,      \
                                   int threads) {                                                                    \
        reduced((const T*)x, (const T*)grad, (const float*)scale, (const float*)offset, (const float*)mean,          \
                (double*)first, (double*)second, rows, channels, threads);                                           \
    }                                                                                                                 \
    extern "C" void backward_##NAME(const void* x, const void* grad, const void* scale, const void* offset,           \
                                    const void* mean, const void* slope, const void* rest, void* out, int64_t rows,  \
                                    int64_t channels, int threads) {                                                 \
        backward((const T*)x, (const T*)grad, (const float*)scale, (const float*)offset, (const float*)mean,         \
                 (const float*)slope, (const float*)rest, (T*)out, rows, channels, threads);                         \
    }

NORM_RELU(float32, float)
NORM_RELU(bfloat16, BFloat16)
