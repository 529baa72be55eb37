// Normalization layers.
//
//   LayerNorm  y = (x - mean) / sqrt(var + eps) * weight + bias   over the last axis                (Ba et al. 2016)
//   RMSNorm    y = x / sqrt(mean(x^2) + eps) * weight             over the last axis                (Zhang & Sennrich 2019)
//   GroupNorm  LayerNorm over groups of channels and all positions of x [B, C, ...]                 (Wu & He 2018)
//   ScaleNorm  y = x / max(|x|, eps) * weight                     one weight, sqrt(dim) at first    (Nguyen & Salazar 2019)
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "weft/autograd/ops.h"
#include "weft/nn/init.h"

namespace weft {

struct LayerNormOptions {
  int64_t dim = 0;
  double eps = 1e-5;
  bool weight = true;
  bool bias = true;
};

struct LayerNorm {
  Tensor weight, bias;  // [dim], undefined without
  double eps = 1e-5;

  LayerNorm() = default;
  explicit LayerNorm(const LayerNormOptions& options);
  Tensor operator()(const Tensor& x, Location at = Location::current()) const { return layer_norm(x, weight, bias, eps, at); }
  void visit(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
};

struct RMSNormOptions {
  int64_t dim = 0;
  /// Unset: the machine epsilon of the dtype, as in PyTorch.
  std::optional<double> eps = {};
  bool weight = true;
};

struct RMSNorm {
  Tensor weight;  // [dim], undefined without
  std::optional<double> eps;

  RMSNorm() = default;
  explicit RMSNorm(const RMSNormOptions& options);
  Tensor operator()(const Tensor& x, Location at = Location::current()) const { return rms_norm(x, weight, eps, at); }
  void visit(auto&& f) { f("weight", weight); }
};

struct GroupNormOptions {
  int64_t groups = 1;
  int64_t channels = 0;
  double eps = 1e-5;
  bool affine = true;
};

struct GroupNorm {
  Tensor weight, bias;  // [channels], undefined without
  int64_t groups = 1;
  double eps = 1e-5;

  GroupNorm() = default;
  explicit GroupNorm(const GroupNormOptions& options);
  /// x [B, C, ...].
  Tensor operator()(const Tensor& x, Location at = Location::current()) const { return group_norm(x, groups, weight, bias, eps, at); }
  void visit(auto&& f) {
    f("weight", weight);
    f("bias", bias);
  }
};

struct ScaleNormOptions {
  int64_t dim = 0;
  double eps = 1e-5;
};

struct ScaleNorm {
  Tensor weight;  // [1]
  double eps = 1e-5;

  ScaleNorm() = default;
  explicit ScaleNorm(const ScaleNormOptions& options);
  Tensor operator()(const Tensor& x, Location at = Location::current()) const { return mul(l2_normalize(x, -1, eps, at), weight, at); }
  void visit(auto&& f) { f("weight", weight); }
};

enum class NormKind { layer, rms, scale };
/// What the kinds are called in options.
const std::vector<std::pair<NormKind, std::string>>& norm_kinds();

/// A norm over the last axis whose kind an option chooses.
struct Norm {
  std::variant<LayerNorm, RMSNorm, ScaleNorm> norm;

  Norm() = default;
  Norm(NormKind kind, int64_t dim);
  Tensor operator()(const Tensor& x, Location at = Location::current()) const {
    return std::visit([&](const auto& chosen) { return chosen(x, at); }, norm);
  }
  void visit(auto&& f) {
    std::visit([&](auto& chosen) { chosen.visit(f); }, norm);
  }
};

}  // namespace weft
