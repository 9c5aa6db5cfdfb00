/* The search space (DARTS's, Liu et al. 2019): primitives, cells, alphas, genotypes. Tables and pure functions.
 *
 *     c_{k-2} --preprocess--> s0 --+--> n2 --+
 *     c_{k-1} --preprocess--> s1 --+--> n3 --+-- concat --> c_k        n_i = sum over j < i of edge(j -> i)
 *                                  +--> n4 --+
 *                                  +--> n5 --+
 */
#ifndef DASS_SPACE_H
#define DASS_SPACE_H

#include "dass/param.h"

typedef enum dass_primitive {
    DASS_PRIM_NONE,
    DASS_PRIM_MAX_POOL_3,
    DASS_PRIM_AVG_POOL_3,
    DASS_PRIM_SKIP,
    DASS_PRIM_SEP_3,
    DASS_PRIM_SEP_5,
    DASS_PRIM_DIL_3,
    DASS_PRIM_DIL_5,
    DASS_N_PRIMS
} dass_primitive;
const char *dass_primitive_name(dass_primitive p); /* "none", "max_pool_3x3", ... the published words, this order */
dass_status dass_primitive_parse(const char *word, dass_primitive *out);

#define DASS_MAX_EDGES 64

/* Edge e of a cell with n nodes: edges are numbered node by node, source by source (2+3+4+5 = 14 for four nodes). */
int32_t dass_n_edges(int32_t n_nodes);

typedef struct dass_gene {
    dass_primitive op;
    int32_t src; /* 0, 1: c_{k-2}, c_{k-1}; 2...: node */
} dass_gene;
typedef struct dass_genotype { /* gene 2i and 2i+1 feed node i+2 */
    int32_t n_nodes;
    dass_gene normal[2 * DASS_MAX_NODES], reduce[2 * DASS_MAX_NODES];
    int32_t n_normal_concat, n_reduce_concat;
    int32_t normal_concat[DASS_MAX_NODES], reduce_concat[DASS_MAX_NODES];
} dass_genotype;

/* JSON, schema version 1: {"version":1,"normal":[["sep_conv_3x3",0],...],"normal_concat":[2,3,4,5],"reduce":...}.
 * Strict: unknown or missing keys, bad ops, sources not below the node, repeats and sizes are DASS_FORMAT. */
dass_status dass_genotype_parse(const char *name, const char *text, size_t n_bytes, dass_genotype *out);
dass_status dass_genotype_read(const char *path, dass_genotype *out);
/* One line of JSON in arena memory. */
char *dass_genotype_print(const dass_genotype *g, dass_arena *mem);
/* From alphas (each n_edges x 8, not softmaxed): per node the two incoming edges whose best non-none softmax weight is
 * largest, on each the best non-none op. Ties: the lower source, the lower op (as sorted() and argmax of the published
 * code give). Edges of a node are listed by falling weight, as published. */
dass_status dass_genotype_derive(const double *alpha_normal, const double *alpha_reduce, int32_t n_nodes,
                                 dass_genotype *out);
/* Uniform over ops other than none and over pairs of sources. */
dass_genotype dass_genotype_random(uint64_t seed, int32_t n_nodes);

#endif
