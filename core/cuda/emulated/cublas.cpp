// The cuBLAS calls of cublas_v2.h and cublasLt.h, by plain loops.
#include <cmath>
#include <type_traits>
#include <vector>

#include "cublasLt.h"
#include "cublas_v2.h"
#include "weft/core/half.h"

namespace {

// What products are added up in: better than either cuBLAS or the CPU, so that a comparison judges the kernels around the product.
template <class A>
using Wide = std::conditional_t<std::is_same_v<A, double>, long double, double>;

// T: how the matrices are stored; A: what alpha and beta are.
template <class T, class A>
void multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, A alpha, const T* a, int64_t lda, const T* b,
              int64_t ldb, A beta, T* c, int64_t ldc, const T* bias = nullptr, bool gelu = false, T* argument = nullptr,
              int64_t ldargument = 0) {
  std::vector<A> rows(static_cast<size_t>(m * k)), column(static_cast<size_t>(k));
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t i = 0; i < k; ++i) {
      rows[static_cast<size_t>(row * k + i)] = static_cast<A>(transpose_a ? a[row * lda + i] : a[i * lda + row]);
    }
  }
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < k; ++i) column[static_cast<size_t>(i)] = static_cast<A>(transpose_b ? b[i * ldb + j] : b[j * ldb + i]);
    for (int64_t row = 0; row < m; ++row) {
      const A* x = rows.data() + row * k;
      Wide<A> sum = 0;
      for (int64_t i = 0; i < k; ++i) sum += static_cast<Wide<A>>(x[i]) * static_cast<Wide<A>>(column[static_cast<size_t>(i)]);
      T& out = c[j * ldc + row];
      sum *= alpha;
      if (beta != 0) sum += beta * static_cast<A>(out);
      if (bias != nullptr) sum += static_cast<A>(bias[row]);
      if (argument != nullptr) argument[j * ldargument + row] = static_cast<T>(static_cast<A>(sum));
      if (gelu) sum *= 1 / (1 + std::exp(-1.5957691216057308 * (sum + 0.044715 * sum * sum * sum)));
      out = static_cast<T>(static_cast<A>(sum));
    }
  }
}

// Does a matrix of that many rows and columns, `count` times at `distance`, lie in one allocation?
bool is_allocated(const void* p, cudaDataType type, int64_t rows, int64_t columns, int64_t stride, int64_t distance = 0,
                  int64_t count = 1) {
  if (rows == 0 || columns == 0 || count == 0) return true;
  const int64_t size = type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
  const int64_t elements = (count - 1) * distance + (columns - 1) * stride + rows;
  return weft::emulated::is_allocated(p, static_cast<size_t>(elements * size));
}

}  // namespace

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t, cublasOperation_t transpose_a, cublasOperation_t transpose_b, int m, int n, int k,
                                          const void* alpha, const void* a, cudaDataType a_type, int lda, long long a_distance,
                                          const void* b, cudaDataType b_type, int ldb, long long b_distance, const void* beta, void* c,
                                          cudaDataType c_type, int ldc, long long c_distance, int count, cublasComputeType_t compute,
                                          cublasGemmAlgo_t) {
  const bool ta = transpose_a == CUBLAS_OP_T, tb = transpose_b == CUBLAS_OP_T;
  const bool fits =
      m >= 0 && n >= 0 && k >= 0 && count >= 0 && lda >= std::max(1, ta ? k : m) && ldb >= std::max(1, tb ? n : k) &&
      ldc >= std::max(1, m) && a_type == b_type && a_type == c_type && (c_type == CUDA_R_64F) == (compute == CUBLAS_COMPUTE_64F) &&
      is_allocated(a, a_type, ta ? k : m, ta ? m : k, lda, a_distance, count) &&
      is_allocated(b, b_type, tb ? n : k, tb ? k : n, ldb, b_distance, count) && is_allocated(c, c_type, m, n, ldc, c_distance, count);
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

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t*,
                              void*, size_t, cudaStream_t) {
  const bool ta = product->transpose_a == CUBLAS_OP_T, tb = product->transpose_b == CUBLAS_OP_T;
  const uint64_t m = d_layout->rows, n = d_layout->columns, k = ta ? a_layout->rows : a_layout->columns;
  const auto holds = [](const void* p, cublasLtMatrixLayout_t layout) {
    return is_allocated(p, layout->type, static_cast<int64_t>(layout->rows), static_cast<int64_t>(layout->columns), layout->stride);
  };
  const bool fits = c == d && holds(a, a_layout) && holds(b, b_layout) && holds(d, d_layout) &&
                    (ta ? a_layout->columns : a_layout->rows) == m && (tb ? b_layout->rows : b_layout->columns) == n &&
                    (tb ? b_layout->columns : b_layout->rows) == k && a_layout->type == b_layout->type && a_layout->type == d_layout->type;
  const bool has_argument = product->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  const bool argument_fits =
      !has_argument ||
      (product->argument_stride % 8 == 0 && reinterpret_cast<uintptr_t>(product->argument) % 16 == 0 &&
       is_allocated(product->argument, d_layout->type, static_cast<int64_t>(m), static_cast<int64_t>(n), product->argument_stride));
  if (!fits || !argument_fits) return CUBLAS_STATUS_INVALID_VALUE;
  weft::emulated::DeviceAccess access;
  const auto one = [&]<class T>() {
    multiply<T, float>(ta, tb, static_cast<int64_t>(m), static_cast<int64_t>(n), static_cast<int64_t>(k), *static_cast<const float*>(alpha),
                       static_cast<const T*>(a), a_layout->stride, static_cast<const T*>(b), b_layout->stride,
                       *static_cast<const float*>(beta), static_cast<T*>(d), d_layout->stride,
                       product->epilogue == CUBLASLT_EPILOGUE_DEFAULT ? nullptr : static_cast<const T*>(product->bias),
                       has_argument || product->epilogue == CUBLASLT_EPILOGUE_GELU_BIAS,
                       has_argument ? static_cast<T*>(product->argument) : nullptr, product->argument_stride);
  };
  switch (d_layout->type) {
    case CUDA_R_32F:
      one.template operator()<float>();
      break;
    case CUDA_R_16F:
      one.template operator()<weft::float16>();
      break;
    case CUDA_R_16BF:
      one.template operator()<weft::bfloat16>();
      break;
    default:
      return CUBLAS_STATUS_INVALID_VALUE;
  }
  return CUBLAS_STATUS_SUCCESS;
}
