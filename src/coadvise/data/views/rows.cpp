// A batch's images on the CPU: crop, flip, normalisation, erasing and mixing in one pass, row by row. Compiled by rows.py.
//
// The same bits as `Finish` gives with PyTorch: each product and sum is rounded by itself, so this is compiled without
// contraction to fused multiply-adds.

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace {

// Columns of `choices` in fused.py.
constexpr int ROW = 0, DOWN = 1, RIGHT = 2, FLIP = 3, TOP = 4, BOTTOM = 5, LEFT = 6, END = 7, START = 8;
constexpr int MATE = 9, BOX = 20, LAM = 24, COLUMNS = 25;

struct Batch {
    const uint8_t* pixels;
    int64_t height, width;
    const float *scale, *offset;  // of a row of all channels
    const float* noise;           // null where nothing is erased
    int64_t noises;
};

// Row y of an image as its choices `how` have it; `line` has room for one.
void view(const Batch& b, const int32_t* how, int64_t y, uint8_t* line, float* out) {
    const int64_t width = b.width, from = y + how[DOWN], right = how[RIGHT];
    const uint8_t* source = b.pixels + (how[ROW] * b.height + from) * width * 3;
    if (from < 0 || from >= b.height) {
        std::memset(line, 0, 3 * width);
    } else if (how[FLIP]) {
        for (int64_t x = 0; x < width; ++x) {
            const int64_t at = width - 1 - x + right;
            for (int c = 0; c < 3; ++c) line[3 * x + c] = at >= 0 && at < width ? source[3 * at + c] : 0;
        }
    } else {
        const int64_t first = right < 0 ? (-right < width ? -right : width) : 0;
        const int64_t last = right > 0 ? (right < width ? width - right : 0) : width;
        std::memset(line, 0, 3 * first);
        if (last > first) std::memcpy(line + 3 * first, source + 3 * (first + right), 3 * (last - first));
        if (last < width) std::memset(line + 3 * last, 0, 3 * (width - last));
    }
    for (int64_t k = 0; k < 3 * width; ++k) out[k] = float(line[k]) * b.scale[k] - b.offset[k];
    if (b.noise && y >= how[TOP] && y < how[BOTTOM])
        for (int64_t k = 3 * int64_t(how[LEFT]); k < 3 * int64_t(how[END]); ++k)
            out[k] = b.noise[(how[START] + y * width * 3 + k) % b.noises];
}

void image(const Batch& b, const int32_t* choices, uint8_t* line, float* other, float* out) {
    const int32_t* box = choices + BOX;
    const int64_t values = 3 * b.width;
    float lam;
    std::memcpy(&lam, choices + LAM, sizeof lam);
    const bool cut = box[1] > 0;
    for (int64_t y = 0; y < b.height; ++y, out += values) {
        view(b, choices, y, line, out);
        if (cut) {
            if (y < box[0] || y >= box[1]) continue;
            view(b, choices + MATE, y, line, other);
            std::memcpy(out + 3 * box[2], other + 3 * box[2], 3 * (box[3] - box[2]) * sizeof(float));
        } else if (lam < 1) {
            view(b, choices + MATE, y, line, other);
            const float rest = 1 - lam;
            for (int64_t k = 0; k < values; ++k) out[k] = out[k] * lam + other[k] * rest;
        }
    }
}

}  // namespace

// Images (count, height, width, 3) to `out`. Returns 0, or 1 where there was not enough memory.
extern "C" int rows(const uint8_t* pixels, const int32_t* choices, const float* scale, const float* offset,
                    const float* noise, int64_t noises, int64_t count, int64_t height, int64_t width, int threads,
                    float* out) {
    const Batch batch{pixels, height, width, scale, offset, noise, noises};
    int failed = 0;
#pragma omp parallel num_threads(threads) reduction(| : failed)
    {
        const std::unique_ptr<uint8_t[]> line(new (std::nothrow) uint8_t[3 * width + 1]);
        const std::unique_ptr<float[]> other(new (std::nothrow) float[3 * width + 1]);
        failed |= !line || !other;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < count; ++i)
            if (!failed) image(batch, choices + i * COLUMNS, line.get(), other.get(), out + i * height * width * 3);
    }
    return failed;
}
