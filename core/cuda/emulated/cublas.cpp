#include "weft/core/half.h"

#include "cublas_v2.h"

namespace {

// T: how the matrices are stored; A: what products are added up in.
template <class T, class A>
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, A alpha, const T* a, int64_t lda, const T* b,
              int64_t ldb, A beta, T* c, int64_t ldc) {
  for (int64_t column = 0; column < n; ++column) {
    for (int64_t row = 0; row < m; ++row) {
      A sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += static_cast<A>(transpose_a ? a[row * lda + i] : a[i * lda + row]) *
               static_cast<A>(transpose_b ? b[i * ldb + column] : b[column * ldb + i]);
      }
      T& out = c[column * ldc + row];
      out = static_cast<T>(alpha * sum + (beta == 0 ? A(0) : beta * static_cast<A>(out)));
    }
  }
}

}  // namespace

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType a_type, int lda, long long a_distance,
                                          const void* b, cudaDataType b_type, int ldb, long long b_distance, const void* beta, void* c,
                                          cudaDataType c_type, int ldc, long long c_distance, int count, cublasComputeType_t compute,
                                          cublasGemmAlgo_t) {
  const bool ta = transpose_a == CUBLAS_OP_T, tb = transpose_b == CUBLAS_OP_T;
  const bool fits = m >= 0 && n >= 0 && k >= 0 && count >= 0 && lda >= std::max(1, ta ? k : m) && ldb >= std::max(1, tb ? n : k) &&
                    ldc >= std::max(1, m) && a_type == b_type && a_type == c_type &&
                    (c_type == CUDA_R_64F) == (compute == CUBLAS_COMPUTE_64F);
  if (!fits) return CUBLAS_STATUS_INVALID_VALUE;
  weft::emulated::DeviceAccess access;
  const auto all = [&]<class T, class A>() {
    for (int i = 0; i < count; ++i) {
      multiply<T, A>(ta, tb, m, n, k, *static_cast<const A*>(alpha), static_cast<const T*>(a) + i * a_distance, lda,
                     static_cast<const T*>(b) + i * b_distance, ldb, *static_cast<const A*>(beta), static_cast<T*>(c) + i * c_distance,
                     ldc);
    }
  };
  switch (c_type) {
    case CUDA_R_32F:
      all.template operator()<float, float>();
      break;
    case CUDA_R_64F:
      all.template operator()<double, double>();
      break;
    case CUDA_R_16F:
      all.template operator()<weft::float16, float>();
      break;
    case CUDA_R_16BF:
      all.template operator()<weft::bfloat16, float>();
      break;
  }
  return CUBLAS_STATUS_SUCCESS;
}
