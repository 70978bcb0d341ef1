// A transformer block on the CPU, forward and backward, a few images at a time. Compiled by block.py.
//
//   a = x + proj(attention(qkv(norm1(x)))),   out = a + fc2(gelu(fc1(norm2(a))))
//
// of the first `queries` tokens of each image, which look at all of them.
//
// What lies between two matrix products of some images fits into a core's cache, where it is read again by the next
// one. Products with weights are those of the library that PyTorch brings, or the matrix units' (matrix_units.h); all
// between them is done here.
//
// E is the type of both factors of the matrix products with weights: float, or bfloat16, to which they are rounded here;
// these products are summed in float32 all the same. Queries, keys, values, chances, what attention mixed, and of the hidden
// layer GELU and its slope are kept for the backward pass in this type, too. All else is float32.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <type_traits>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "matrix_units.h"

namespace {

// A vector is as wide as the processor's registers: wider ones compilers keep in memory (docs/log.md).
#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float V __attribute__((vector_size(BYTES)));
typedef int32_t I __attribute__((vector_size(BYTES)));
constexpr int64_t W = BYTES / 4;  // floats of a vector
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

inline V load(const float* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }

// bfloat16 is the upper half of a float32.
typedef uint16_t Half;
typedef Half H __attribute__((vector_size(BYTES / 2)));
typedef uint32_t U __attribute__((vector_size(BYTES)));
inline V load(const Half* p) { H h; std::memcpy(&h, p, sizeof h); return (V)(__builtin_convertvector(h, U) << 16); }
// To the nearest, of two equally near ones to the even one; what is no number stays none. Where the processor does it,
// denormal numbers become 0.
inline void store(Half* p, V v) {
#if BYTES == 64 && defined(__AVX512BF16__)
    const auto h = _mm512_cvtneps_pbh((__m512)v);
#else
    const U bits = (U)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const H h = __builtin_convertvector((U)(v == v ? (I)rounded : I{} + 0x7fc0), H);
#endif
    std::memcpy(p, &h, sizeof h);
}
inline void add(float* p, V v) { store(p, load(p) + v); }
inline V all(float x) { return V{} + x; }
inline V larger(V a, V b) { return a > b ? a : b; }  // b where one is no number

// v with its parts of 8, 4, 2 and 1 numbers exchanged: after four additions every number is the sum of all.
// Of the order of 16 numbers a narrower vector takes the first ones.
#if defined(__clang__)
#define ORDERED(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else
#define ORDERED(v, ...) __builtin_shuffle(v, (I){__VA_ARGS__})
#endif
#if BYTES == 64
#define EXCHANGE ORDERED
#elif BYTES == 32
#define EXCHANGE(v, a, b, c, d, e, f, g, h, ...) ORDERED(v, a, b, c, d, e, f, g, h)
#else
#define EXCHANGE(v, a, b, c, d, ...) ORDERED(v, a, b, c, d)
#endif
template <class F> inline V across(V v, F both) {
#if BYTES == 64
    v = both(v, EXCHANGE(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
#endif
#if BYTES >= 32
    v = both(v, EXCHANGE(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
#endif
    v = both(v, EXCHANGE(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return both(v, EXCHANGE(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
}
inline V sum(V v) { return across(v, [](V a, V b) { return a + b; }); }
inline V largest(V v) { return across(v, larger); }

// e^x for x ≤ 88 to 1e-7 of its value: 2^n · e^r with |r| ≤ log(2) / 2, the logarithm in two parts, e^r by its series. 0
// for x < −80, and so is nothing that is made of it a denormal number, which processors compute a hundred times slower.
// What is no number stays none.
inline V exponential(V x) {
    const I small = x < -80.0f;
    x = larger(all(-80.0f), x);
    const V shift = all(12582912.0f);  // 1.5 · 2^23: what is added to it is rounded to a whole number
    const V moved = x * 1.44269504f + shift, n = moved - shift;
    const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    V series = all(1.0f / 5040);
    for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) series = series * r + c;
    return (V)(((I)series + ((I)moved << 23)) & ~small);
}

// Distribution and density of the normal distribution, by formula 7.1.26 of Abramowitz and Stegun for erf (to 1.5e-7),
// which is also what PyTorch's GELU takes.
struct Normal { V below, density; };
inline Normal normal(V x) {
    const V size = x < 0.0f ? -x : x, power = exponential(x * x * -0.5f);
    const V t = 1.0f / (1.0f + size * (0.3275911f * 0.70710678f));
    const V series = ((((t * 1.061405429f - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    const V rest = series * power * 0.5f;
    return {x < 0.0f ? rest : 1.0f - rest, power * 0.39894228f};
}

// Of sgemm and its like, which take factors of another type.
typedef void (*Gemm)(const char*, const char*, const int*, const int*, const int*, const float*, const void*, const int*,
                     const void*, const int*, const float*, float*, const int*);

struct Sizes {
    int64_t images, length, queries, width, heads, hidden, chunk, threads;
    float eps1, eps2;
};

// Order of the parameters, and of their gradients.
enum { N1W, N1B, QKVW, QKVB, PROJW, PROJB, N2W, N2B, FC1W, FC1B, FC2W, FC2B, PARAMETERS };

// Memory that begins with a line of the cache, so that vectors and the units' rows lie in one line each. Empty without memory.
struct Free { void operator()(void* at) const { std::free(at); } };
template <class E> using Array = std::unique_ptr<E[], Free>;
template <class E> Array<E> array(int64_t count) {
    return Array<E>((E*)std::aligned_alloc(64, (count * sizeof(E) + 64) / 64 * 64));
}

// Whether products are the matrix units', which take whole numbers of 32 rows and columns.
template <class E> bool on_units(const Sizes& s) {
    return std::is_same_v<E, Half> && s.width % units::SIDE == 0 && s.hidden % units::SIDE == 0 && units::usable();
}

// Matrix products with weights, of one thread. `give(row, column, sums)` takes W sums of a row at a time; before that a
// library has put them into `y`, where they may be overwritten. The units read first factors, and write what is not given
// away, up to a whole number of 32 rows.
template <class E> struct Products {
    Gemm gemm;
    bool by_units;
    units::Registers registers;
    Array<E> first, second;  // factors of the products for weights as the units take them
    Products(Gemm gemm, const Sizes& s, bool for_weights) : gemm(gemm), by_units(on_units<E>(s)), registers(by_units) {
        const int64_t most = for_weights && by_units ? units::whole(s.chunk * s.length) : 0;
        first = array<E>(most * (s.hidden > 3 * s.width ? s.hidden : 3 * s.width));
        second = array<E>(most * (s.hidden > s.width ? s.hidden : s.width));
    }
    bool failed() const { return !first || !second; }

    // y (rows, to) = x (rows, from) · w (to, from)ᵀ
    template <class F>
    void linear(int64_t rows, int64_t from, int64_t to, const E* x, const E* w, float* y, const F& give) const {
        if (by_units) return squares(rows, from, to, x, w, give);
        call('T', 'N', to, rows, from, w, from, x, from, 0, y, to);
        each(0, rows, 0, to, y, to, give);
    }
    // dx (rows, from) = dy (rows, to) · w (to, from)
    template <class F>
    void input(int64_t rows, int64_t from, int64_t to, const E* dy, const E* w, float* dx, const F& give) const {
        if (by_units) return squares(rows, to, from, dy, w, give);
        call('N', 'N', from, rows, to, w, from, dy, to, 0, dx, from);
        each(0, rows, 0, from, dx, from, give);
    }
    void input(int64_t rows, int64_t from, int64_t to, const E* dy, const E* w, float* dx) const {
        if constexpr (std::is_same_v<E, Half>)
            if (by_units) return units::product(rows, to, from, dy, w, false, dx);
        call('N', 'N', from, rows, to, w, from, dy, to, 0, dx, from);
    }
    // dw (to, from) += dy (rows, to)ᵀ · x (rows, from)
    void weight(int64_t rows, int64_t from, int64_t to, const E* dy, const E* x, float* dw) const {
        if constexpr (std::is_same_v<E, Half>)
            if (by_units) {
                const int64_t depth = units::whole(rows);
                units::turned(dy, rows, to, depth, first.get());
                units::pairs(x, rows, from, depth, second.get());
                return units::product(to, depth, from, first.get(), second.get(), true, dw);
            }
        call('N', 'T', from, to, rows, x, from, dy, to, 1, dw, from);
    }

  private:
    // Fortran's columns are our rows, so factors change places.
    void call(char ta, char tb, int64_t m, int64_t n, int64_t k, const E* a, int64_t lda, const E* b, int64_t ldb,
              float beta, float* c, int64_t ldc) const {
        const int im = m, in = n, ik = k, ia = lda, ib = ldb, ic = ldc;
        const float one = 1;
        gemm(&ta, &tb, &im, &in, &ik, &one, a, &ia, b, &ib, &beta, c, &ic);
    }
    template <class F>
    static void each(int64_t row, int64_t rows, int64_t column, int64_t columns, const float* y, int64_t pitch, const F& give) {
        for (int64_t i = 0; i < rows; ++i)
            for (int64_t k = 0; k < columns; k += W) give(row + i, column + k, load(y + i * pitch + k));
    }
    template <class F>
    void squares(int64_t rows, int64_t depth, int64_t columns, const E* a, const E* b, const F& give) const {
        if constexpr (std::is_same_v<E, Half>) {
            alignas(64) float sums[units::SIDE * units::SIDE];
            units::in_squares(rows, columns, [&](int64_t i, int64_t k) {
                units::square(depth, a + i * depth, depth, b + k * depth, false, sums, units::SIDE);
                each(i, rows - i < units::SIDE ? rows - i : units::SIDE, k, units::SIDE, sums, units::SIDE, give);
            });
        }
    }
};

struct Moments { V mean; float inverse; };
inline Moments moments(const float* x, int64_t width, float eps) {
    V first{}, second{};
    for (int64_t k = 0; k < width; k += W) first += load(x + k);
    const V mean = sum(first) / float(width);
    for (int64_t k = 0; k < width; k += W) { const V c = load(x + k) - mean; second += c * c; }
    return {mean, 1.0f / __builtin_sqrtf(sum(second)[0] / width + eps)};
}

template <class E>
void norm(const float* x, const float* weight, const float* bias, float eps, int64_t rows, int64_t width, E* y) {
    for (int64_t i = 0; i < rows; ++i, x += width, y += width) {
        const Moments m = moments(x, width, eps);
        for (int64_t k = 0; k < width; k += W)
            store(y + k, (load(x + k) - m.mean) * m.inverse * load(weight + k) + load(bias + k));
    }
}

// dx = residual + what comes through the norm of x; y becomes the norm's output.
template <class E>
void norm_back(const float* x, const float* weight, const float* bias, float eps, const float* dy, const float* residual,
               int64_t rows, int64_t width, E* y, float* dx, float* dweight, float* dbias) {
    for (int64_t i = 0; i < rows; ++i, x += width, y += width, dy += width, dx += width, residual += width) {
        const Moments m = moments(x, width, eps);
        V first{}, second{};
        for (int64_t k = 0; k < width; k += W) {
            const V hat = (load(x + k) - m.mean) * m.inverse, d = load(dy + k), dw = d * load(weight + k);
            first += dw;
            second += dw * hat;
            add(dweight + k, d * hat);
            add(dbias + k, d);
            store(y + k, hat * load(weight + k) + load(bias + k));
        }
        const V mean = sum(first) / float(width), slope = sum(second) / float(width);
        for (int64_t k = 0; k < width; k += W) {
            const V hat = (load(x + k) - m.mean) * m.inverse;
            store(dx + k, load(residual + k) + (load(dy + k) * load(weight + k) - mean - hat * slope) * m.inverse);
        }
    }
}

template <class E> void column_sums(const E* x, int64_t rows, int64_t width, float* sums) {
    for (int64_t i = 0; i < rows; ++i, x += width)
        for (int64_t k = 0; k < width; k += W) add(sums + k, load(x + k));
}

// The first `count` numbers as factors of products: where they are, or rounded into `room`.
inline const float* factors(const float* x, int64_t, float*) { return x; }
inline const Half* factors(const float* x, int64_t count, Half* room) {
    for (int64_t k = 0; k < count; k += W) store(room + k, load(x + k));
    return room;
}

// The other way.
inline const float* numbers(const float* x, int64_t, float*) { return x; }
inline const float* numbers(const Half* x, int64_t count, float* room) {
    for (int64_t k = 0; k < count; k += W) store(room + k, load(x + k));
    return room;
}

// Small products within attention: out (n, W·C) = a (n, depth) · b (depth, W·C), a at any strides. R · C sums, C numbers of
// b and one of a are to be in registers.
template <int C, int R, class O>
inline void tile(int64_t depth, const float* a, int64_t ai, int64_t ak, const float* b, int64_t ldb, O* out, int64_t ldo) {
    V sums[R][C] = {};
    for (int64_t k = 0; k < depth; ++k, b += ldb) {
        V row[C];
        for (int c = 0; c < C; ++c) row[c] = load(b + W * c);
        for (int r = 0; r < R; ++r) {
            const V left = all(a[r * ai + k * ak]);
            for (int c = 0; c < C; ++c) sums[r][c] += left * row[c];
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) store(out + r * ldo + W * c, sums[r][c]);
}

template <int C, int R, class O>
inline void tiles(int64_t n, int64_t depth, const float* a, int64_t ai, int64_t ak, const float* b, int64_t ldb, O* out,
                  int64_t ldo) {
    int64_t i = 0;
    for (; i + R <= n; i += R) tile<C, R>(depth, a + i * ai, ai, ak, b, ldb, out + i * ldo, ldo);
    if constexpr (R > 1)
        if (i < n) tiles<C, R / 2>(n - i, depth, a + i * ai, ai, ak, b, ldb, out + i * ldo, ldo);
}

template <class O>
void small(int64_t columns, int64_t n, int64_t depth, const float* a, int64_t ai, int64_t ak, const float* b, int64_t ldb,
           O* out, int64_t ldo) {
    int64_t left = columns / W;
    const auto some = [&](auto one, int64_t vectors) {
        one(n, depth, a, ai, ak, b, ldb, out, ldo);
        b += W * vectors, out += W * vectors, left -= vectors;
    };
    if constexpr (REGISTERS == 32) {
        while (left > 4) some(tiles<4, 4, O>, 4);
        switch (left) {
            case 1: return tiles<1, 8>(n, depth, a, ai, ak, b, ldb, out, ldo);
            case 2: return tiles<2, 8>(n, depth, a, ai, ak, b, ldb, out, ldo);
            case 3: return tiles<3, 4>(n, depth, a, ai, ak, b, ldb, out, ldo);
            case 4: return tiles<4, 4>(n, depth, a, ai, ak, b, ldb, out, ldo);
        }
    } else {
        while (left >= 2) some(tiles<2, 6, O>, 2);
        if (left) tiles<1, 8>(n, depth, a, ai, ak, b, ldb, out, ldo);
    }
}

constexpr int64_t MOST = 64;  // tokens, and channels of a head
inline int64_t padded(int64_t length) { return (length + W - 1) / W * W; }

// The attention of one head of one image. Rows of q, k, v (and of their gradients) are `pitch` floats apart.
struct Head {
    int64_t length, queries, depth, padded, pitch, width;
    float scale;
    // Not 4096 bytes apart, where a load would wait for a store to the other.
    alignas(64) float turned[MOST * MOST + W], chance[MOST * MOST + W], change[MOST * MOST + W], outside[MOST];

    Head(const Sizes& s)
        : length(s.length), queries(s.queries), depth(s.width / s.heads), padded(::padded(s.length)), pitch(3 * s.width),
          width(s.width), scale(1.0f / __builtin_sqrtf(float(s.width / s.heads))) {
        for (int64_t j = 0; j < MOST; ++j) outside[j] = j < length ? 0.0f : -1e30f;
    }

    void turn(const float* rows) {  // (length, depth) → (depth, padded)
        for (int64_t d = 0; d < depth; ++d) {
            for (int64_t j = 0; j < length; ++j) turned[d * padded + j] = rows[j * pitch + d];
            for (int64_t j = length; j < padded; ++j) turned[d * padded + j] = 0;
        }
    }

    // Chances that a query looks at a token, of which the backward pass has no others than the forward one.
    template <class E> void softmax(const float* q, const float* k, E* kept) {
        turn(k);
        small(padded, queries, depth, q, pitch, 1, turned, padded, chance, padded);
        for (int64_t i = 0; i < queries; ++i) {
            float* row = chance + i * padded;
            V most = all(-1e30f), total{};
            for (int64_t j = 0; j < padded; j += W) {
                const V score = load(row + j) * scale + load(outside + j);
                store(row + j, score);
                most = larger(most, score);
            }
            const V top = largest(most);
            for (int64_t j = 0; j < padded; j += W) {
                const V power = exponential(load(row + j) - top);
                store(row + j, power);
                total += power;
            }
            const V inverse = 1.0f / sum(total);
            for (int64_t j = 0; j < padded; j += W) {
                store(kept + i * padded + j, load(row + j) * inverse);
                store(row + j, load(kept + i * padded + j));
            }
        }
    }

    template <class E> void forward(const float* qkv, E* out, E* kept) {
        softmax(qkv, qkv + width, kept);
        small(depth, queries, length, chance, padded, 1, qkv + 2 * width, pitch, out, width);
    }

    template <class E> void backward(const float* qkv, const E* kept, const float* dout, E* dqkv) {
        const float *q = qkv, *k = qkv + width, *v = qkv + 2 * width;
        const float* chance = numbers(kept, queries * padded, this->chance);
        small(depth, length, queries, chance, 1, padded, dout, width, dqkv + 2 * width, pitch);
        turn(v);
        small(padded, queries, depth, dout, width, 1, turned, padded, change, padded);
        for (int64_t i = 0; i < queries; ++i) {
            V both{};
            for (int64_t j = i * padded; j < (i + 1) * padded; j += W) both += load(chance + j) * load(change + j);
            const V inner = sum(both);
            for (int64_t j = i * padded; j < (i + 1) * padded; j += W)
                store(change + j, load(chance + j) * (load(change + j) - inner) * scale);
        }
        small(depth, queries, length, change, padded, 1, k, pitch, dqkv, pitch);
        for (int64_t i = queries; i < length; ++i) std::memset(dqkv + i * pitch, 0, depth * sizeof(E));
        small(depth, length, queries, change, 1, padded, q, pitch, dqkv + width, pitch);
    }
};

// What a block keeps of its forward pass for the backward one.
template <class E> struct Kept {
    float* middle;
    E *qkv, *active, *slope, *chances, *mixed;
    Kept(const Sizes& s, float* at) {
        const int64_t asked = s.images * s.queries;
        middle = at, qkv = (E*)(middle + asked * s.width), active = qkv + s.images * s.length * 3 * s.width;
        slope = active + asked * s.hidden, chances = slope + asked * s.hidden;
        mixed = chances + asked * s.heads * padded(s.length);
    }
};

// The matrices among the parameters as factors of products: forward or backward ones, where units take them.
template <class E> struct Matrices {
    const E* at[PARAMETERS] = {};
    Array<E> room;
    bool failed = false;
    Matrices(const Sizes& s, const float* const* p, bool backward) {
        if constexpr (std::is_same_v<E, float>) {
            for (int which : {QKVW, PROJW, FC1W, FC2W}) at[which] = p[which];
        } else {
            const bool by_units = on_units<E>(s);
            const int64_t d = s.width, m = s.hidden, all = 4 * d * d + 2 * m * d;
            room = array<E>(by_units ? 2 * all : all);
            if ((failed = !room)) return;
            E *next = room.get(), *packed = next + all;
            const auto take = [&](int which, int64_t to, int64_t from) {
                at[which] = factors(p[which], to * from, next);
                if (by_units) {
                    if (backward) units::pairs(next, to, from, to, packed);
                    else units::turned_pairs(next, to, from, packed);
                    at[which] = packed;
                }
                next += to * from, packed += to * from;
            };
            take(QKVW, 3 * d, d), take(PROJW, d, d), take(FC1W, m, d), take(FC2W, d, m);
        }
    }
};

// Some images: their rows, and of these the ones that ask; `room` is for as many rows as the units write.
struct Part { int64_t images, rows, row, asked, ask, room; };
inline Part part(const Sizes& s, int64_t number) {
    const int64_t first = number * s.chunk, left = s.images - first, images = left < s.chunk ? left : s.chunk;
    return {images, images * s.length, first * s.length, images * s.queries, first * s.queries, units::whole(images * s.length)};
}

// What a thread needs beside what it is given, for one part at a time.
template <class E> struct Room {
    Array<E> factors;
    Array<float> numbers;
    Array<Head> head;
    Room(const Sizes& s, int64_t factors_of_row, int64_t numbers_of_row)
        : factors(array<E>(units::whole(s.chunk * s.length) * factors_of_row)),
          numbers(array<float>(units::whole(s.chunk * s.length) * numbers_of_row)), head(array<Head>(1)) {
        if (head) new (head.get()) Head(s);
    }
    bool failed() const { return !factors || !numbers || !head; }
};

template <class E>
void forward_part(const Products<E>& products, const Sizes& s, const float* const* p, const Matrices<E>& w, const float* x,
                  float* out, const Kept<E>& all_kept, Part at, Room<E>& room) {
    const int64_t d = s.width, m = s.hidden, rows = at.rows, asked = at.asked, depth = d / s.heads;
    E *normed = room.factors.get(), *kept_qkv = all_kept.qkv + at.row * 3 * d, *mixed = all_kept.mixed + at.ask * d;
    E *active = all_kept.active + at.ask * m, *slope = all_kept.slope + at.ask * m;
    E* chances = all_kept.chances + at.ask * s.heads * padded(s.length);
    // The float32 sums of two products: where they are kept, or in one place, as attention is over before the hidden layer.
    float *middle = all_kept.middle + at.ask * d, *qkv = room.numbers.get(), *product = qkv;
    if constexpr (std::is_same_v<E, float>) qkv = kept_qkv, product = active;
    x += at.row * d, out += at.ask * d;
    norm(x, p[N1W], p[N1B], s.eps1, rows, d, normed);
    products.linear(rows, d, 3 * d, normed, w.at[QKVW], qkv, [&](int64_t i, int64_t k, V sums) {
        store(kept_qkv + i * 3 * d + k, sums + load(p[QKVB] + k));
        // The backward pass has no other numbers than the forward one.
        if constexpr (std::is_same_v<E, Half>) store(qkv + i * 3 * d + k, load(kept_qkv + i * 3 * d + k));
    });
    for (int64_t i = 0; i < at.images; ++i)
        for (int64_t h = 0; h < s.heads; ++h)
            room.head[0].forward(qkv + i * s.length * 3 * d + h * depth, mixed + i * s.queries * d + h * depth,
                                 chances + (i * s.heads + h) * s.queries * padded(s.length));
    products.linear(asked, d, d, mixed, w.at[PROJW], middle, [&](int64_t i, int64_t k, V sums) {
        const float* row = x + (i / s.queries * s.length + i % s.queries) * d;
        store(middle + i * d + k, load(row + k) + load(p[PROJB] + k) + sums);
    });
    norm(middle, p[N2W], p[N2B], s.eps2, asked, d, normed);
    products.linear(asked, d, m, normed, w.at[FC1W], product, [&](int64_t i, int64_t k, V sums) {
        const V h = sums + load(p[FC1B] + k);
        const Normal n = normal(h);
        store(active + i * m + k, h * n.below);
        store(slope + i * m + k, n.below + h * n.density);
    });
    products.linear(asked, m, d, active, w.at[FC2W], out, [&](int64_t i, int64_t k, V sums) {
        store(out + i * d + k, load(middle + i * d + k) + load(p[FC2B] + k) + sums);
    });
}

template <class E>
void backward_part(const Products<E>& products, const Sizes& s, const float* const* p, const Matrices<E>& w, const float* x,
                   const float* dout, const Kept<E>& all_kept, Part at, Room<E>& room, float* dx, float* const* g) {
    const int64_t d = s.width, m = s.hidden, rows = at.rows, asked = at.asked, depth = d / s.heads;
    float *through = room.numbers.get(), *dmiddle = through + at.room * d, *residual = dmiddle + at.room * d;
    float *dactive = residual + at.room * d;
    E *normed = room.factors.get(), *rounded = normed + at.room * d, *dqkv = rounded + at.room * d;
    E* dhidden = dqkv;  // attention begins when the hidden layer is done
    if constexpr (std::is_same_v<E, float>) dhidden = dactive;  // each number is read before it is overwritten
    const E *mixed = all_kept.mixed + at.ask * d, *active = all_kept.active + at.ask * m;
    const E *slope = all_kept.slope + at.ask * m, *chances = all_kept.chances + at.ask * s.heads * padded(s.length);
    const float* middle = all_kept.middle + at.ask * d;
    x += at.row * d, dout += at.ask * d, dx += at.row * d;
    const E* dy = factors(dout, asked * d, rounded);
    products.input(asked, m, d, dy, w.at[FC2W], dactive, [&](int64_t i, int64_t k, V sums) {
        const V dh = sums * load(slope + i * m + k);
        store(dhidden + i * m + k, dh);
        add(g[FC1B] + k, dh);
    });
    products.weight(asked, m, d, dy, active, g[FC2W]);
    column_sums(dout, asked, d, g[FC2B]);
    products.input(asked, d, m, dhidden, w.at[FC1W], through);
    norm_back(middle, p[N2W], p[N2B], s.eps2, through, dout, asked, d, normed, dmiddle, g[N2W], g[N2B]);
    products.weight(asked, d, m, dhidden, normed, g[FC1W]);
    dy = factors(dmiddle, asked * d, rounded);
    products.weight(asked, d, d, dy, mixed, g[PROJW]);
    column_sums(dmiddle, asked, d, g[PROJB]);
    products.input(asked, d, d, dy, w.at[PROJW], through);
    const float* qkv = numbers(all_kept.qkv + at.row * 3 * d, rows * 3 * d, dactive);  // which is done with
    for (int64_t i = 0; i < at.images; ++i)
        for (int64_t h = 0; h < s.heads; ++h) {
            const int64_t wide = i * s.length * 3 * d + h * depth, row = i * s.queries * d + h * depth;
            const E* chance = chances + (i * s.heads + h) * s.queries * padded(s.length);
            room.head[0].backward(qkv + wide, chance, through + row, dqkv + wide);
        }
    column_sums(dqkv, rows, 3 * d, g[QKVB]);
    products.input(rows, d, 3 * d, dqkv, w.at[QKVW], through);
    if (asked < rows) {
        std::memset(residual, 0, rows * d * sizeof(float));
        for (int64_t i = 0; i < at.images; ++i)
            std::memcpy(residual + i * s.length * d, dmiddle + i * s.queries * d, s.queries * d * sizeof(float));
    }
    norm_back(x, p[N1W], p[N1B], s.eps1, through, asked < rows ? residual : dmiddle, rows, d, normed, dx, g[N1W], g[N1B]);
    products.weight(rows, d, 3 * d, dqkv, normed, g[QKVW]);
}

inline int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

inline int64_t parts(const Sizes& s) { return (s.images + s.chunk - 1) / s.chunk; }

template <class E>
int forward_all(Gemm gemm, const Sizes& s, const float* const* parameters, const float* x, float* out, float* kept) {
    const Kept<E> all_kept(s, kept);
    const Matrices<E> matrices(s, parameters, false);
    if (matrices.failed) return 1;
    int failed = 0;
#pragma omp parallel num_threads(s.threads) reduction(| : failed)
    {
        const int64_t d = s.width, m = s.hidden;
        Room<E> room(s, d, std::is_same_v<E, float> ? 0 : m > 3 * d ? m : 3 * d);
        const Products<E> products(gemm, s, false);
        failed |= room.failed() || products.failed();
#pragma omp for schedule(static)
        for (int64_t n = 0; n < parts(s); ++n)
            if (!failed) forward_part(products, s, parameters, matrices, x, out, all_kept, part(s, n), room);
    }
    return failed;
}

template <class E>
int backward_all(Gemm gemm, const Sizes& s, const float* const* parameters, const float* x, const float* dout, float* kept,
                 float* dx, float* gradients, int64_t each) {
    const Kept<E> all_kept(s, kept);
    const Matrices<E> matrices(s, parameters, true);
    const int64_t d = s.width, m = s.hidden;
    const int64_t counts[PARAMETERS] = {d, d, 3 * d * d, 3 * d, d * d, d, d, d, m * d, m, d * m, d};
    if (matrices.failed) return 1;
    int failed = 0;
#pragma omp parallel num_threads(s.threads) reduction(| : failed)
    {
        const int64_t wider = m > 3 * d ? m : 3 * d;
        Room<E> room(s, 2 * d + wider, 3 * d + wider);
        const Products<E> products(gemm, s, true);
        failed |= room.failed() || products.failed();
        float* own[PARAMETERS];
        float* next = gradients + each * thread_number();
        for (int i = 0; i < PARAMETERS; ++i) own[i] = next, next += counts[i];
#pragma omp for schedule(static)
        for (int64_t n = 0; n < parts(s); ++n)
            if (!failed)
                backward_part(products, s, parameters, matrices, x, dout, all_kept, part(s, n), room, dx, own);
    }
    return failed;
}

}  // namespace

// Whether there are matrix units that may be used.
extern "C" int has_units() { return units::usable(); }

// x (images, length, width) → out (images, queries, width); `kept` has room for 3 · width factors of each token, and for
// width floats and width + 2 · hidden + heads · length factors of each that asks, the length rounded up to a multiple of 16,
// and behind these for 32 rows of the wider one. `half`: `gemm` takes factors in bfloat16. Returns 0, or 1
// without memory.
extern "C" int forward(Gemm gemm, int half, const Sizes* s, const float* const* parameters, const float* x, float* out,
                       float* kept) {
    return (half ? forward_all<Half> : forward_all<float>)(gemm, *s, parameters, x, out, kept);
}

// Gradients from dout: dx, and those of the parameters one after the other, for each thread (`each` floats, all 0).
extern "C" int backward(Gemm gemm, int half, const Sizes* s, const float* const* parameters, const float* x,
                        const float* dout, float* kept, float* dx, float* gradients, int64_t each) {
    return (half ? backward_all<Half> : backward_all<float>)(gemm, *s, parameters, x, dout, kept, dx, gradients, each);
}
