/* Argument structs and list of the functions in vec_sum.c. Included by vec_api.h only. */
#ifndef DASS_VEC_SUM_H
#define DASS_VEC_SUM_H

#define DASS__VEC_SUM(X)

#endif
