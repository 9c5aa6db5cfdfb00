/* Argument structs and list of the functions in vec_flat.c. Included by vec_api.h only. */
#ifndef DASS_VEC_FLAT_H
#define DASS_VEC_FLAT_H

#define DASS__VEC_FLAT(X)

#endif
