/* What a test may ask of the fake cuDNN (fake_cudnn.c), and what the fake asks of the fake device memory. */
#ifndef FAKE_CUDNN_H
#define FAKE_CUDNN_H

#include <stdbool.h>
#include <stddef.h>

/* Provided by the keeper of the fake device memory: do all these bytes lie in one live allocation? */
bool fake_cuda_inside(const void *p, size_t bytes);

/* Plans executed without a fault so far. */
long fake_cudnn_runs(void);
/* While on, cudnnCreate fails as it does on a machine without a GPU. */
void fake_cudnn_no_device(bool on);

#endif
