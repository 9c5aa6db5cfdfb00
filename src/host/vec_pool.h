/* Argument structs and list of the functions in vec_pool.c. Included by vec_api.h only. */
#ifndef DASS_VEC_POOL_H
#define DASS_VEC_POOL_H

#define DASS__VEC_POOL(X)

#endif
