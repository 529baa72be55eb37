// Products of a few rows with a matrix whose rows are read once: what a language model does for every token that it generates.
#pragma once

#include <cstdint>

namespace weft::cpu {

/// y [n, m] = alpha * a [n, k] b [m, k]^T (+ y), each element a sum in an order that depends on k alone.
void thin_product(float* y, const float* a, const float* b, int64_t n, int64_t m, int64_t k, double alpha, bool accumulate);
void thin_product(double* y, const double* a, const double* b, int64_t n, int64_t m, int64_t k, double alpha, bool accumulate);

}  // namespace weft::cpu
