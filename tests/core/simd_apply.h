// Runs the vector functions of core/cpu/math-inl.h on arrays, on a chosen instruction set: for tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace weft::cpu {

/// Instruction sets that this build has and this machine runs, as Highway names them: AVX3, AVX2, SCALAR.
std::vector<std::string> simd_targets();
/// Makes simd_apply use `target`, one of simd_targets(); "" for the best.
void use_simd_target(const std::string& target);

/// y[i] = f(x[i]) for a function's name: exp, tanh, ...; other names are errors. Reads and writes exactly n elements.
void simd_apply(const std::string& name, float* y, const float* x, int64_t n);
void simd_apply(const std::string& name, double* y, const double* x, int64_t n);
/// y[i] = f(a[i], b[i]): pow, max, min.
void simd_apply(const std::string& name, float* y, const float* a, const float* b, int64_t n);
void simd_apply(const std::string& name, double* y, const double* a, const double* b, int64_t n);
/// One number from n elements: sum, max_of, min_of.
float simd_reduce(const std::string& name, const float* x, int64_t n);
double simd_reduce(const std::string& name, const double* x, int64_t n);

}  // namespace weft::cpu
