/* Launchers of flat.cu: vectors without a shape. */
#ifndef DASS_KERNELS_FLAT_H
#define DASS_KERNELS_FLAT_H

#include <stddef.h>

#include "kernels.h"

/* n words of 4 bytes. Not a node: the backend's own fill. */
DASS_K_API int dass_k_fill_words(void *dst, uint32_t word, size_t n, void *stream);

#endif
