/* What a test may ask of the fake cuDNN (fake_cudnn.c), and what the fake asks of the fake device memory. */
#ifndef FAKE_CUDNN_H
#define FAKE_CUDNN_H

#include "fake.h"

/* Plans executed without a fault so far. */
long fake_cudnn_runs(void);
/* While on, cudnnCreate fails as it does on a machine without a GPU. */
void fake_cudnn_no_device(bool on);
/* What else it refuses, by words in $FAKE_CUDNN_REFUSE: "text" plans read from their text with a handle, "run" the
 * execution of such a plan, "card" plans made with a handle, "plans" all plans. */

#endif
