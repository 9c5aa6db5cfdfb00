/* Vector code: the functions that are built once per instruction set, and the types they are written in.
 *
 * A file named vec_*.c is compiled four times, with DASS_ISA = avx512, avx2, portable, wide, and its functions get that
 * suffix through DASS_VEC(name). "wide" is the 16-lane source built with AVX2 instructions, so that the avx512 source
 * is tested on machines without AVX-512. vec_table.c collects the functions into one table per set; host.c picks one at
 * open (DASS_CPU=avx512|avx2|portable|wide forces it, and is an error where the machine cannot run it).
 *
 * Rules. Serial: threads are split by the caller. No allocation. Pointers of activations may be unaligned (channels
 * need not be a multiple of the vector). Sums that outlive one call are left to the caller, in index order.
 */
#ifndef DASS_VEC_H
#define DASS_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DASS__CAT2(a, b) a##_##b
#define DASS__CAT(a, b) DASS__CAT2(a, b)
#define DASS_VEC(name) DASS__CAT(dass__v_##name, DASS_ISA)

#ifdef DASS_VL /* lanes: 16, 8, 8 or 4 floats; set by the build for vec_*.c only */
typedef float vf __attribute__((vector_size(DASS_VL * 4)));
typedef int32_t vi __attribute__((vector_size(DASS_VL * 4)));
typedef float vfu __attribute__((vector_size(DASS_VL * 4), aligned(4), may_alias)); /* for unaligned access */
#define VLOAD(p) (*(const vfu *)(p))
#define VSTORE(p, v) (*(vfu *)(p) = (v))
#define VSET1(x) ((vf){0} + (float)(x))
/* a > b ? x : y per lane */
#define VSELECT(m, x, y) ((vf)(((m) & (vi)(x)) | (~(m) & (vi)(y))))
static inline vf vmax0(vf x)
{
    const vf z = {0};
    const vi m = x > z; /* NaN compares false: NaN -> 0 would hide it, so keep NaN */
    const vi nan = x != x;
    return (vf)((m | nan) & (vi)x);
}
#endif

/* One list of everything; X(return type, name, (arguments)). Each vec_*.c includes the section it implements. */
#include "vec_api.h"

struct dass__vec {
    const char *isa;
    int lanes;
#define X(ret, name, args) ret(*name) args;
    DASS__VEC_FUNCTIONS(X)
#undef X
};
extern const struct dass__vec dass__vec_avx512, dass__vec_avx2, dass__vec_portable, dass__vec_wide;

#endif
