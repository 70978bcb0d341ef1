// A part of a JPEG image, by the libjpeg-turbo that Pillow brings along. Compiled by part.py.
//
// What lies beside and above the part is read, as the code of a JPEG has no entry points, but not computed: no inverse
// DCT, no colours. What lies below is read too, so that damage is found there as by a decoder of the whole image.
//
// Pillow's wheels have the library without its header, so what is used of its interface is declared here. Its layout is
// that of all versions for 25 years; `jpeg_CreateDecompress` refuses a caller whose structure has another size.

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace {

struct Decoder;

// libjpeg's jpeg_error_mgr.
struct Messages {
    void (*error_exit)(Decoder*);
    void (*emit_message)(Decoder*, int level);
    void (*others[3])();
    char state[128];
    // Ours, beyond what the library knows of.
    std::jmp_buf failed;
};

// libjpeg's jpeg_decompress_struct, up to the last field that is used.
struct Decoder {
    Messages* messages;
    void* mem;
    void* progress;
    void* client;
    int is_decompressor, state;
    void* source;
    unsigned width, height;
    int components, colours, out_colours;
    unsigned scale[2];
    double gamma;
    int buffered, raw, dct, fancy_upsampling, smoothing, quantize, dither, two_passes, most_colours, passes[3];
    unsigned out_width, out_height;
    int out_channels, components_out, rows_at_once, found_colours;
    void* colourmap;
    unsigned row;
};
static_assert(offsetof(Decoder, row) == 168, "libjpeg's layout on 64-bit systems");
static_assert(offsetof(Messages, failed) >= 168, "room for the whole of jpeg_error_mgr");

// libjpeg-turbo's JCS_EXT_RGBX.
constexpr int RGBX = 7;
// Upsampling looks at the neighbours of a pixel, of which the colours may have half the resolution.
constexpr unsigned NEIGHBOURS = 4;

// The library's functions, in the order of part.py's FUNCTIONS.
struct Library {
    Messages* (*standard)(Messages*);
    void (*create)(Decoder*, int version, size_t size);
    void (*source)(Decoder*, const uint8_t*, unsigned long);
    int (*header)(Decoder*, int);
    int (*start)(Decoder*);
    void (*crop)(Decoder*, unsigned* left, unsigned* width);
    unsigned (*skip)(Decoder*, unsigned);
    unsigned (*read)(Decoder*, uint8_t**, unsigned);
    int (*finish)(Decoder*);
    void (*destroy)(Decoder*);
};

void fail(Decoder* decoder) { std::longjmp(decoder->messages->failed, 1); }
void fail_of_warnings(Decoder* decoder, int level) {
    if (level < 0) fail(decoder);
}

}  // namespace

// The pixels, of four bytes, of rows `top` to `top + height` and columns `left` to `left + width` of an image of `whole` columns.
// Returns 0, or 1 where the library does not decode it without any complaint; then `out` may hold anything.
// `version` and `size` are those of the library's interface.
extern "C" int decode_part(const Library* library, int version, size_t size, const uint8_t* bytes, size_t count,
                           unsigned whole, unsigned top, unsigned left, unsigned height, unsigned width,
                           uint8_t* out) {
    alignas(16) unsigned char memory[1024];
    const std::unique_ptr<uint8_t[]> line(new (std::nothrow) uint8_t[size_t(whole) * 4]);
    if (size > sizeof memory || !line) return 1;
    std::memset(memory, 0, sizeof memory);
    Decoder* decoder = reinterpret_cast<Decoder*>(memory);
    Messages messages;
    decoder->messages = library->standard(&messages);
    messages.error_exit = fail;
    messages.emit_message = fail_of_warnings;
    if (setjmp(messages.failed)) {
        if (decoder->mem) library->destroy(decoder);
        return 1;
    }
    library->create(decoder, version, size);
    library->source(decoder, bytes, count);
    library->header(decoder, 1);
    if (decoder->width != whole || top + height > decoder->height || left + width > whole || decoder->components != 3)
        fail(decoder);
    decoder->out_colours = RGBX;
    library->start(decoder);
    unsigned first = left > NEIGHBOURS ? left - NEIGHBOURS : 0;
    const unsigned last = left + width + NEIGHBOURS < whole ? left + width + NEIGHBOURS : whole;
    unsigned columns = last - first;
    if (columns < whole) library->crop(decoder, &first, &columns);
    uint8_t* to = line.get();
    if (top) library->skip(decoder, top);
    while (decoder->row < top + height) {
        if (library->read(decoder, &to, 1) != 1) fail(decoder);
        std::memcpy(out, to + 4 * size_t(left - first), 4 * size_t(width));
        out += 4 * size_t(width);
    }
    if (decoder->row + 1 < decoder->out_height) library->skip(decoder, decoder->out_height - 1 - decoder->row);
    while (decoder->row < decoder->out_height)
        if (library->read(decoder, &to, 1) != 1) fail(decoder);
    library->finish(decoder);
    library->destroy(decoder);
    return 0;
}
