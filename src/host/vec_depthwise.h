/* Argument structs and list of the functions in vec_depthwise.c. Included by vec_api.h only. */
#ifndef DASS_VEC_DEPTHWISE_H
#define DASS_VEC_DEPTHWISE_H

#define DASS__VEC_DEPTHWISE(X)

#endif
