/* Block floats and bfloat16 bound to a shape: the compiled twin of block_tiles.py, block_rows.py
 * and plain_codec.py, with their methods and their bits.
 *
 * Everything is done run by run: 16 values are loaded (or decoded from packed terms and added),
 * rounded, and stored (packed, float32 or bfloat16 of two rows) in one pass, without memory of its
 * own. `work` is that loop, compiled for each operation and format; and all from "16 values" on for
 * each width of vectors: the widest that the processor has is chosen. 64 bytes gained too little.
 *
 * Needs GCC or Clang (vector extensions) and a little-endian machine. No product is contracted
 * with a sum (-ffp-contract=off in setup.py): that would be other bits where products overflow. */
#ifndef WIDTH
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <structmember.h>
#if defined(__x86_64__) && !defined(__clang__)
#include <immintrin.h>
#define X86
#endif
#define INLINE static inline __attribute__((always_inline))
#define INTERFACE 2 /* what compiled_codec.py expects; an old build must not be taken */

enum { RUN = 16, TILE = 32, TILE_RUNS = 64, UNLOCKED = 8192, STREAMED = 1 << 22 };
/* UNLOCKED: values from which on other threads run. STREAMED: values that no cache holds. */
enum { VALUES_IN = 1, ROUND = 2, PACKED_OUT = 4, VALUES_OUT = 8, PAIRS = 16 };
enum { PACK = VALUES_IN | ROUND | PACKED_OUT, NEAREST = VALUES_IN | ROUND | VALUES_OUT };
enum { SUM = ROUND | PACKED_OUT, SUM_TWICE = SUM | VALUES_OUT, PAIRS_OUT = PAIRS | VALUES_OUT };

typedef int8_t Data __attribute__((vector_size(16)));
typedef int8_t Four __attribute__((vector_size(4)));
typedef uint8_t Magnitudes __attribute__((vector_size(16)));

typedef struct {
    PyObject_HEAD
    int bits, in_tiles, level; /* bits of a magnitude: 7 or 3; 0 is bfloat16 */
    Py_ssize_t rows, width, runs;
    Py_ssize_t tile_bytes, band_bytes; /* of a tile, of a row of tiles */
    Py_ssize_t n_bytes, row_bytes;     /* of all rows, of a row packed by itself */
} Codec;
typedef struct {
    const Codec *codec;
    char *in, *out, *terms, *packed; /* values, then bytes, that are read and written */
    Py_ssize_t in_stride, out_stride, term_stride, row_stride, n_terms;
    int streams; /* whether values are written past the caches */
} Task;
typedef struct { Py_ssize_t exponent, data; } Below; /* from a row to the next; 0: there is none */

static float UNITS[8][256]; /* by magnitude bits and exponent; filled when loaded */
static char nothing[1];     /* values that an operation does not have; never followed */

/* Exponents for which 2**(150 - E) is no float32, infinity and NaN: the vendor's integers. */
__attribute__((noinline)) static Data encode_unusual(int bits, const uint32_t *word, int32_t E)
{
    const uint32_t shift = 24 - (uint32_t)bits, half = 1u << (shift - 1), limit = (1u << bits) - 1;
    Data data;
    for (int i = 0; i < RUN; i++) {
        uint32_t own = word[i] >> 23 & 255, distance = (uint32_t)E - own;
        uint32_t m = own && distance < 32 ? ((word[i] & 0x7fffff) | 0x800000) >> distance : 0;
        uint32_t q = m >> shift, rest = m & (2 * half - 1);
        q += rest > half || (rest == half && (q & 1));
        data[i] = (int8_t)(q ? (q > limit ? limit : q) | word[i] >> 31 << bits : 0);
    }
    return data;
}

INLINE Data load_data(int bits, const char *from) /* a datum to a byte; the low nibble is first */
{
    uint64_t half[2] = {0};
    Data data;
    memcpy(half, from, bits == 7 ? 16 : 0);
    for (int i = 0; bits == 3 && i < 2; i++) {
        uint32_t some;
        memcpy(&some, from + 4 * i, 4);
        half[i] = (some | (uint64_t)some << 16) & 0x0000ffff0000ffffull;
        half[i] = (half[i] | half[i] << 8) & 0x00ff00ff00ff00ffull;
        half[i] = (half[i] | half[i] << 4) & 0x0f0f0f0f0f0f0f0full;
    }
    memcpy(&data, half, sizeof data);
    return data;
}

INLINE void store_data(int bits, char *to, Data data)
{
    uint64_t half[2];
    memcpy(half, &data, sizeof half);
    memcpy(to, half, bits == 7 ? 16 : 0);
    for (int i = 0; bits == 3 && i < 2; i++) {
        half[i] = (half[i] | half[i] >> 4) & 0x00ff00ff00ff00ffull;
        half[i] = (half[i] | half[i] >> 8) & 0x0000ffff0000ffffull;
        half[i] |= half[i] >> 16;
        memcpy(to + 4 * i, &half[i], 4);
    }
}

/* ---- the levels ------------------------------------------------------------------------- */
#define PASTE(a, b) a##b
#define PASTED(a, b) PASTE(a, b)
#define AT(name) PASTED(name, WIDTH) /* what is compiled more than once has its width in its name */
#define WIDTH 16
#ifdef X86
#pragma GCC push_options
#pragma GCC target("sse4.2,popcnt")
#include "_compiled.c"
#pragma GCC target("avx2,bmi,bmi2")
#undef WIDTH
#define WIDTH 32
#include "_compiled.c"
#pragma GCC pop_options
static void (*const OPERATE[])(const Task *, int) = {operate16, operate32};

static int n_levels(void)
{
    int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    return v2 + (v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"));
}
#else
#include "_compiled.c"
static void (*const OPERATE[])(const Task *, int) = {operate16};
static int n_levels(void) { return 1; }
#endif

/* ---- Python ---------------------------------------------------------------------------- */
/* Check an argument and put it into the task. Kinds: v, V values that are read, written; W pairs
 * of bfloat16, written; p, P packed bytes, read, written; t packed terms. */
static int take(const Codec *codec, PyObject *object, char kind, Py_buffer *view, Task *task)
{
    const int written = kind < 'a', is_packed = strchr("pPt", kind) != NULL;
    const char *format = is_packed ? "B" : kind == 'W' ? "I" : "f";
    const Py_ssize_t n_bytes = codec->in_tiles ? codec->n_bytes : codec->row_bytes;
    if (PyObject_GetBuffer(object, view, written ? PyBUF_RECORDS : PyBUF_RECORDS_RO))
        return -1;
    Py_ssize_t rows = 1, stride = 0, last = view->ndim - 1;
    Py_ssize_t width = last < 0 ? -1 : view->shape[last];
    int fits = width >= 0 && (width < 2 || view->strides[last] == view->itemsize) &&
               !strcmp(view->format + (*view->format == '='), format);
    for (Py_ssize_t i = last - 1; i >= 0; rows *= view->shape[i--]) {
        fits = fits && (rows < 2 || view->shape[i] < 2 || view->strides[i] == rows * stride);
        stride = rows == 1 && view->shape[i] > 1 ? view->strides[i] : stride;
    }
    if (kind == 't')
        fits &= codec->in_tiles && last == 1 && rows && width >= n_bytes;
    else if (is_packed)
        fits &= width == n_bytes && last == !codec->in_tiles && (!last || rows == codec->rows);
    else
        fits &= width == codec->width && rows == codec->rows - (kind == 'W' ? codec->rows / 2 : 0);
    if (!fits) {
        PyErr_Format(PyExc_ValueError,
                     "got %zd rows of %zd items %s; bound are %zd rows of %zd values, %zd bytes; a "
                     "row is contiguous, and rows are equally far apart",
                     rows, width, view->format, codec->rows, codec->width, n_bytes);
        PyBuffer_Release(view);
        return -1;
    }
    *(kind == 'P' ? &task->packed : is_packed ? &task->terms : written ? &task->out : &task->in) =
        view->buf;
    *(is_packed ? &task->row_stride : written ? &task->out_stride : &task->in_stride) = stride;
    if (is_packed && !written)
        task->term_stride = stride, task->n_terms = kind == 't' ? rows : 1;
    if (codec->in_tiles) /* of bfloat16, which has no tiles here */
        task->row_stride = codec->row_bytes;
    return 0;
}

static PyObject *call(
    const Codec *codec, PyObject *const *args, Py_ssize_t n, const char *kinds, int flags)
{
    Py_buffer views[3];
    Task task = {.codec = codec, .in = nothing, .out = nothing};
    int held = 0;
    n -= n == 3 && args[2] == Py_None;
    if (n != 2 && n != (Py_ssize_t)strlen(kinds))
        return PyErr_Format(PyExc_TypeError, "got %zd arguments, wanted %zu", n, strlen(kinds));
    while (held < n && !take(codec, args[held], kinds[held], &views[held], &task))
        held++;
    if (held == n) {
        Py_ssize_t n_values = codec->rows * codec->width * (task.n_terms ? task.n_terms : 1);
        PyThreadState *state = n_values > UNLOCKED ? PyEval_SaveThread() : NULL;
        task.streams = codec->rows * codec->width >= STREAMED &&
                       !(((uintptr_t)task.out | (uintptr_t)task.out_stride) % 16);
        OPERATE[codec->level](&task, n == 3 ? flags | VALUES_OUT : flags);
        if (task.streams)
            __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (state)
            PyEval_RestoreThread(state);
    }
    for (int i = 0; i < held; i++)
        PyBuffer_Release(&views[i]);
    return held == n ? Py_NewRef(Py_None) : NULL;
}

#define METHOD(name, kinds, flags) \
    static PyObject *name(PyObject *self, PyObject *const *args, Py_ssize_t n) \
    { return call((Codec *)self, args, n, kinds, flags); }
METHOD(pack, "vP", PACK)
METHOD(unpack, "pV", VALUES_OUT)
METHOD(unpack_pairs, "pW", PAIRS_OUT)
METHOD(nearest, "vV", NEAREST)
METHOD(add_terms, "tV", VALUES_OUT)
METHOD(pack_sum, "tPV", SUM)

static PyObject *new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(named))
{
    int bits, in_tiles, level = n_levels() - 1;
    Py_ssize_t rows, width;
    if (!PyArg_ParseTuple(args, "ipnn|i", &bits, &in_tiles, &rows, &width, &level))
        return NULL;
    if ((bits && bits != 7 && bits != 3) || (rows | width | level) < 0 || level >= n_levels())
        return PyErr_Format(PyExc_ValueError, "no codec %d %zd %zd %d", bits, rows, width, level);
    Codec *codec = (Codec *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!codec)
        return NULL;
    const Py_ssize_t block_bytes = 1 + RUN * (bits + 1) / 8, runs = (width + RUN - 1) / RUN;
    codec->bits = bits, codec->in_tiles = in_tiles, codec->level = level;
    codec->rows = rows, codec->width = width, codec->runs = runs;
    codec->tile_bytes = TILE_RUNS * block_bytes;
    codec->band_bytes = (width + TILE - 1) / TILE * codec->tile_bytes;
    codec->row_bytes = bits ? runs * block_bytes : 2 * width;
    codec->n_bytes = rows * codec->row_bytes;
    if (bits && in_tiles)
        codec->n_bytes = (rows + TILE - 1) / TILE * codec->band_bytes;
    return (PyObject *)codec;
}

static void dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

#define ENTRY(name, function) {name, (PyCFunction)(void (*)(void))function, METH_FASTCALL, NULL}
static PyMethodDef methods[] = {
    ENTRY("pack", pack), ENTRY("unpack", unpack), ENTRY("unpack_pairs", unpack_pairs),
    ENTRY("round", nearest), ENTRY("add_terms", add_terms), ENTRY("pack_sum", pack_sum), {0}};
static PyMemberDef members[] = {
    {"n_bytes", T_PYSSIZET, offsetof(Codec, n_bytes), READONLY, NULL},
    {"row_bytes", T_PYSSIZET, offsetof(Codec, row_bytes), READONLY, NULL}, {0}};
static PyType_Slot slots[] = {{Py_tp_new, new}, {Py_tp_dealloc, dealloc},
                              {Py_tp_methods, methods}, {Py_tp_members, members}, {0}};
static PyType_Spec spec = {"galaxy_mpi.dtypes._compiled.Codec", sizeof(Codec), 0,
                           Py_TPFLAGS_DEFAULT, slots};

static int fill(PyObject *module)
{
    for (int bits = 3; bits < 8; bits += 4)
        for (int E = 0; E < 256; E++) { /* 2**(E - 127 - (bits - 1)), below E = bits a denormal */
            uint32_t word = E >= bits ? (uint32_t)(E - bits + 1) << 23 : 1u << (23 - bits + E);
            memcpy(&UNITS[bits][E], &word, 4);
        }
    PyObject *type = PyType_FromSpec(&spec);
    int failed = !type || PyModule_AddObjectRef(module, "Codec", type) ||
                 PyModule_AddIntMacro(module, INTERFACE) ||
                 PyModule_AddIntConstant(module, "N_LEVELS", n_levels()); /* 0: before x86-64-v2 */
    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot steps[] = {{Py_mod_exec, fill}, {0}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_compiled", .m_slots = steps};
PyMODINIT_FUNC PyInit__compiled(void) { return PyModuleDef_Init(&definition); }
#else /* WIDTH */
/* ---- 16 values -------------------------------------------------------------------------- */
#undef TRUNCATED
#define PARTS (64 / WIDTH)
#define EACH_PART _Pragma("GCC unroll 4") for (int k = 0; k < PARTS; k++)
#define Floats AT(Floats_)
#define Ints AT(Ints_)
#define Words AT(Words_)
#define Halves AT(Halves_)
#define Values AT(Values_)
#define Bfloats AT(Bfloats_)
typedef float Floats __attribute__((vector_size(WIDTH)));
typedef int32_t Ints __attribute__((vector_size(WIDTH)));
typedef uint32_t Words __attribute__((vector_size(WIDTH)));
typedef uint16_t Halves __attribute__((vector_size(WIDTH / 2)));
typedef struct { Floats part[PARTS]; } Values;
typedef struct { Halves part[PARTS]; } Bfloats;

#if WIDTH == 32
INLINE int32_t AT(shared_exponent)(const Ints *magnitude)
{
    __m256i both = _mm256_max_epi32((__m256i)magnitude[0], (__m256i)magnitude[1]);
    __m128i a = _mm_max_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4e));
    a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xb1));
    return _mm_cvtsi128_si32(a) >> 23;
}

INLINE Data AT(narrow)(const Ints *q) /* -128 to 128; 128 may become either end */
{
    __m256i both = _mm256_packs_epi32((__m256i)q[0], (__m256i)q[1]);
    both = _mm256_permute4x64_epi64(both, 0xd8);
    return (Data)_mm_packs_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
}

INLINE Ints AT(widen)(Data q, int k)
{
    return (Ints)_mm256_cvtepi8_epi32(k ? _mm_srli_si128((__m128i)q, 8) : (__m128i)q);
}

#define TRUNCATED(x) (Floats)_mm256_round_ps((__m256)(x), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC)
#else
INLINE int32_t AT(shared_exponent)(const Ints *magnitude)
{
    Ints a = magnitude[0];
    for (int k = 1; k < PARTS; k++)
        a += (magnitude[k] - a) & (Ints)(magnitude[k] > a);
    int32_t b = a[0] > a[1] ? a[0] : a[1], c = a[2] > a[3] ? a[2] : a[3];
    return (b > c ? b : c) >> 23;
}

INLINE Data AT(narrow)(const Ints *q)
{
    Four four[4];
    Data out;
    EACH_PART four[k] = __builtin_convertvector(q[k] - (q[k] >> 7 & 1 & ~(q[k] >> 31)), Four);
    memcpy(&out, four, sizeof out);
    return out;
}

INLINE Ints AT(widen)(Data q, int k)
{
    Four four;
    memcpy(&four, (char *)&q + 4 * k, sizeof four);
    return __builtin_convertvector(four, Ints);
}

#define TRUNCATED(x) __builtin_convertvector(__builtin_convertvector(x, Ints), Floats)
#endif

/* Return the shared exponent; data as signs and magnitudes, one in a byte. */
INLINE int32_t AT(encode)(int bits, Values x, Data *data)
{
    const int shift = 24 - bits, limit = (1 << bits) - 1;
    const int32_t rounder_word = (150 + shift) << 23 | 1 << 22;
    const float rounder = 1.5f * (float)(1ull << (23 + shift)); /* its bits are those */
    Ints q[PARTS];
    EACH_PART q[k] = (Ints)((Words)x.part[k] & 0x7fffffff);
    int32_t E = AT(shared_exponent)(q);
    if (__builtin_expect((uint32_t)(E - 24) > 230, 0)) {
        uint32_t word[RUN];
        memcpy(word, &x, sizeof word);
        *data = E ? encode_unusual(bits, word, E) : (Data){0};
        return E;
    }
    Floats scale = (Floats)((Words){0} + ((uint32_t)(277 - E) << 23));
    /* x * 2**(150 - E) is the significand shifted by E - e; the bits shifted out are lost. Added
     * to the rounder no bit stays below the last one kept: the sum is rounded as float32 are. */
    EACH_PART q[k] = (Ints)(TRUNCATED(x.part[k] * scale) + rounder) - rounder_word;
    Data some = AT(narrow)(q), negative = (Data)(some < 0);
    Magnitudes magnitude = (Magnitudes)(some ^ negative) - (Magnitudes)negative;
    magnitude += (Magnitudes)(magnitude > (uint8_t)limit); /* saturates: by one at most */
    *data = (Data)magnitude | (negative & (int8_t)(limit + 1));
    return E;
}

INLINE Values AT(decode)(int bits, Data data, uint8_t E)
{
    Data negative = (Data)((data & (int8_t)(1 << bits)) != 0);
    Data q = ((data & (int8_t)((1 << bits) - 1)) ^ negative) - negative;
    Values x;
    EACH_PART x.part[k] = __builtin_convertvector(AT(widen)(q, k), Floats) * UNITS[bits][E];
    return x;
}

INLINE Bfloats AT(to_bfloat16)(Values x) /* nearest, ties to even; NaN to the quiet one */
{
    Bfloats out;
    EACH_PART {
        Words word = (Words)x.part[k], nan = (Words)((Ints)(word & 0x7fffffff) > 0x7f800000);
        Words nearest = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
        Words quiet = ((word >> 16) & 0x8000) | 0x7fc0;
        out.part[k] = __builtin_convertvector((nearest & ~nan) | (quiet & nan), Halves);
    }
    return out;
}

INLINE Values AT(from_bfloat16)(Bfloats from)
{
    Values x;
    EACH_PART x.part[k] = (Floats)(__builtin_convertvector(from.part[k], Words) << 16);
    return x;
}

INLINE Values AT(term)(int bits, const char *exponent, const char *data, Py_ssize_t n)
{
    if (bits)
        return AT(decode)(bits, load_data(bits, data), (uint8_t)*exponent);
    Bfloats some = {0};
    if (n == RUN)
        EACH_PART memcpy(&some.part[k], data + k * WIDTH / 2, WIDTH / 2);
    else
        memcpy(&some, data, 2 * (size_t)n);
    return AT(from_bfloat16)(some);
}

/* ---- the loop --------------------------------------------------------------------------- */
/* n values; exponent and data are places in packed bytes, below how far on the next row's are. */
INLINE void AT(run)(const Task *task, int bits, int flags, const char *in, char *out,
                    Py_ssize_t exponent, Py_ssize_t data, Below below, Py_ssize_t n)
{
    const char *terms = task->terms;
    Values x = {0}, y = {0};
    if (flags & VALUES_IN && n == RUN) {
        EACH_PART memcpy(&x.part[k], in + k * WIDTH, WIDTH);
    } else if (flags & VALUES_IN) {
        memcpy(&x, in, 4 * (size_t)n);
    } else {
        x = AT(term)(bits, terms + exponent, terms + data, n);
        for (Py_ssize_t i = 1; i < task->n_terms; i++) {
            terms += task->term_stride;
            Values more = AT(term)(bits, terms + exponent, terms + data, n);
            EACH_PART x.part[k] = x.part[k] + more.part[k];
        }
        if (flags & ROUND && n < RUN) /* whatever was in the padding, zeros will be */
            memset((char *)&x + 4 * n, 0, 4 * (size_t)(RUN - n));
    }
    if (flags & ROUND && bits) {
        Data rounded;
        int32_t E = AT(encode)(bits, x, &rounded);
        if (flags & PACKED_OUT) {
            task->packed[exponent] = (char)E;
            store_data(bits, task->packed + data, rounded);
        }
        if (flags & VALUES_OUT)
            x = AT(decode)(bits, rounded, (uint8_t)E);
    } else if (flags & ROUND) {
        Bfloats rounded = AT(to_bfloat16)(x);
        if (flags & PACKED_OUT)
            memcpy(task->packed + data, &rounded, 2 * (size_t)n);
        if (flags & VALUES_OUT)
            x = AT(from_bfloat16)(rounded);
    }
    if (flags & PAIRS) { /* values are bfloat16 already; of two rows they share a word */
        if (below.data)
            y = AT(term)(bits, terms + exponent + below.exponent, terms + data + below.data, n);
        EACH_PART x.part[k] = (Floats)((Words)x.part[k] >> 16 | ((Words)y.part[k] & 0xffff0000));
    }
#if WIDTH == 32
    if (flags & VALUES_OUT && n == RUN && task->streams)
        for (int k = 0; k < 4; k++)
            _mm_stream_ps((float *)out + 4 * k, ((const __m128 *)&x)[k]);
    else
#endif
    if (flags & VALUES_OUT)
        memcpy(out, &x, 4 * (size_t)n);
}

INLINE void AT(row)(const Task *task, int bits, int flags, Py_ssize_t row)
{
    const Codec *codec = task->codec;
    const Py_ssize_t block = bits == 7 ? 16 : bits == 3 ? 8 : 32;
    /* From a run to the next, which is in another face, and to the next but one. */
    Py_ssize_t e_next = 1, d_next = block, e_pair = 2, d_pair = 2 * block;
    Py_ssize_t stride = task->row_stride, e = row * stride, d = e + (bits ? codec->runs : 0);
    Below below = {stride, stride};
    if (bits && codec->in_tiles) {
        const Py_ssize_t run = row % TILE / RUN * 2 * RUN + row % RUN;
        e = row / TILE * codec->band_bytes + run;
        d = e - run + TILE_RUNS + run * block, below = (Below){1, block};
        e_next = RUN, d_next = RUN * block, e_pair = d_pair = codec->tile_bytes;
    }
    below.data *= row + 1 < codec->rows;
    const char *in = task->in + row * task->in_stride;
    char *out = task->out + (flags & PAIRS ? row / 2 : row) * task->out_stride;
    Py_ssize_t n = codec->width;
    for (; n >= 2 * RUN; n -= 2 * RUN) { /* two whole runs, side by side */
        AT(run)(task, bits, flags, in, out, e, d, below, RUN);
        AT(run)(task, bits, flags, in + RUN * 4, out + RUN * 4, e + e_next, d + d_next, below, RUN);
        in += 2 * RUN * 4, out += 2 * RUN * 4, e += e_pair, d += d_pair;
    }
    for (; n > 0; n -= RUN, in += RUN * 4, out += RUN * 4, e += e_next, d += d_next)
        AT(run)(task, bits, flags, in, out, e, d, below, n < RUN ? n : RUN);
}

INLINE void AT(work)(const Task *task, int bits, int flags)
{
    const Codec *codec = task->codec;
    for (Py_ssize_t top = 0; top < codec->rows; top += TILE) {
        Py_ssize_t end = codec->rows < top + TILE ? codec->rows : top + TILE;
        /* Tiles with padding: all is zeroed, and what is no padding is written below. */
        Py_ssize_t n = codec->width % TILE ? codec->tile_bytes : 0;
        n = end - top < TILE ? codec->band_bytes : n;
        if (flags & PACKED_OUT && bits && codec->in_tiles)
            memset(task->packed + (top / TILE + 1) * codec->band_bytes - n, 0, (size_t)n);
        for (Py_ssize_t row = top; row < end; row += flags & PAIRS ? 2 : 1)
            AT(row)(task, bits, flags, row);
    }
}

static void AT(operate)(const Task *task, int flags)
{
    const int bits = task->codec->bits;
#define IF(F) \
    if (flags == F) \
        bits == 7 ? AT(work)(task, 7, F) : bits ? AT(work)(task, 3, F) : AT(work)(task, 0, F);
    IF(PACK) IF(NEAREST) IF(VALUES_OUT) IF(PAIRS_OUT) IF(SUM) IF(SUM_TWICE)
}
#endif
