/* Fuzzes the strict safetensors reader: every tensor of an accepted file can be read to its last byte. Invariant: no
 * input crashes, leaks or points outside the file.
 */
#include <stdint.h>
#include <stdlib.h>

#include "dass/ckpt.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dass_st_file *f = NULL;
    if (dass_st_parse("fuzz", data, size, &f) != DASS_OK) return 0;
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < f->n_tensors; ++i) {
        const uint8_t *const byte = f->tensors[i].data;
        for (size_t j = 0; j < f->tensors[i].bytes; ++j) sum = (uint8_t)(sum + byte[j]);
        if (dass_st_find(f, f->tensors[i].name) == NULL) abort();
    }
    dass_st_free(f);
    return 0;
}
