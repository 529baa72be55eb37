// Element types as cuBLAS and cuBLASLt name them.
#pragma once

#include <cublas_v2.h>

#include <type_traits>

#include "weft/core/device.h"
#include "weft/core/half.h"

namespace weft::cuda {

template <class T>
inline constexpr cudaDataType blas_type = std::is_same_v<T, double>    ? CUDA_R_64F
                                          : std::is_same_v<T, float>   ? CUDA_R_32F
                                          : std::is_same_v<T, float16> ? CUDA_R_16F
                                                                       : CUDA_R_16BF;

/// Half types are added up in float32; float32 stays float32 unless TF32 was allowed.
template <class T>
cublasComputeType_t compute_type() {
  if constexpr (std::is_same_v<T, double>) return CUBLAS_COMPUTE_64F;
  return std::is_same_v<T, float> && tf32_allowed() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
}

}  // namespace weft::cuda
