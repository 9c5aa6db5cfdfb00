/* Collects the vector functions of one instruction set. Compiled once per set, like every vec_*.c. */
#include "vec.h"

#define X(ret, name, args) ret DASS_VEC(name) args;
DASS__VEC_FUNCTIONS(X)
#undef X

#define DASS__STR2(x) #x
#define DASS__STR(x) DASS__STR2(x)

const struct dass__vec DASS__CAT(dass__vec, DASS_ISA) = {
    .isa = DASS__STR(DASS_ISA),
    .lanes = DASS_VL,
#define X(ret, name, args) .name = DASS_VEC(name),
    DASS__VEC_FUNCTIONS(X)
#undef X
};
