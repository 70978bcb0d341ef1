// Matrix products with factors in bfloat16 on a processor's matrix units (AMX), summed in float32.
//
// One instruction adds to 16 × 16 sums the product of 16 × 32 numbers and 32 × 16. Of the second factor it takes pairs: of
// two rows, one below the other, the numbers of a column side by side. `pairs` and `turned_pairs` bring factors into this
// order, in panels of 32 columns; four instructions then make 32 × 32 sums from two panels' worth of each factor.
#pragma once

#include <cstdint>

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#define MATRIX_UNITS 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define MATRIX_UNITS 0
#endif

namespace units {

constexpr int64_t SIDE = 32;  // rows and columns of the sums that are made together
inline int64_t whole(int64_t count) { return (count + SIDE - 1) / SIDE * SIDE; }

// f(row, column) for all squares of some sums. A panel of the second factor is read for three of them from the nearest cache.
template <class F> void in_squares(int64_t rows, int64_t columns, const F& f) {
    constexpr int64_t NEAR = 3 * SIDE;
    for (int64_t begin = 0; begin < rows; begin += NEAR)
        for (int64_t k = 0; k < columns; k += SIDE)
            for (int64_t i = begin; i < rows && i < begin + NEAR; i += SIDE) f(i, k);
}

typedef uint16_t Number;  // a bfloat16

#if MATRIX_UNITS

// Linux keeps the units' registers only for processes that have asked.
inline bool usable() {
    static const bool answer = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
    return answer;
}

// While one lives, its thread's eight registers are 16 rows of 64 bytes each; then they have the shapes that others gave them.
// Not by the compiler's functions: some versions do not see that all of the shapes are read.
struct Registers {
    struct Shapes { uint8_t palette, start, none[14]; uint16_t bytes[16]; uint8_t rows[16]; } before;
    bool taken;
    explicit Registers(bool take) : taken(take) {
        if (!take) return;
        __asm__ volatile("sttilecfg %0" : "=m"(before));
        Shapes shapes = {};
        shapes.palette = 1;
        for (int i = 0; i < 8; ++i) shapes.bytes[i] = 64, shapes.rows[i] = 16;
        __asm__ volatile("ldtilecfg %0" : : "m"(shapes));
    }
    Registers(const Registers&) = delete;
    ~Registers() { if (taken) __asm__ volatile("ldtilecfg %0" : : "m"(before)); }
};

// c (32, 32) = or += a (32, depth) · b (depth, 32), b a panel of pairs. `depth` is a multiple of 32. Sums of addresses are in
// brackets, since the instructions are macros, and some of GCC's cast what they are given first.
inline void square(int64_t depth, const Number* a, int64_t lda, const Number* b, bool onto, float* c, int64_t ldc) {
    __asm__ volatile("" : : : "memory");  // what the units read and write, compilers do not see
    if (onto) {
        _tile_loadd(0, c, ldc * 4);
        _tile_loadd(1, (c + 16), ldc * 4);
        _tile_loadd(2, (c + 16 * ldc), ldc * 4);
        _tile_loadd(3, (c + 16 * ldc + 16), ldc * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < depth; k += SIDE, a += SIDE, b += SIDE * SIDE) {
        _tile_loadd(4, a, lda * 2);
        _tile_loadd(6, b, 128);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, (b + 32), 128);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, (a + 16 * lda), lda * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, (c + 16), ldc * 4);
    _tile_stored(2, (c + 16 * ldc), ldc * 4);
    _tile_stored(3, (c + 16 * ldc + 16), ldc * 4);
    __asm__ volatile("" : : : "memory");
}

// c (rows, columns) = or += a (rows, depth) · b (depth, columns), b in panels; `rows` rounded up to a multiple of 32.
inline void product(int64_t rows, int64_t depth, int64_t columns, const Number* a, const Number* b, bool onto, float* c) {
    in_squares(rows, columns, [&](int64_t i, int64_t k) {
        square(depth, a + i * depth, depth, b + k * depth, onto, c + i * columns + k, columns);
    });
}

// 16 numbers of row `i` beside those of row i + 1; rows from `rows` on are 0.
inline __m512i pair(const Number* x, int64_t width, int64_t i, int64_t rows) {
    const auto row = [&](int64_t at) {
        return at < rows ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(x + at * width))) : _mm512_setzero_si512();
    };
    return _mm512_or_si512(row(i), _mm512_slli_epi32(row(i + 1), 16));
}

// x (rows, width) → panels of 32 columns, each (depth / 2, 32) pairs: the second factor of x (depth, width).
inline void pairs(const Number* x, int64_t rows, int64_t width, int64_t depth, Number* out) {
    for (int64_t i = 0; i < depth; i += 2)
        for (int64_t k = 0; k < width; k += 16)
            _mm512_storeu_si512(out + (k / 32 * depth / 2 + i / 2) * 64 + k % 32 * 2, pair(x + k, width, i, rows));
}

// Rows become columns, of 16 vectors of 16.
template <int S> inline void exchanged(__m512i* v) {
    __m512i place = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __mmask16 upper = S == 8 ? 0xff00 : S == 4 ? 0xf0f0 : S == 2 ? 0xcccc : 0xaaaa;
    const __m512i first = _mm512_mask_add_epi32(place, upper, place, _mm512_set1_epi32(16 - S));
    const __m512i second = _mm512_mask_add_epi32(_mm512_add_epi32(place, _mm512_set1_epi32(S)), upper, place, _mm512_set1_epi32(16));
    for (int i = 0; i < 16; ++i)
        if (!(i & S)) {
            const __m512i a = v[i], b = v[i + S];
            v[i] = _mm512_permutex2var_epi32(a, first, b);
            v[i + S] = _mm512_permutex2var_epi32(a, second, b);
        }
}
inline void turn(__m512i* v) { exchanged<8>(v), exchanged<4>(v), exchanged<2>(v), exchanged<1>(v); }

// x (rows, width) → (width, depth): the first factor of xᵀ, its columns from `rows` on 0.
inline void turned(const Number* x, int64_t rows, int64_t width, int64_t depth, Number* out) {
    for (int64_t i = 0; i < depth; i += 32)
        for (int64_t k = 0; k < width; k += 16) {
            __m512i v[16];
            for (int j = 0; j < 16; ++j) v[j] = pair(x + k, width, i + 2 * j, rows);
            turn(v);
            for (int j = 0; j < 16; ++j) _mm512_storeu_si512(out + (k + j) * depth + i, v[j]);
        }
}

// x (width, depth) → panels of 32 columns, each (depth / 2, 32) pairs: the second factor of xᵀ.
inline void turned_pairs(const Number* x, int64_t width, int64_t depth, Number* out) {
    for (int64_t i = 0; i < width; i += 16)
        for (int64_t k = 0; k < depth; k += 32) {
            __m512i v[16];
            for (int j = 0; j < 16; ++j) v[j] = _mm512_loadu_si512(x + (i + j) * depth + k);
            turn(v);
            for (int j = 0; j < 16; ++j)
                _mm512_storeu_si512(out + (i / 32 * depth / 2 + k / 2 + j) * 64 + i % 32 * 2, v[j]);
        }
}

#else

inline bool usable() { return false; }
struct Registers { explicit Registers(bool) {} };
inline void square(int64_t, const Number*, int64_t, const Number*, bool, float*, int64_t) {}
inline void product(int64_t, int64_t, int64_t, const Number*, const Number*, bool, float*) {}
inline void pairs(const Number*, int64_t, int64_t, int64_t, Number*) {}
inline void turned(const Number*, int64_t, int64_t, int64_t, Number*) {}
inline void turned_pairs(const Number*, int64_t, int64_t, Number*) {}

#endif

}  // namespace units
