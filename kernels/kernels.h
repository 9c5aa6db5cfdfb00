/* C ABI of the kernels: what every launcher has in common. One header per kernel file declares its argument structs and
 * launchers, with shapes, formulas and bytes moved; the files that include them need no CUDA header.
 *
 * A launcher takes `n` items, argument structs of one type, and runs them in one launch: blockIdx.z picks the item.
 * That is how the many small equal products of a supernet's level become few launches. The items are independent of one
 * another: none reads what another writes. Each begins with a dass_k_head, its own extent of the grid; the launch
 * covers the largest, and blocks outside an item's own extent return at once. The structs travel as launch parameters
 * (read through the constant cache, part of a captured graph), DASS_K_ITEMS at a time, so no table lives on the device.
 *
 * A launcher enqueues on the stream and returns a cudaError_t as int, 0 = success. It never allocates, never waits. All
 * tensors are float, activations NHWC, weights OIHW, unless a header says otherwise; pointers are device pointers; a
 * pointer that may be NULL is said to be so. A `void *` is a tensor of the stored type, which the variant says: float,
 * or bf16 with DASS_K_BF16. Kernels compute in float whatever it is, and round what they store, once. Bytes in comments
 * are those of float; a stored tensor in bf16 has half.
 */
#ifndef DASS_KERNELS_H
#define DASS_KERNELS_H

#include <stdint.h>

#ifdef __cplusplus
#define DASS_K_API extern "C"
#else
#define DASS_K_API extern
#endif

#define DASS_K_ITEMS 16 /* argument structs in one launch */

/* How one stage of a node is launched. variant: which template, 0 unless the launcher's header names more. Launches of
 * the same launcher and variant may be joined; x and y are then the largest of the items. */
typedef struct dass_k_grid {
    uint32_t x, y, variant;
} dass_k_grid;

typedef int (*dass_k_launcher)(const void *items, uint32_t n, dass_k_grid grid, void *stream);

/* Variants: channels to a thread; V4 wants C % 4 = 0 and 4 elements' alignment. And, added to any variant of a launcher
 * with stored tensors: they are bf16. */
enum { DASS_K_V1 = 0, DASS_K_V4 = 4, DASS_K_BF16 = 1 << 16 };
enum { DASS_K_NONE = 0, DASS_K_RELU = 1, DASS_K_RELU6 = 2 }; /* activations, as dass_act */

typedef struct dass_k_head { /* first member of every argument struct */
    uint32_t gx, gy;
} dass_k_head;

/* A reduction over the m pixels of (m, c) data: blocks of 256 threads, `tx` of them (a power of two) side by side over
 * channels, `chunk` pixels to a block; grid (ceil(m / chunk), ceil(c / (tx V))). counter: one zero, zero again after.
 */
typedef struct dass_k_reduce {
    uint32_t m, c, tx, chunk;
    uint32_t *counter;
} dass_k_reduce;

/* A batch-normalised operand: u = gamma (x - mean) rstd + beta, or x itself when mean is NULL; gamma, beta: NULL = 1,
 * 0. x (M, C), the others (C). */
typedef struct dass_k_norm {
    const void *x;
    const float *mean, *rstd, *gamma, *beta;
} dass_k_norm;

/* Launcher i of this library, and variant, by name, with its launches so far; NULL past the end. (flat.cu) */
DASS_K_API const char *dass_k_launcher_name(uint32_t i, uint64_t *launches);
/* The name there of a launcher and variant; NULL when there is no such variant. (flat.cu) */
DASS_K_API const char *dass_k_launcher_of(dass_k_launcher fn, uint32_t variant);

#endif
