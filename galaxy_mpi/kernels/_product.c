/* Products of bfloat16 matrices, added in float32: what decode does with a piece of a weight as soon
 * as it is unpacked, while it is still in the cache.
 *
 *     add_product(x, w, out, adds, level)   out[m, n] = (adds ? out[m, n] : 0) + sum_k x[m, k] w[k, n]
 *
 * x (M, K) and w (K, N) are uint16 arrays that hold bfloat16, out (M, N) is float32; K is even, rows
 * are contiguous and may lie any distance apart. A row of the result is computed alike whatever the
 * other rows are and however many: along k, in its order. A product of two bfloat16 is exact in
 * float32, so only the sums are rounded.
 *
 * With AVX-512's bfloat16 instructions denormals count as zero, and a pair is added at once. Needs GCC
 * or Clang (vector extensions) and a little-endian machine. */
#include <Python.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 10
#include <immintrin.h>
#define X86
#endif
#define INLINE static inline __attribute__((always_inline))
#define INTERFACE 1 /* what multiply.py expects; an old build must not be taken */

enum { UNLOCKED = 1 << 18 }; /* multiplications from which on other threads run */

typedef struct {
    const uint16_t *x, *w;
    float *out;
    Py_ssize_t x_stride, w_stride, out_stride; /* in items */
    Py_ssize_t rows, depth, width;
    int adds;
} Task;

/* ---- any processor: 4 rows by 16 columns ------------------------------------------------- */
enum { WIDE = 16, TALL = 4 };
typedef float Floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint16_t Halves __attribute__((vector_size(16), aligned(2), may_alias));

INLINE float widened(uint16_t half)
{
    const uint32_t word = (uint32_t)half << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

INLINE void few(const Task *t, Py_ssize_t m, int rows, Py_ssize_t n)
{
    Floats low[TALL], high[TALL];
    float *out = t->out + m * t->out_stride + n;
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        const float *from = out + i * t->out_stride;
        low[i] = t->adds ? *(const Floats *)from : (Floats){0};
        high[i] = t->adds ? *(const Floats *)(from + 8) : (Floats){0};
    }
    for (Py_ssize_t k = 0; k < t->depth; k++) {
        const uint16_t *w = t->w + k * t->w_stride + n;
        Floats a = (Floats)(__builtin_convertvector(*(const Halves *)w, Words) << 16);
        Floats b = (Floats)(__builtin_convertvector(*(const Halves *)(w + 8), Words) << 16);
#pragma GCC unroll 4
        for (int i = 0; i < rows; i++) {
            const float x = widened(t->x[(m + i) * t->x_stride + k]);
            low[i] += x * a, high[i] += x * b;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < rows; i++) {
        *(Floats *)(out + i * t->out_stride) = low[i];
        *(Floats *)(out + i * t->out_stride + 8) = high[i];
    }
}

INLINE void multiply(const Task *t)
{
    Py_ssize_t n = 0;
    for (; n + WIDE <= t->width; n += WIDE) {
        Py_ssize_t m = 0;
        for (; m + TALL <= t->rows; m += TALL)
            few(t, m, TALL, n);
        for (; m < t->rows; m++)
            few(t, m, 1, n);
    }
    for (; n < t->width; n++)
        for (Py_ssize_t m = 0; m < t->rows; m++) {
            float *out = t->out + m * t->out_stride + n, sum = t->adds ? *out : 0;
            for (Py_ssize_t k = 0; k < t->depth; k++)
                sum += widened(t->x[m * t->x_stride + k]) * widened(t->w[k * t->w_stride + n]);
            *out = sum;
        }
}

static void multiply_any(const Task *t) { multiply(t); }

#ifdef X86
__attribute__((target("avx2,fma"))) static void multiply_256(const Task *t) { multiply(t); }

/* ---- AVX-512 with bfloat16: 8 rows by 32 columns ------------------------------------------ */
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512bf16")
INLINE void many(const Task *t, Py_ssize_t m, int rows, Py_ssize_t n, __mmask32 columns)
{
    __m512 low[8], high[8];
    const uint16_t *x = t->x + m * t->x_stride, *w = t->w + n;
    float *out = t->out + m * t->out_stride + n;
    const __mmask16 left = (__mmask16)columns, right = (__mmask16)(columns >> 16);
    /* Interleaving works on quarters of a register, so sums lie in another order until the end. */
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        low[i] = high[i] = _mm512_setzero_ps();
    for (Py_ssize_t k = 0; k < t->depth; k += 2, w += 2 * t->w_stride) {
        __m512i even = _mm512_maskz_loadu_epi16(columns, w);
        __m512i odd = _mm512_maskz_loadu_epi16(columns, w + t->w_stride);
        __m512bh a = (__m512bh)_mm512_unpacklo_epi16(even, odd);
        __m512bh b = (__m512bh)_mm512_unpackhi_epi16(even, odd);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            int32_t pair;
            memcpy(&pair, x + i * t->x_stride + k, 4);
            __m512bh both = (__m512bh)_mm512_set1_epi32(pair);
            low[i] = _mm512_dpbf16_ps(low[i], both, a);
            high[i] = _mm512_dpbf16_ps(high[i], both, b);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++, out += t->out_stride) {
        __m512 one = _mm512_permutex2var_ps(low[i], first, high[i]);
        __m512 other = _mm512_permutex2var_ps(low[i], second, high[i]);
        if (t->adds) {
            one = _mm512_add_ps(_mm512_maskz_loadu_ps(left, out), one);
            other = _mm512_add_ps(_mm512_maskz_loadu_ps(right, out + 16), other);
        }
        _mm512_mask_storeu_ps(out, left, one);
        _mm512_mask_storeu_ps(out + 16, right, other);
    }
}

static void multiply_512(const Task *t)
{
    for (Py_ssize_t n = 0; n < t->width; n += 32) {
        const Py_ssize_t left = t->width - n;
        const __mmask32 columns = left < 32 ? (1u << left) - 1 : ~0u;
        Py_ssize_t m = 0;
        for (; m + 8 <= t->rows; m += 8)
            many(t, m, 8, n, columns);
        for (; m < t->rows; m++)
            many(t, m, 1, n, columns);
    }
}
#pragma GCC pop_options

static void (*const MULTIPLY[])(const Task *) = {multiply_any, multiply_256, multiply_512};

static int n_levels(void)
{
    __builtin_cpu_init();
    int has_256 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    int has_512 = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl");
    return 1 + has_256 + (has_256 && has_512);
}
#else
static void (*const MULTIPLY[])(const Task *) = {multiply_any};
static int n_levels(void) { return 1; }
#endif

/* ---- Python -------------------------------------------------------------------------------- */
static int take(PyObject *object, const char *format, int flags, Py_buffer *view)
{
    if (PyObject_GetBuffer(object, view, flags))
        return -1;
    const Py_ssize_t item = view->itemsize;
    if (view->ndim == 2 && !strcmp(view->format + (*view->format == '='), format) &&
        (view->shape[1] < 2 || view->strides[1] == item) && view->strides[0] % item == 0)
        return 0;
    PyErr_Format(PyExc_ValueError, "got %d dims of items %s; wanted 2 of %s, rows contiguous",
                 view->ndim, view->format, format);
    PyBuffer_Release(view);
    return -1;
}

/* Levels: 0 is any processor, on x86-64 1 has AVX2, 2 AVX-512 with bfloat16. */
static PyObject *add_product(PyObject *Py_UNUSED(self), PyObject *args)
{
    PyObject *x, *w, *out;
    int adds, level;
    Py_buffer a, b, c;
    if (!PyArg_ParseTuple(args, "OOOpi", &x, &w, &out, &adds, &level))
        return NULL;
    if (level < 0 || level >= n_levels())
        return PyErr_Format(PyExc_ValueError, "no level %d on this processor", level);
    if (take(x, "H", PyBUF_RECORDS_RO, &a))
        return NULL;
    if (take(w, "H", PyBUF_RECORDS_RO, &b)) {
        PyBuffer_Release(&a);
        return NULL;
    }
    if (take(out, "f", PyBUF_RECORDS, &c)) {
        PyBuffer_Release(&a);
        PyBuffer_Release(&b);
        return NULL;
    }
    const Task task = {a.buf,           b.buf,           c.buf,      a.strides[0] / 2, b.strides[0] / 2,
                       c.strides[0] / 4, a.shape[0],     a.shape[1], b.shape[1],       adds};
    const int fits = a.shape[1] == b.shape[0] && c.shape[0] == a.shape[0] &&
                     c.shape[1] == b.shape[1] && a.shape[1] % 2 == 0;
    if (!fits) {
        PyErr_Format(PyExc_ValueError, "cannot multiply (%zd, %zd) by (%zd, %zd) into (%zd, %zd); "
                     "the inner dim must be equal and even",
                     a.shape[0], a.shape[1], b.shape[0], b.shape[1], c.shape[0], c.shape[1]);
    } else {
        const int unlocks = task.rows * task.depth * task.width > UNLOCKED;
        PyThreadState *state = unlocks ? PyEval_SaveThread() : NULL;
        MULTIPLY[level](&task);
        if (state)
            PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&a);
    PyBuffer_Release(&b);
    PyBuffer_Release(&c);
    return fits ? Py_NewRef(Py_None) : NULL;
}

static int fill(PyObject *module)
{
    return PyModule_AddIntMacro(module, INTERFACE) ||
           PyModule_AddIntConstant(module, "N_LEVELS", n_levels()) ? -1 : 0;
}

static PyMethodDef methods[] = {{"add_product", add_product, METH_VARARGS, NULL}, {0}};
static PyModuleDef_Slot steps[] = {{Py_mod_exec, fill}, {0}};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_product",
                                 .m_methods = methods, .m_slots = steps};
PyMODINIT_FUNC PyInit__product(void) { return PyModuleDef_Init(&definition); }
