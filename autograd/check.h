// Checks that many ops share. Each names the op and shows what came.
#pragma once

#include "weft/core/tensor.h"

namespace weft {

/// A tensor that kernels compute with.
inline void check_float(const char* op, const Tensor& x) {
  WEFT_CHECK(x.defined(), "{}: the tensor is undefined", op);
  WEFT_CHECK(x.dtype() == DType::float32 || x.dtype() == DType::float64,
             "{}: expected float32 or float64, got {}; convert with to(x, DType::float32)", op, x);
}

/// Two tensors of one dtype on one device; `name` says what the second is.
inline void check_alike(const char* op, const Tensor& x, const char* name, const Tensor& other) {
  WEFT_CHECK(x.dtype() == other.dtype() && x.device() == other.device(), "{}: x is {}, but {} is {}; dtypes and devices must agree", op, x,
             name, other);
}

}  // namespace weft
