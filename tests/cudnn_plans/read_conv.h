/* The other way of dass__dnn_conv_text, for the tools of this folder. */
#ifndef DASS_TESTS_READ_CONV_H
#define DASS_TESTS_READ_CONV_H

#include "cuda_dnn.h"

/* A description from its text, every field exactly once; `line` is cut up. False when it is not one. */
bool read_conv(char *line, dass__dnn_conv *c);

#endif
