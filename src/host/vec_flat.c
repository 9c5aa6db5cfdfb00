/* Vector loops over flat buffers: masks, optimisers, the square norm. Maps, except for norm2, which sums a chunk in
 * double.
 */
#include "vec.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_FLAT(X)
#undef X

#define INLINE static inline __attribute__((always_inline))

/* Half as many lanes, in double and in float: they fill one register each where vf does. */
typedef double vd __attribute__((vector_size(DASS_VL * 4)));
typedef float vhu __attribute__((vector_size(DASS_VL * 2), aligned(4), may_alias));

/* Lane l: all ones where bit l of `word` is set. */
INLINE vi expand(uint64_t word)
{
    vi lane;
    for (int l = 0; l < DASS_VL; l++)
        lane[l] = 1 << l;
    return (((vi){0} + (int32_t)(word & 0xffff)) & lane) == lane;
}

INLINE bool bit_at(const uint64_t *bits, int64_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

void DASS_VEC(mask_apply)(const float *x, const uint64_t *bits, int64_t n, float *dst)
{
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        const uint64_t word = bits[i / 64];
        for (int j = 0; j < 64; j += DASS_VL)
            VSTORE(dst + i + j, (vf)(expand(word >> j) & (vi)VLOAD(x + i + j)));
    }
    for (; i < n; i++)
        dst[i] = bit_at(bits, i) ? x[i] : 0;
}

void DASS_VEC(mask_scores)(const float *d, const float *w, const float *s, int64_t n, float *dst)
{
    const vf zero = {0};
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        const vf t = VLOAD(d + i) * VLOAD(w + i);
        const vf v = VLOAD(s + i);
        VSTORE(dst + i, (vf)(((v > zero) & (vi)t) | ((v < zero) & (vi)-t)));
    }
    for (; i < n; i++) {
        const float t = d[i] * w[i];
        dst[i] = s[i] > 0 ? t : s[i] < 0 ? -t : 0;
    }
}

void DASS_VEC(mask_above)(const float *s, int64_t n, uint32_t t, bool equal, uint8_t *keep)
{
    const int32_t above = equal ? (int32_t)t - 1 : (int32_t)t; /* |s| has its top bit clear: signed order is enough */
    for (int64_t i = 0; i < n; i++) {
        int32_t b;
        memcpy(&b, s + i, sizeof b);
        keep[i] = (b & 0x7fffffff) > above;
    }
}

void DASS_VEC(mask_pack)(const uint8_t *keep, int64_t n, uint64_t *bits)
{
    for (int64_t i = 0; i < n; i += 64) {
        uint64_t word = 0;
        if (i + 64 <= n) {
            for (int j = 0; j < 64; j += 8) {
                uint64_t b; /* eight bytes of 0 or 1: the product collects them in its top byte, the first one lowest */
                memcpy(&b, keep + i + j, sizeof b);
                word |= (b * UINT64_C(0x0102040810204080) >> 56) << j;
            }
        } else {
            for (int64_t j = i; j < n; j++)
                word |= (uint64_t)keep[j] << (j - i);
        }
        bits[i / 64] = word;
    }
}

double DASS_VEC(norm2)(const float *x, int64_t n)
{
    enum { HALF = DASS_VL / 2 };
    vd sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * HALF <= n; i += 4 * HALF)
        for (int j = 0; j < 4; j++) {
            const vd v = __builtin_convertvector(*(const vhu *)(x + i + j * HALF), vd);
            sum[j] += v * v;
        }
    const vd all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    double s = 0;
    for (int l = 0; l < HALF; l++)
        s += all[l];
    for (; i < n; i++)
        s += (double)x[i] * (double)x[i];
    return s;
}

INLINE void sgd(const dass__v_sgd *a, const float *theta, const float *m, const float *grad, const uint64_t *bits,
                int64_t n, float *theta_out, float *m_out)
{
    const vf decay = VSET1(a->decay);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (int j = 0; j < 64; j += DASS_VL) {
            const vf t = VLOAD(theta + i + j);
            const vf wd = bits ? (vf)(expand(bits[i / 64] >> j) & (vi)decay) : decay;
            const vf d = VLOAD(grad + i + j) * a->scale + wd * t;
            const vf v = VLOAD(m + i + j) * a->momentum + d;
            VSTORE(m_out + i + j, v);
            VSTORE(theta_out + i + j, t - v * a->lr);
        }
    for (; i < n; i++) {
        const float wd = !bits || bit_at(bits, i) ? a->decay : 0;
        const float v = a->momentum * m[i] + (a->scale * grad[i] + wd * theta[i]);
        m_out[i] = v;
        theta_out[i] = theta[i] - a->lr * v;
    }
}

void DASS_VEC(sgd)(const dass__v_sgd *a, const float *theta, const float *m, const float *grad, const uint64_t *bits,
                   int64_t n, float *theta_out, float *m_out)
{
    if (bits)
        sgd(a, theta, m, grad, bits, n, theta_out, m_out);
    else
        sgd(a, theta, m, grad, NULL, n, theta_out, m_out);
}

/* Vector types have no square root of their own; the compiler makes one instruction of this loop. */
INLINE vf root(vf v)
{
    vf r;
    for (int l = 0; l < DASS_VL; l++)
        r[l] = __builtin_sqrtf(v[l]);
    return r;
}

void DASS_VEC(adam)(const dass__v_adam *a, const float *theta, const float *m, const float *v, const float *grad,
                    int64_t n, float *theta_out, float *m_out, float *v_out)
{
    const float rate = a->lr * a->correct1;
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL) {
        const vf t = VLOAD(theta + i);
        const vf d = VLOAD(grad + i) + t * a->decay;
        const vf m_new = VLOAD(m + i) * a->beta1 + d * a->rest1;
        const vf v_new = VLOAD(v + i) * a->beta2 + d * d * a->rest2;
        VSTORE(m_out + i, m_new);
        VSTORE(v_out + i, v_new);
        VSTORE(theta_out + i, t - m_new * rate / (root(v_new * a->correct2) + a->eps));
    }
    for (; i < n; i++) {
        const float t = theta[i];
        const float d = grad[i] + t * a->decay;
        const float m_new = m[i] * a->beta1 + d * a->rest1;
        const float v_new = v[i] * a->beta2 + d * d * a->rest2;
        m_out[i] = m_new;
        v_out[i] = v_new;
        theta_out[i] = t - m_new * rate / (__builtin_sqrtf(v_new * a->correct2) + a->eps);
    }
}

INLINE void unroll(const dass__v_unroll *a, const float *saved, const float *m, const float *grad, const uint64_t *bits,
                   int64_t n, float *dst)
{
    const vf decay = VSET1(a->decay);
    int64_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (int j = 0; j < 64; j += DASS_VL) {
            const vf t = VLOAD(saved + i + j);
            const vf wd = bits ? (vf)(expand(bits[i / 64] >> j) & (vi)decay) : decay;
            const vf d = VLOAD(m + i + j) * a->momentum + (VLOAD(grad + i + j) + wd * t);
            VSTORE(dst + i + j, t - d * a->xi);
        }
    for (; i < n; i++) {
        const float wd = !bits || bit_at(bits, i) ? a->decay : 0;
        dst[i] = saved[i] - a->xi * (a->momentum * m[i] + (grad[i] + wd * saved[i]));
    }
}

void DASS_VEC(unroll)(const dass__v_unroll *a, const float *saved, const float *m, const float *grad,
                      const uint64_t *bits, int64_t n, float *dst)
{
    if (bits)
        unroll(a, saved, m, grad, bits, n, dst);
    else
        unroll(a, saved, m, grad, NULL, n, dst);
}

void DASS_VEC(shift)(float eps, const float *x, const float *v, int64_t n, float *dst)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL)
        VSTORE(dst + i, VLOAD(x + i) + VLOAD(v + i) * eps);
    for (; i < n; i++)
        dst[i] = x[i] + eps * v[i];
}

void DASS_VEC(hvp)(float rate, const float *d, const float *p, const float *q, int64_t n, float *dst)
{
    int64_t i = 0;
    for (; i + DASS_VL <= n; i += DASS_VL)
        VSTORE(dst + i, VLOAD(d + i) - (VLOAD(p + i) - VLOAD(q + i)) * rate);
    for (; i < n; i++)
        dst[i] = d[i] - rate * (p[i] - q[i]);
}
