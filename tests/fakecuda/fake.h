/* What the doubles of the CUDA libraries share: work enqueued on a stream, and what is device memory. */
#ifndef DASS_TESTS_FAKE_H
#define DASS_TESTS_FAKE_H

#include <stdbool.h>
#include <stddef.h>

#define FAKE_SHARED_BYTES 101376 /* of a block, at most: what the smaller of the supported cards have */

#ifdef __cplusplus
#include <functional>
/* Enqueue on a stream: it runs when somebody waits for the stream, or becomes part of the graph being captured. */
void fake_enqueue(void *stream, const char *what, std::function<void()> work);
extern "C" {
#endif
/* The same for C: a copy of `bytes` at `data` is handed to fn when its turn comes. */
void fake_enqueue_c(void *stream, const char *what, void (*fn)(void *data), const void *data, size_t bytes);
/* Do bytes [p, p + bytes) lie in one live device allocation? */
bool fake_cuda_inside(const void *p, size_t bytes);
/* What went over the bus since the library was loaded, and how often somebody waited for the device. For tests that
 * open the library: dlsym "fake_cuda_traffic". */
typedef struct fake_traffic {
    unsigned long copies, bytes_down, bytes_up, waits;
} fake_traffic;
__attribute__((visibility("default"))) void fake_cuda_traffic(fake_traffic *out);
/* Say it on stderr; the process ends with an error at exit. */
void fake_fault(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#ifdef __cplusplus
}
#endif

#endif
