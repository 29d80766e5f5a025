// What gotorch lacks of libtorch. build/gotorch.py compiles it into gotorch's own C++ half, whose conventions it follows: a
// tensor is an at::Tensor*, and a function returns NULL, or the text of an error for gotorch.MustNil, which frees it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void *gozc_tensor;

// On how many threads each thread that calls computes, from the next gozc_init_threads on. 0: as libtorch chooses.
void gozc_set_threads(int32_t count);

// Tells the calling thread that number. libtorch's own loops ask for it by themselves, and MKL, where it comes first, does
// not: it would take all processors, and round otherwise.
void gozc_init_threads(void);

// A tensor over memory that stays the caller's: nothing is copied, and nothing is freed with the tensor.
const char *gozc_over(const void *data, int8_t dtype, const int64_t *shape, const int64_t *stride, int64_t dimensions,
                      gozc_tensor *result);
void gozc_free(gozc_tensor tensor);

// The tensor's elements in order, as float32, into memory for `length` of them, which has to be their number.
const char *gozc_read(gozc_tensor tensor, float *into, int64_t length);

const char *gozc_reshape(gozc_tensor input, const int64_t *shape, int64_t dimensions, gozc_tensor *result);
const char *gozc_linear(gozc_tensor input, gozc_tensor weight, gozc_tensor bias, gozc_tensor *result);
const char *gozc_gelu(gozc_tensor input, bool tanh, gozc_tensor *result);
const char *gozc_layer_norm(gozc_tensor input, gozc_tensor weight, gozc_tensor bias, double eps, gozc_tensor *result);
const char *gozc_attention(gozc_tensor query, gozc_tensor key, gozc_tensor value, gozc_tensor mask, gozc_tensor *result);
const char *gozc_normalize(gozc_tensor input, int64_t dimension, gozc_tensor *result);

#ifdef __cplusplus
}
#endif
