// Involution on the CPU, forward and backward, for channels-last tensors. Compiled on first use by involution_cpu.py.
//
//   out[n, oy, ox, g, c] = sum over i, j of kernel[n, oy, ox, g, i, j] * x[n, s*oy + i - p, s*ox + j - p, g, c]
//
// A group has 16 channels, which lie side by side: one 512-bit register of float32. So a tap costs one broadcast and
// one fused multiply-add, the input is read where it lies (no shifted or unfolded copy), and sums stay in registers.

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t C = 16;  // channels of a group

typedef float Floats __attribute__((vector_size(4 * C)));
typedef double Doubles __attribute__((vector_size(8 * C)));
typedef uint32_t Words __attribute__((vector_size(4 * C)));
typedef uint16_t Halves __attribute__((vector_size(2 * C)));

struct BFloat16 { uint16_t bits; };

template <class T> struct Type;
template <> struct Type<float> { typedef float Scalar; typedef Floats Vector; };
template <> struct Type<double> { typedef double Scalar; typedef Doubles Vector; };
template <> struct Type<BFloat16> { typedef float Scalar; typedef Floats Vector; };

inline float scalar(const float* p) { return *p; }
inline double scalar(const double* p) { return *p; }
inline float scalar(const BFloat16* p) {
    uint32_t word = uint32_t(p->bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
}

inline Floats load(const float* p) { Floats v; std::memcpy(&v, p, sizeof v); return v; }
inline Doubles load(const double* p) { Doubles v; std::memcpy(&v, p, sizeof v); return v; }
inline Floats load(const BFloat16* p) {
    Halves halves;
    std::memcpy(&halves, p, sizeof halves);
    Words words = __builtin_convertvector(halves, Words) << 16;
    Floats v;
    std::memcpy(&v, &words, sizeof v);
    return v;
}

inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
inline void store(double* p, Doubles v) { std::memcpy(p, &v, sizeof v); }
// Round to nearest even; a NaN stays one because its quiet bit is set.
inline uint16_t rounded(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    if (value != value) return uint16_t(word >> 16) | 0x40;
    return uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}
inline void store(BFloat16* p, Floats v) { for (int64_t c = 0; c < C; ++c) p[c].bits = rounded(v[c]); }
inline void put(float* p, float v) { *p = v; }
inline void put(double* p, double v) { *p = v; }
inline void put(BFloat16* p, float v) { p->bits = rounded(v); }

// v with its parts of 8, 4, 2 and 1 channels exchanged, so that four additions leave the sum in every channel.
#ifdef __clang__
#define EXCHANGE(v, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
    __builtin_shufflevector(v, v, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
#else
#define EXCHANGE(v, ...) __builtin_shuffle(v, (typename Index<V>::Vector){__VA_ARGS__})
template <class V> struct Index;
template <> struct Index<Floats> { typedef int32_t Vector __attribute__((vector_size(4 * C))); };
template <> struct Index<Doubles> { typedef int64_t Vector __attribute__((vector_size(8 * C))); };
#endif

template <class V, class S> inline S sum(V v) {
    v += EXCHANGE(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
    v += EXCHANGE(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
    v += EXCHANGE(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    return v[0] + v[1];
}

struct Sizes {
    int64_t batch, height, width, out_height, out_width, groups, kernel, stride;
};

// The part [first, last) of a window's rows or columns that lies inside the image; the window starts at `start`.
inline void inside(int64_t start, int64_t size, int64_t kernel, int64_t& first, int64_t& last) {
    first = start < 0 ? -start : 0;
    last = start + kernel > size ? size - start : kernel;
}

// K is the kernel's size where it is known to the compiler, 0 elsewhere.
template <class T, int64_t K>
void forward(const T* x, const T* kernel, T* out, const Sizes& s, int threads) {
    typedef typename Type<T>::Vector Vector;
    const int64_t k = K ? K : s.kernel, pad = (k - 1) / 2, row = s.width * s.groups * C;
#pragma omp parallel for collapse(2) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t oy = 0; oy < s.out_height; ++oy) {
            const int64_t y = oy * s.stride - pad;
            int64_t top, bottom;
            inside(y, s.height, k, top, bottom);
            for (int64_t ox = 0; ox < s.out_width; ++ox) {
                const int64_t z = ox * s.stride - pad;
                int64_t left, right;
                inside(z, s.width, k, left, right);
                const bool whole = top == 0 && bottom == k && left == 0 && right == k;
                const int64_t pixel = (n * s.out_height + oy) * s.out_width + ox;
                for (int64_t g = 0; g < s.groups; ++g) {
                    const T* taps = kernel + (pixel * s.groups + g) * k * k;
                    const T* corner = x + ((n * s.height + y) * s.width + z) * s.groups * C + g * C;
                    Vector total[4] = {};  // four sums: one alone would wait for its own result at each step
                    if (K && whole) {
#pragma GCC unroll 8
                        for (int64_t i = 0; i < K; ++i)
#pragma GCC unroll 8
                            for (int64_t j = 0; j < K; ++j)
                                total[(i * K + j) % 4] += scalar(taps + i * K + j) * load(corner + i * row + j * s.groups * C);
                    } else {
                        for (int64_t i = top; i < bottom; ++i)
                            for (int64_t j = left; j < right; ++j)
                                total[j % 4] += scalar(taps + i * k + j) * load(corner + i * row + j * s.groups * C);
                    }
                    store(out + (pixel * s.groups + g) * C, (total[0] + total[1]) + (total[2] + total[3]));
                }
            }
        }
}

// Gradients of input and kernel in one pass over the outputs. A thread owns whole (image, group) pairs, so that no two
// write to one place. `grad_x` has the type of the sums, and starts at zero.
template <class T, int64_t K>
void backward(const T* x, const T* kernel, const T* grad, typename Type<T>::Scalar* grad_x, T* grad_kernel,
              const Sizes& s, int threads) {
    typedef typename Type<T>::Vector Vector;
    typedef typename Type<T>::Scalar Scalar;
    const int64_t k = K ? K : s.kernel, pad = (k - 1) / 2, row = s.width * s.groups * C;
#pragma omp parallel for collapse(2) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < s.batch; ++n)
        for (int64_t g = 0; g < s.groups; ++g)
            for (int64_t oy = 0; oy < s.out_height; ++oy) {
                const int64_t y = oy * s.stride - pad;
                int64_t top, bottom;
                inside(y, s.height, k, top, bottom);
                for (int64_t ox = 0; ox < s.out_width; ++ox) {
                    const int64_t z = ox * s.stride - pad;
                    int64_t left, right;
                    inside(z, s.width, k, left, right);
                    const bool whole = top == 0 && bottom == k && left == 0 && right == k;
                    const int64_t pixel = (n * s.out_height + oy) * s.out_width + ox;
                    const T* taps = kernel + (pixel * s.groups + g) * k * k;
                    T* grad_taps = grad_kernel + (pixel * s.groups + g) * k * k;
                    const int64_t corner = ((n * s.height + y) * s.width + z) * s.groups * C + g * C;
                    const Vector outer = load(grad + (pixel * s.groups + g) * C);
                    if (K && whole) {
#pragma GCC unroll 8
                        for (int64_t i = 0; i < K; ++i)
#pragma GCC unroll 8
                            for (int64_t j = 0; j < K; ++j) {
                                const int64_t at = corner + i * row + j * s.groups * C;
                                store(grad_x + at, load(grad_x + at) + scalar(taps + i * K + j) * outer);
                                put(grad_taps + i * K + j, sum<Vector, Scalar>(outer * load(x + at)));
                            }
                    } else {
                        for (int64_t t = 0; t < k * k; ++t) put(grad_taps + t, Scalar(0));
                        for (int64_t i = top; i < bottom; ++i)
                            for (int64_t j = left; j < right; ++j) {
                                const int64_t at = corner + i * row + j * s.groups * C;
                                store(grad_x + at, load(grad_x + at) + scalar(taps + i * k + j) * outer);
                                put(grad_taps + i * k + j, sum<Vector, Scalar>(outer * load(x + at)));
                            }
                    }
                }
            }
}

}  // namespace

#define INVOLUTION(NAME, T)                                                                                       \
    extern "C" void forward_##NAME(const void* x, const void* kernel, void* out, const Sizes* s, int threads) {  \
        auto run = s->kernel == 7 ? forward<T, 7> : s->kernel == 5 ? forward<T, 5>                               \
                   : s->kernel == 3 ? forward<T, 3> : forward<T, 0>;                                             \
        run((const T*)x, (const T*)kernel, (T*)out, *s, threads);                                                \
    }                                                                                                            \
    extern "C" void backward_##NAME(const void* x, const void* kernel, const void* grad, void* grad_x,           \
                                    void* grad_kernel, const Sizes* s, int threads) {                            \
        auto run = s->kernel == 7 ? backward<T, 7> : s->kernel == 5 ? backward<T, 5>                             \
                   : s->kernel == 3 ? backward<T, 3> : backward<T, 0>;                                           \
        run((const T*)x, (const T*)kernel, (const T*)grad, (Type<T>::Scalar*)grad_x, (T*)grad_kernel, *s,        \
            threads);                                                                                            \
    }

INVOLUTION(float32, float)
INVOLUTION(float64, double)
INVOLUTION(bfloat16, BFloat16)
