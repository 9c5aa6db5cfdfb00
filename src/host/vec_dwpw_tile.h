/* Register tiles of the fused separable half: eight depthwise outputs, and six by two or twelve by one vectors of a
 * matrix product. They touch scratch only, and know nothing of images.
 *
 * Tiles are structs of named vectors and the steps are macros over literal indices, because arrays of vectors indexed
 * in unrolled loops are not reliably kept in registers.
 */
#ifndef DASS_VEC_DWPW_TILE_H
#define DASS_VEC_DWPW_TILE_H

#include "vec.h"

#define INLINE static inline __attribute__((always_inline))
#define VL DASS_VL

typedef float vfa __attribute__((vector_size(DASS_VL * 4), may_alias)); /* aligned access to scratch */
#define ALOAD(p) (*(const vfa *)(const void *)(p))
#define ASTORE(p, v) (*(vfa *)(void *)(p) = (v))

typedef struct tile8 {
    vf a0, a1, a2, a3, a4, a5, a6, a7;
} tile8;

typedef struct tile12 {
    vf a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11;
} tile12;

/* Pins the sums of a tile to registers once per step: without it the compiler moves loads of later steps up and spills
 * sums. Also keeps it from carrying loaded values over iterations. Nothing is executed. */
#if (defined(__AVX512F__) && DASS_VL == 16) || (defined(__AVX__) && !defined(__AVX512F__) && DASS_VL == 8)
#define PIN(...) __asm__ volatile("" : __VA_ARGS__ : : "memory")
#define IN_REG(v) "+v"(v)
#else
#define PIN(...) ((void)0)
#endif

/* Asks for the cache line that will be needed about one block of pixels later: images stream from memory, and the
 * hardware's prefetchers lose the thread between the phases of a block. Addresses past a tensor's end are harmless, and
 * made as integers because pointers there would not be valid. */
#define FETCH(p, floats) __builtin_prefetch((const void *)((uintptr_t)(p) + (uintptr_t)(floats) * 4))
#define FETCH_W(p, floats) __builtin_prefetch((const void *)((uintptr_t)(p) + (uintptr_t)(floats) * 4), 1)

/* What the next block of pixels will read, asked for a few cache lines at every tile of this block's product: a phase
 * that only loads would wait for memory with its arithmetic idle, and a phase that computes leaves memory idle. */
typedef struct fetch_ahead {
    uintptr_t at[3];
    int lines[3]; /* a tile */
} fetch_ahead;
INLINE void fetch_some(fetch_ahead *a)
{
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < a->lines[i]; j++) __builtin_prefetch((const void *)(a->at[i] + 64 * (uintptr_t)j));
        a->at[i] += 64 * (uintptr_t)a->lines[i];
    }
}
/* Stream i: `floats` from p on, over `tiles` tiles. */
INLINE void fetch_plan(fetch_ahead *a, int i, const float *p, ptrdiff_t skip, ptrdiff_t floats, int tiles)
{
    a->at[i] = (uintptr_t)p + 4 * (uintptr_t)skip;
    a->lines[i] = p ? (int)((floats / 16 + tiles - 1) / tiles) : 0;
}

#define EACH8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

/* max(x, 0) that keeps NaN. */
INLINE vf relu_keep_nan(vf x)
{
    const vf zero = {0};
    return (vf)((vi)x & ~(vi)(x < zero));
}

/* Copies n < 16 floats in pieces of constant size: a loop over single floats costs more than the rest of a pixel. */
INLINE void copy_lanes(float *to, const float *from, int n)
{
    if (VL > 8 && (n & 8)) {
        memcpy(to, from, 8 * sizeof *to);
        to += 8;
        from += 8;
    }
    if (VL > 4 && (n & 4)) {
        memcpy(to, from, 4 * sizeof *to);
        to += 4;
        from += 4;
    }
    if (n & 2) {
        memcpy(to, from, 2 * sizeof *to);
        to += 2;
        from += 2;
    }
    if (n & 1) *to = *from;
}

/* The first n lanes of a vector that starts at p; the others 0. before: floats of the same pixel in front of p. With a
 * whole vector there, the lanes come from one load that ends where the pixel does. */
INLINE vf load_lanes(const float *p, int n, int before)
{
    float b[VL] __attribute__((aligned(64))) = {0};
    if (n >= VL) return VLOAD(p);
    if (before >= VL) {
        vi lane;
        for (int i = 0; i < VL; i++) lane[i] = i;
        const vf v = VLOAD(p + n - VL);
        return (vf)((vi)__builtin_shuffle(v, lane + (VL - n)) & (vi)(lane < n));
    }
    copy_lanes(b, p, n);
    return ALOAD(b);
}

INLINE void store_lanes(float *p, vf v, int n)
{
    float b[VL] __attribute__((aligned(64)));
    if (n >= VL) {
        VSTORE(p, v);
        return;
    }
    ASTORE(b, v);
    copy_lanes(p, b, n);
}

static void add_to_double(double *dst, const float *src, int n)
{
    for (int i = 0; i < n; i++) dst[i] += (double)src[i];
}

/* ---- depthwise tiles --------------------------------------------------------------------------------------- */

#define DW_W(t) ((t) == 0 ? w0 : (t) == 1 ? w1 : (t) == 2 ? w2 : (t) == 3 ? w3 : w4)
#define DW_O(o, j)                                                                     \
    if ((j) >= (o)*st && ((j) - (o)*st) % d == 0 && ((j) - (o)*st) / d < ks)            \
        t.a##o += x * DW_W(((j) - (o)*st) / d);
#define DW_J(j)                                                                        \
    if ((j) <= 7 * st + (ks - 1) * d) {                                                \
        const vf x = ALOAD(p + (j)*VL);                                                \
        DW_O(0, j) DW_O(1, j) DW_O(2, j) DW_O(3, j) DW_O(4, j) DW_O(5, j) DW_O(6, j) DW_O(7, j) \
    }

/* Eight neighbouring outputs of a depthwise convolution with kr rows of ks taps, columns d apart, outputs st apart.
 * Each input vector is loaded once per tap row and used by every output it reaches. w: [kr][ks][lane]. */
INLINE tile8 dw_tile(const float *src, ptrdiff_t row_step, const float *w, int kr, const int ks, const int d,
                     const int st)
{
    tile8 t = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
    for (int r = 0; r < kr; r++) {
        const float *p = src + r * row_step;
        const vf w0 = ALOAD(w);
        const vf w1 = ks > 1 ? (vf)ALOAD(w + VL) : w0;
        const vf w2 = ks > 2 ? (vf)ALOAD(w + 2 * VL) : w0;
        const vf w3 = ks > 3 ? (vf)ALOAD(w + 3 * VL) : w0;
        const vf w4 = ks > 4 ? (vf)ALOAD(w + 4 * VL) : w0;
        DW_J(0) DW_J(1) DW_J(2) DW_J(3) DW_J(4) DW_J(5) DW_J(6) DW_J(7) DW_J(8) DW_J(9) DW_J(10) DW_J(11)
        DW_J(12) DW_J(13) DW_J(14) DW_J(15) DW_J(16) DW_J(17) DW_J(18) DW_J(19) DW_J(20) DW_J(21) DW_J(22)
        w += ks * VL;
    }
    return t;
}

/* The same for any kernel. */
INLINE tile8 dw_tile_any(const float *src, ptrdiff_t row_step, const float *w, int kr, int ks, int d, int st)
{
    tile8 t = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
    const ptrdiff_t o = (ptrdiff_t)st * VL;
    for (int r = 0; r < kr; r++) {
        for (int j = 0; j < ks; j++) {
            const float *p = src + r * row_step + (ptrdiff_t)j * d * VL;
            const vf wv = ALOAD(w);
#define STEP(i) t.a##i += ALOAD(p + i * o) * wv;
            EACH8(STEP)
#undef STEP
            w += VL;
        }
    }
    return t;
}

/* ---- pointwise product ------------------------------------------------------------------------------------- */

#define HOLD12(t)                                                                      \
    PIN(IN_REG(t.a0), IN_REG(t.a1), IN_REG(t.a2), IN_REG(t.a3), IN_REG(t.a4), IN_REG(t.a5), IN_REG(t.a6), \
        IN_REG(t.a7), IN_REG(t.a8), IN_REG(t.a9), IN_REG(t.a10), IN_REG(t.a11));
#define MM2(i, x0, x1) { const float b = a[i * lda]; t.x0 += b * w0; t.x1 += b * w1; }
#define MM2_K(u)                                                                       \
    {                                                                                  \
        const vf w0 = ALOAD(w + (u)*2 * VL), w1 = ALOAD(w + ((u)*2 + 1) * VL);         \
        const float *a = a0 + (u);                                                     \
        MM2(0, a0, a1) MM2(1, a2, a3) MM2(2, a4, a5) MM2(3, a6, a7) MM2(4, a8, a9) MM2(5, a10, a11) \
    }
/* Six pixels by two vectors: sum over kk of a[pixel][k] w[k]; kk is a multiple of 4. */
INLINE tile12 mm_6x2(const float *a0, ptrdiff_t lda, const float *w, int kk)
{
    tile12 t = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
    for (int i = 0; i < kk; i += 4) {
        MM2_K(0) HOLD12(t) MM2_K(1) HOLD12(t) MM2_K(2) HOLD12(t) MM2_K(3) HOLD12(t)
        a0 += 4;
        w += 8 * VL;
    }
    return t;
}

#define MM1(i) t.a##i += a[i * lda] * w0;
#define MM1_K(u)                                                                       \
    {                                                                                  \
        const vf w0 = ALOAD(w + (u)*VL);                                               \
        const float *a = a0 + (u);                                                     \
        MM1(0) MM1(1) MM1(2) MM1(3) MM1(4) MM1(5) MM1(6) MM1(7) MM1(8) MM1(9) MM1(10) MM1(11) \
    }
/* Twelve pixels by one vector. */
INLINE tile12 mm_12x1(const float *a0, ptrdiff_t lda, const float *w, int kk)
{
    tile12 t = {{0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}};
    for (int i = 0; i < kk; i += 4) {
        MM1_K(0) HOLD12(t) MM1_K(1) HOLD12(t) MM1_K(2) HOLD12(t) MM1_K(3) HOLD12(t)
        a0 += 4;
        w += 4 * VL;
    }
    return t;
}

/* The tile as [pixel][vector][lane], for the ragged edges. */
INLINE void tile_dump(float *b, tile12 t)
{
#define STEP(i) ASTORE(b + i * VL, t.a##i);
    EACH8(STEP) STEP(8) STEP(9) STEP(10) STEP(11)
#undef STEP
}

#endif
