#include "operations.h"

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <optional>

const char *exception_str(const char *said);  // gotorch's: a copy for MustNil

namespace {

std::atomic<int32_t> threads{0};

const at::Tensor &of(gozc_tensor tensor) { return *static_cast<at::Tensor *>(tensor); }

std::optional<at::Tensor> maybe(gozc_tensor tensor) {
  return tensor ? std::optional<at::Tensor>(of(tensor)) : std::nullopt;
}

// Nothing may be thrown through Go's frames.
const char *guarded(const std::function<void()> &work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception &error) {
    return exception_str(error.what());
  } catch (...) {
    return exception_str("an error of an unknown type");
  }
}

const char *made(gozc_tensor *result, const std::function<at::Tensor()> &work) {
  return guarded([&] { *result = new at::Tensor(work()); });
}

}  // namespace

void gozc_set_threads(int32_t count) { threads = count; }

void gozc_init_threads(void) {
  thread_local int32_t told = -1;
  const int32_t now = threads;
  if (told == now) return;
  if (now > 0) {
    at::set_num_threads(now);
  } else {
    at::init_num_threads();
  }
  told = now;
}

const char *gozc_over(const void *data, int8_t dtype, const int64_t *shape, const int64_t *stride, int64_t dimensions,
                      gozc_tensor *result) {
  return made(result, [&] {
    // at::from_blob takes no pointer to const; no operation of this package writes into a tensor that it was given.
    return at::from_blob(const_cast<void *>(data), at::IntArrayRef(shape, dimensions), at::IntArrayRef(stride, dimensions),
                         at::TensorOptions(static_cast<at::ScalarType>(dtype)));
  });
}

void gozc_free(gozc_tensor tensor) { delete static_cast<at::Tensor *>(tensor); }

const char *gozc_read(gozc_tensor tensor, float *into, int64_t length) {
  return guarded([&] {
    const auto values = of(tensor).to(at::kFloat).contiguous();
    TORCH_CHECK(values.numel() == length, "a tensor of ", values.numel(), " elements, read as ", length);
    if (length > 0) std::memcpy(into, values.const_data_ptr<float>(), length * sizeof(float));
  });
}

const char *gozc_reshape(gozc_tensor input, const int64_t *shape, int64_t dimensions, gozc_tensor *result) {
  return made(result, [&] { return of(input).reshape(at::IntArrayRef(shape, dimensions)); });
}

const char *gozc_linear(gozc_tensor input, gozc_tensor weight, gozc_tensor bias, gozc_tensor *result) {
  return made(result, [&] { return at::linear(of(input), of(weight), maybe(bias)); });
}

const char *gozc_gelu(gozc_tensor input, bool tanh, gozc_tensor *result) {
  return made(result, [&] { return at::gelu(of(input), tanh ? "tanh" : "none"); });
}

const char *gozc_layer_norm(gozc_tensor input, gozc_tensor weight, gozc_tensor bias, double eps, gozc_tensor *result) {
  return made(result, [&] { return at::layer_norm(of(input), of(weight).sizes(), of(weight), of(bias), eps); });
}

const char *gozc_attention(gozc_tensor query, gozc_tensor key, gozc_tensor value, gozc_tensor mask, gozc_tensor *result) {
  return made(result, [&] {
    return at::scaled_dot_product_attention(of(query), of(key), of(value), maybe(mask));
  });
}

const char *gozc_normalize(gozc_tensor input, int64_t dimension, gozc_tensor *result) {
  return made(result, [&] {
    return torch::nn::functional::normalize(of(input), torch::nn::functional::NormalizeFuncOptions().p(2).dim(dimension));
  });
}
