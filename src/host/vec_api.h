/* The vector functions, one section per file. Argument structs stand before their section. */
#ifndef DASS_VEC_API_H
#define DASS_VEC_API_H

/* X(ret, name, (args)) lists; every vec_*.c owns one and DASS__VEC_FUNCTIONS joins them. */
#include "vec_dwpw.h"
#include "vec_depthwise.h"
#include "vec_norm.h"
#include "vec_sum.h"
#include "vec_pool.h"
#include "vec_flat.h"
#include "vec_sparse.h"

#define DASS__VEC_FUNCTIONS(X) \
    DASS__VEC_DWPW(X)          \
    DASS__VEC_DEPTHWISE(X)     \
    DASS__VEC_NORM(X)          \
    DASS__VEC_SUM(X)           \
    DASS__VEC_POOL(X)          \
    DASS__VEC_FLAT(X)          \
    DASS__VEC_SPARSE(X)

#endif
