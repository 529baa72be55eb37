// Checks that many ops share. Each names the op and shows what came.
#pragma once

#include "weft/core/tensor.h"

namespace weft {

/// float32 and float64 everywhere, on CUDA also the half types.
inline bool is_computed(const Tensor& x) { return is_float(x.dtype()) && (size_of(x.dtype()) > 2 || x.device().is_cuda()); }

/// A tensor that kernels compute with.
inline void check_float(const char* op, const Tensor& x) {
  WEFT_CHECK(x.defined(), "{}: the tensor is undefined", op);
  WEFT_CHECK(is_computed(x), "{}: expected float32 or float64, got {}; convert with to(x, DType::float32){}", op, x,
             is_float(x.dtype()) ? " (half types are computed with on CUDA only)" : "");
}

/// Two tensors on one device, and their names in the op's declaration.
inline void check_same_device(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  WEFT_CHECK(a.defined() && b.defined(), "{}: {} is {}, but {} is {}; both must be given", op, name_a, a, name_b, b);
  WEFT_CHECK(a.device() == b.device(), "{}: {} is {} {} on {}, but {} is {} {} on {}; move one with to(x, device)", op, name_a, a.dtype(),
             a.shape(), a.device(), name_b, b.dtype(), b.shape(), b.device());
}

/// ... and of one dtype.
inline void check_alike(const char* op, const char* name_a, const Tensor& a, const char* name_b, const Tensor& b) {
  check_same_device(op, name_a, a, name_b, b);
  WEFT_CHECK(a.dtype() == b.dtype(), "{}: {} is {}, but {} is {}; convert one with to(x, DType::{})", op, name_a, a, name_b, b, a.dtype());
}

/// A mask: bool, and broadcasting to x.
inline void check_mask(const char* op, const Tensor& mask, const Tensor& x) {
  check_same_device(op, "x", x, "the mask", mask);
  WEFT_CHECK(mask.dtype() == DType::boolean, "{}: expected a bool mask, got {}", op, mask);
  WEFT_CHECK(broadcasts_to(mask.shape(), x.shape()), "{}: the mask {} does not broadcast to x {}", op, mask.shape(), x.shape());
}

}  // namespace weft
