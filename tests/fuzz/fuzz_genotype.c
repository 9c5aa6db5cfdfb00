/* Fuzzes genotype JSON: what is accepted prints, and the print is accepted as the same genotype. Invariant: no input
 * crashes or leaks.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dass/mem.h"
#include "dass/space.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    dass_genotype first, second;
    if (dass_genotype_parse("fuzz", (const char *)data, size, &first) != DASS_OK) return 0;
    dass_arena *mem = NULL;
    if (dass_arena_make("fuzz", &mem) != DASS_OK) abort();
    const char *text = dass_genotype_print(&first, mem);
    if (text == NULL || dass_genotype_parse("again", text, strlen(text), &second) != DASS_OK) abort();
    const char *same = dass_genotype_print(&second, mem);
    if (same == NULL || strcmp(text, same) != 0) abort();
    dass_arena_free(mem);
    return 0;
}
