// Matrix products on OpenBLAS, shared out over the threads here.
#include <cblas.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "weft/core/cpu/blas.h"
#include "weft/core/cpu/parallel.h"
#include "weft/core/cpu/thin.h"
#include "weft/core/kernels.h"
#include "weft/core/rounding.h"

namespace weft::cpu {
namespace {

// One product y [n, m] = alpha * op(a) op(b) + beta * y, row-major.
struct Product {
  int64_t n, m, k;
  bool transpose_a, transpose_b;
  double alpha, beta;
};

constexpr int64_t most_thin_rows = 16, smallest_packed = 1'000'000;

CBLAS_TRANSPOSE flag(bool transpose) { return transpose ? CblasTrans : CblasNoTrans; }

// y [columns] = alpha * matrix^T x + beta * y: rows of the matrix are added up.
template <class T>
void gemv(int64_t rows, int64_t columns, double alpha, const T* matrix, const T* x, double beta, T* y) {
  const auto r = static_cast<blasint>(rows), c = static_cast<blasint>(columns);
  if constexpr (std::is_same_v<T, float>) {
    cblas_sgemv(CblasRowMajor, CblasTrans, r, c, static_cast<float>(alpha), matrix, c, x, 1, static_cast<float>(beta), y, 1);
  } else {
    cblas_dgemv(CblasRowMajor, CblasTrans, r, c, alpha, matrix, c, x, 1, beta, y, 1);
  }
}

// Rows [row, row + rows) and columns [column, column + columns) of y.
struct Part {
  int64_t row, rows, column, columns;
};

template <class T>
void gemm(const Product& p, const Part& part, T* y, const T* a, const T* b) {
  const int64_t a_stride = p.transpose_a ? p.n : p.k, b_stride = p.transpose_b ? p.k : p.m;
  a += part.row * (p.transpose_a ? 1 : a_stride);
  b += part.column * (p.transpose_b ? b_stride : 1);
  y += part.row * p.m + part.column;
  const auto n = static_cast<blasint>(part.rows), m = static_cast<blasint>(part.columns), k = static_cast<blasint>(p.k);
  const auto lda = static_cast<blasint>(a_stride), ldb = static_cast<blasint>(b_stride), ldc = static_cast<blasint>(p.m);
  if constexpr (std::is_same_v<T, float>) {
    cblas_sgemm(CblasRowMajor, flag(p.transpose_a), flag(p.transpose_b), n, m, k, static_cast<float>(p.alpha), a, lda, b, ldb,
                static_cast<float>(p.beta), y, ldc);
  } else {
    cblas_dgemm(CblasRowMajor, flag(p.transpose_a), flag(p.transpose_b), n, m, k, p.alpha, a, lda, b, ldb, p.beta, y, ldc);
  }
}

// How the threads share y: rows x columns parts, the shape that leaves the least to pack for each. Every part packs its own rows of a and
// columns of b; that costs less than the barriers between OpenBLAS's threads, which share the packed operands.
struct Grid {
  int64_t rows = 1, columns = 1;
  Grid(const Product& p, int64_t threads) {
    double least = 0;
    for (int64_t r = 1; r <= threads; ++r) {
      if (threads % r != 0) continue;
      const double to_pack =
          static_cast<double>(p.n) / static_cast<double>(r) + static_cast<double>(p.m) / static_cast<double>(threads / r);
      if (r > 1 && to_pack >= least) continue;
      least = to_pack;
      rows = r, columns = threads / r;
    }
  }
};

template <class T>
void shared_gemm(const Product& p, T* y, const T* a, const T* b) {
  constexpr double worth_a_thread = 1 << 18;  // multiply-adds
  constexpr int64_t tile = 16;                // the kernels' tiles: a part has whole ones
  const double work = static_cast<double>(p.n) * static_cast<double>(p.m) * static_cast<double>(p.k);
  const auto threads = static_cast<int64_t>(std::clamp(work / worth_a_thread, 1.0, static_cast<double>(num_threads())));
  const Grid grid(p, threads);
  const int64_t rows = round_up(ceil_div(p.n, grid.rows), tile), columns = round_up(ceil_div(p.m, grid.columns), tile);
  parallel_for(threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i / grid.columns * rows, column = i % grid.columns * columns;
      if (row >= p.n || column >= p.m) continue;
      gemm(p, {row, std::min(rows, p.n - row), column, std::min(columns, p.m - column)}, y, a, b);
    }
  });
}

template <class T>
void product(const Product& p, T* y, const T* a, const T* b) {
  // A single row or column is a matrix-vector product, bound by memory: gemm would pack the matrix first. A vector is contiguous
  // whichever way it is transposed.
  const bool add = p.beta != 0;
  if (p.n == 1) {
    if (p.transpose_b) return thin_product(y, a, b, 1, p.m, p.k, p.alpha, add);
    return gemv(p.k, p.m, p.alpha, b, a, p.beta, y);
  }
  if (p.m == 1) {
    if (!p.transpose_a) return thin_product(y, b, a, 1, p.n, p.k, p.alpha, add);
    return gemv(p.k, p.n, p.alpha, a, b, p.beta, y);
  }
  // The same with a few rows. OpenBLAS has kernels of its own for the smallest products; above those it packs b for 16 rows, too.
  if (p.n <= most_thin_rows && p.transpose_b && !p.transpose_a && p.n * p.m * p.k > smallest_packed) {
    return thin_product(y, a, b, p.n, p.m, p.k, p.alpha, add);
  }
  shared_gemm(p, y, a, b);
}

int64_t batch_size(const Shape& shape) {
  int64_t count = 1;
  for (int axis = 0; axis < shape.rank() - 2; ++axis) count *= shape[axis];
  return count;
}

// For each matrix of y, which matrix of an operand with shape `operand` it reads (leading axes broadcast).
std::vector<int64_t> matrix_numbers(const Shape& y, const Shape& operand) {
  const int64_t batch = batch_size(y);
  std::vector<int64_t> numbers(static_cast<size_t>(batch), 0);
  int64_t y_stride = 1, operand_stride = 1;
  for (int back = 2; back < operand.rank(); ++back) {
    const int64_t size = y.back(back);
    if (operand.back(back) > 1) {
      for (int64_t i = 0; i < batch; ++i) numbers[static_cast<size_t>(i)] += i / y_stride % size * operand_stride;
    }
    operand_stride *= operand.back(back);
    y_stride *= size;
  }
  return numbers;
}

// Below this many operations a product runs faster on one thread than shared out, so a batch of them goes parallel over the batch.
constexpr int64_t small_product = int64_t{1} << 25;

}  // namespace

void matmul(Tensor& y, const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b, double alpha, bool accumulate) {
  if (y.numel() == 0) return;
  Product p{.n = y.shape().back(1),
            .m = y.shape().back(0),
            .k = a.shape().back(transpose_a ? 1 : 0),
            .transpose_a = transpose_a,
            .transpose_b = transpose_b,
            .alpha = alpha,
            .beta = accumulate ? 1.0 : 0.0};
  if (p.k == 0) {
    if (!accumulate) fill(y, 0);
    return;
  }
  prepare_blas();
  apply_num_threads();
  int64_t batch = batch_size(y.shape());
  const int64_t batch_a = batch_size(a.shape()), batch_b = batch_size(b.shape());
  if (batch_b == 1 && batch_a == batch && !transpose_a) {  // every matrix of a meets the same b: one tall product
    p.n *= batch;
    batch = 1;
  }
  dispatch_float(y.dtype(), "matmul", [&]<class T>() {
    T* out = y.data<T>();
    const T* left = a.data<T>();
    const T* right = b.data<T>();
    if (batch == 1) {
      product(p, out, left, right);
      return;
    }
    const std::vector<int64_t> a_number = matrix_numbers(y.shape(), a.shape()), b_number = matrix_numbers(y.shape(), b.shape());
    const auto one = [&](int64_t i) {
      product(p, out + i * p.n * p.m, left + a_number[static_cast<size_t>(i)] * p.n * p.k,
              right + b_number[static_cast<size_t>(i)] * p.k * p.m);
    };
    if (2 * p.n * p.m * p.k >= small_product && batch < 4 * num_threads()) {
      for (int64_t i = 0; i < batch; ++i) one(i);
    } else {
      const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / (p.n * p.m * p.k));
      parallel_for(batch, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) one(i);
      });
    }
  });
}

}  // namespace weft::cpu
