/* What libfailing_alloc.so and the program that preloads it share. */
#ifndef FAULT_FAILING_ALLOC_H
#define FAULT_FAILING_ALLOC_H

typedef struct fault_alloc_page {
    long fail_at;   /* 1 = the first; 0 = none */
    long blocks;    /* not 0: count posix_memalign, aligned_alloc and mmap alone */
    long n;         /* allocations so far */
    char what[480]; /* of the one that failed */
} fault_alloc_page;

#endif
