// Matrix products on cuBLAS: batched, with any axes of the batch shared by an operand. Half types are added up in float32; float32 stays
// float32 unless TF32 was asked for.
#include <vector>

#include "weft/core/cuda/blas_types.cuh"
#include "weft/core/cuda/common.cuh"

namespace weft::cuda {
namespace {

// Batches of products at regular distances, in elements: `count` of them in one call.
struct Batch {
  int64_t count = 1, y = 0, a = 0, b = 0;
};

// The batch axes of y with each operand's distance along them (0 where it is shared), neighbours merged where they run on.
std::vector<Batch> batch_axes(const Tensor& y, const Tensor& a, const Tensor& b) {
  std::vector<Batch> axes;  // innermost first
  Batch next{.count = 1, .y = y.size(-1) * y.size(-2), .a = a.size(-1) * a.size(-2), .b = b.size(-1) * b.size(-2)};
  for (int i = 2; i < y.rank(); ++i) {
    const int64_t n = y.shape().back(i);
    const bool has_a = i < a.rank() && a.shape().back(i) != 1, has_b = i < b.rank() && b.shape().back(i) != 1;
    if (n == 1) continue;
    const Batch axis{n, next.y, has_a ? next.a : 0, has_b ? next.b : 0};
    next.y *= n;
    if (has_a) next.a *= n;
    if (has_b) next.b *= n;
    if (!axes.empty()) {
      Batch& inner = axes.back();
      if (axis.y == inner.y * inner.count && axis.a == inner.a * inner.count && axis.b == inner.b * inner.count) {
        inner.count *= n;
        continue;
      }
    }
    axes.push_back(axis);
  }
  return axes;
}

template <class T>
struct Gemm {
  int64_t n, m, k;
  bool transpose_a, transpose_b;
  acc_t<T> alpha, beta;

  // cuBLAS is column-major: a row-major y is y^T there, so the operands change places.
  void operator()(T* y, const T* a, const T* b, const Batch& batch) const {
    constexpr cudaDataType type = blas_type<T>;
    constexpr int64_t longest = std::numeric_limits<int>::max();
    WEFT_CHECK(n <= longest && m <= longest && k <= longest && batch.count <= longest,
               "matmul: {} products of {} x {} x {}: cuBLAS takes sizes below 2^31", batch.count, n, k, m);
    check(cublasGemmStridedBatchedEx(context().blas, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                     static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), &alpha, b, type,
                                     static_cast<int>(transpose_b ? k : m), batch.b, a, type, static_cast<int>(transpose_a ? n : k),
                                     batch.a, &beta, y, type, static_cast<int>(m), batch.y, static_cast<int>(batch.count),
                                     compute_type<T>(), CUBLAS_GEMM_DEFAULT),
          "matmul");
  }
};

}  // namespace

void matmul(Tensor& y, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha, bool accumulate) {
  if (y.numel() == 0) return;
  dispatch_compute(y.dtype(), "matmul", [&]<class T>() {
    Gemm<T> gemm{.n = y.size(-2),
                 .m = y.size(-1),
                 .k = a.size(transpose_a ? -2 : -1),
                 .transpose_a = transpose_a,
                 .transpose_b = transpose_b,
                 .alpha = static_cast<acc_t<T>>(alpha),
                 .beta = static_cast<acc_t<T>>(accumulate ? 1 : 0)};
    if (gemm.k == 0) {
      if (!accumulate) fill(y, 0);
      return;
    }
    T* py = y.data<T>();
    const T* pa = a.data<T>();
    const T* pb = b.data<T>();
    std::vector<Batch> axes = batch_axes(y, a, b);
    // Matrices that all meet the same b are one tall matrix.
    if (!axes.empty() && axes[0].b == 0 && !transpose_a && axes[0].a == gemm.n * gemm.k && axes[0].y == gemm.n * gemm.m &&
        axes[0].count * gemm.n <= std::numeric_limits<int>::max()) {
      gemm.n *= axes[0].count;
      axes.erase(axes.begin());
    }
    const Batch inner = axes.empty() ? Batch{} : axes[0];
    int64_t outer = 1;
    for (size_t i = 1; i < axes.size(); ++i) outer *= axes[i].count;
    for (int64_t i = 0; i < outer; ++i) {
      Batch offset{};
      int64_t rest = i;
      for (size_t axis = 1; axis < axes.size(); ++axis) {
        const int64_t at = rest % axes[axis].count;
        rest /= axes[axis].count;
        offset.y += at * axes[axis].y;
        offset.a += at * axes[axis].a;
        offset.b += at * axes[axis].b;
      }
      gemm(py + offset.y, pa + offset.a, pb + offset.b, inner);
    }
  });
}

}  // namespace weft::cuda
