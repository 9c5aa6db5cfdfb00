/* Argument structs and list of the functions in vec_dwpw.c. Included by vec_api.h only. */
#ifndef DASS_VEC_DWPW_H
#define DASS_VEC_DWPW_H

#define DASS__VEC_DWPW(X)

#endif
