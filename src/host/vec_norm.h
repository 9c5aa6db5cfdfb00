/* Argument structs and list of the functions in vec_norm.c. Included by vec_api.h only. */
#ifndef DASS_VEC_NORM_H
#define DASS_VEC_NORM_H

#define DASS__VEC_NORM(X)

#endif
