// Affine transforms of RGB images with cubic interpolation, the same pixels as Pillow gives. Compiled by warp.py.
// An image has four bytes a pixel, of which the last means nothing.
//
// Each pixel of the result takes its value from a place in the source: Keys' cubic convolution with a = -1 over the
// 4 x 4 pixels around it, rows first, in double precision, with the border repeated; results are cut to whole numbers.
// Rounding must be Pillow's, too, so this is compiled without contraction to fused multiply-adds.
//
// The source is first copied with a border of two pixels and one channel more, so that a pixel is one 128-bit word and
// no index needs a check. Shears and shifts leave one coordinate whole: then one row or column of four pixels is all.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace {

constexpr int64_t BORDER = 2;

typedef int32_t Pixel __attribute__((vector_size(16)));
typedef double Values __attribute__((vector_size(32)));

typedef uint8_t Bytes __attribute__((vector_size(4)));

inline Pixel widened(const uint8_t* pixel) {
    Bytes bytes;
    std::memcpy(&bytes, pixel, sizeof bytes);
    return __builtin_convertvector(bytes, Pixel);
}

// Cut to whole numbers from 0 to 255.
inline void store(Values v, uint8_t* to) {
    const Values low = {}, high = low + 255.0;
    v = v > low ? v : low;
    v = v < high ? v : high;
    const Bytes bytes = __builtin_convertvector(__builtin_convertvector(v, Pixel), Bytes);
    std::memcpy(to, &bytes, sizeof bytes);
}

inline Values values(const Pixel& pixel) { return __builtin_convertvector(pixel, Values); }

// The cubic through four values that lie one apart, at the part `t` of the way from b to c.
inline Values cubic(Values a, Values b, Values c, Values d, double t) {
    Values first = -a + c;
    Values second = 2.0 * (a - b) + c - d;
    Values third = -a + b - c + d;
    return b + t * (first + t * (second + t * third));
}

inline int64_t clamped(int64_t i, int64_t size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

inline Values along(const Pixel* p, int64_t step, double t) {
    return cubic(values(p[0]), values(p[step]), values(p[2 * step]), values(p[3 * step]), t);
}

}  // namespace

// out[y, x] = in at (m0 (x + ½) + m1 (y + ½) + m2, m3 (x + ½) + m4 (y + ½) + m5), `fill` where that lies outside.
// Returns 0, or 1 where there was not enough memory.
extern "C" int warp(const uint8_t* in, uint8_t* out, int64_t height, int64_t width, const double* m,
                    const uint8_t* fill) {
    const int64_t stride = width + 2 * BORDER;
    const std::unique_ptr<Pixel[]> bordered(new (std::nothrow) Pixel[stride * (height + 2 * BORDER)]);
    if (!bordered) return 1;
    for (int64_t y = -BORDER; y < height + BORDER; ++y) {
        const uint8_t* row = in + 4 * width * clamped(y, height);
        Pixel* to = bordered.get() + (y + BORDER) * stride + BORDER;
        for (int64_t x = 0; x < width; ++x) to[x] = widened(row + 4 * x);
        for (int64_t x = 1; x <= BORDER; ++x) {
            to[-x] = to[0];
            to[width - 1 + x] = to[width - 1];
        }
    }
    for (int64_t y = 0; y < height; ++y) {
        uint8_t* to = out + 4 * width * y;
        const double oy = y + 0.5;
        for (int64_t x = 0; x < width; ++x, to += 4) {
            const double ox = x + 0.5;
            double at_x = m[0] * ox + m[1] * oy + m[2], at_y = m[3] * ox + m[4] * oy + m[5];
            if (!(at_x >= 0 && at_x < width && at_y >= 0 && at_y < height)) {
                std::memcpy(to, fill, 4);
                continue;
            }
            at_x -= 0.5;
            at_y -= 0.5;
            const double left = std::floor(at_x), top = std::floor(at_y);
            const double dx = at_x - left, dy = at_y - top;
            const Pixel* p = bordered.get() + (int64_t(top) + BORDER - 1) * stride + int64_t(left) + BORDER - 1;
            Values v;
            if (dy == 0) v = along(p + stride, 1, dx);
            else if (dx == 0) v = along(p + 1, stride, dy);
            else
                v = cubic(along(p, 1, dx), along(p + stride, 1, dx), along(p + 2 * stride, 1, dx),
                          along(p + 3 * stride, 1, dx), dy);
            store(v, to);
        }
    }
    return 0;
}

// `count` pixels without their fourth byte.
extern "C" void packed(const uint8_t* in, uint8_t* out, int64_t count) {
    for (int64_t i = 0; i + 1 < count; ++i) std::memcpy(out + 3 * i, in + 4 * i, 4);  // the next one mends the fourth
    if (count) std::memcpy(out + 3 * (count - 1), in + 4 * (count - 1), 3);
}
