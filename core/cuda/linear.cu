// y = x weight^T + bias on cuBLASLt, which adds the bias, and takes GELU, while the product is still in registers: y is written once and
// never read. (cuBLASLt's GELU is the one with tanh.)
#include <cublasLt.h>

#include <map>
#include <mutex>
#include <optional>
#include <tuple>

#include "weft/core/cuda/blas_types.cuh"
#include "weft/core/cuda/common.cuh"

namespace weft::cuda {
namespace {

constexpr size_t workspace_bytes = size_t{32} << 20;
constexpr uint32_t alignment = 16;  // bytes, that all operands must have

// What cuBLASLt chooses an algorithm by (all pointers are aligned). Choosing costs more than a small product, so the choice is kept.
using Choice = std::tuple<int, int64_t, int64_t, int64_t, cudaDataType, bool, cublasLtEpilogue_t>;

struct Choices {
  std::mutex mutex;
  std::map<Choice, std::optional<cublasLtMatmulAlgo_t>> algorithms;  // none: cuBLASLt cannot do it
};
Choices& choices() {
  static auto* it = new Choices;
  return *it;
}

// One product: the operands as cuBLASLt, which is column-major, sees them.
struct Description {
  cublasLtMatmulDesc_t product = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;

  Description(cublasComputeType_t compute, cudaDataType type, cudaDataType scale_type, int64_t rows, int64_t in, int64_t out,
              cublasLtEpilogue_t epilogue, const void* bias, const void* argument) {
    check(cublasLtMatmulDescCreate(&product, compute, scale_type), "linear");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set(CUBLASLT_MATMUL_DESC_TRANSA, transposed);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (argument != nullptr) {  // of GELU
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, argument);
      set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, out);
    }
    check(cublasLtMatrixLayoutCreate(&weight, type, static_cast<uint64_t>(in), static_cast<uint64_t>(out), in), "linear");
    check(cublasLtMatrixLayoutCreate(&x, type, static_cast<uint64_t>(in), static_cast<uint64_t>(rows), in), "linear");
    check(cublasLtMatrixLayoutCreate(&y, type, static_cast<uint64_t>(out), static_cast<uint64_t>(rows), out), "linear");
  }
  ~Description() {
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatrixLayoutDestroy(x);
    cublasLtMatrixLayoutDestroy(y);
    cublasLtMatmulDescDestroy(product);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;

 private:
  template <class V>
  void set(cublasLtMatmulDescAttributes_t attribute, const V& value) {
    check(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof(value)), "linear");
  }
};

std::optional<cublasLtMatmulAlgo_t> algorithm(const Description& d, const Choice& choice) {
  Choices& made = choices();
  std::lock_guard lock(made.mutex);
  if (const auto known = made.algorithms.find(choice); known != made.algorithms.end()) return known->second;
  cublasLtMatmulPreference_t preference = nullptr;
  check(cublasLtMatmulPreferenceCreate(&preference), "linear");
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)), "linear");
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace_bytes);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});  // never in a half type
  for (auto operand : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                       CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(operand, alignment);
  }
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(context().blas_lt, d.product, d.weight, d.x, d.y, d.y, preference, 1, &best, &found);
  cublasLtMatmulPreferenceDestroy(preference);
  if (status != CUBLAS_STATUS_NOT_SUPPORTED) check(status, "linear");
  const bool none = status == CUBLAS_STATUS_NOT_SUPPORTED || found == 0;
  return made.algorithms[choice] = none ? std::nullopt : std::optional(best.algo);
}

// y = x weight^T + bias, or gelu_tanh of it, whose argument h gets if it is wanted. False if cuBLASLt cannot do it.
bool fused(Tensor& y, Tensor* h, bool gelu, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  const int64_t in = x.size(-1), out = y.size(-1), rows = y.numel() / out;
  const bool aligned = can_pack<alignment>(static_cast<const std::byte*>(y.raw()), static_cast<const std::byte*>(x.raw()),
                                           static_cast<const std::byte*>(weight.raw()), static_cast<const std::byte*>(bias.raw()));
  if (y.dtype() == DType::float64 || !aligned || in == 0) return false;  // cuBLASLt has no bias in double
  const void* argument = h == nullptr ? nullptr : std::as_const(*h).raw();
  if (argument != nullptr && (out % 8 != 0 || !can_pack<alignment>(static_cast<const std::byte*>(argument)))) return false;
  const cublasLtEpilogue_t epilogue = !gelu                 ? CUBLASLT_EPILOGUE_BIAS
                                      : argument == nullptr ? CUBLASLT_EPILOGUE_GELU_BIAS
                                                            : CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
  bool done = false;
  dispatch_compute(y.dtype(), "linear", [&]<class T>() {
    const cudaDataType type = blas_type<T>;
    const auto compute = compute_type<T>();
    const Description d(compute, type, CUDA_R_32F, rows, in, out, epilogue, bias.raw(), argument);
    const bool tf32 = compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const auto chosen = algorithm(d, {context().index, rows, in, out, type, tf32, epilogue});
    if (!chosen) return;
    const Tensor workspace = empty({static_cast<int64_t>(workspace_bytes)}, {.dtype = DType::boolean, .device = y.device()});
    const float one = 1, zero = 0;
    check(cublasLtMatmul(context().blas_lt, d.product, &one, weight.raw(), d.weight, x.raw(), d.x, &zero, y.raw(), d.y, y.raw(), d.y,
                         &*chosen, workspace.raw(), workspace_bytes, context().stream),
          "linear");
    done = true;
  });
  return done;
}

}  // namespace

void linear(Tensor& y, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (y.numel() == 0 || fused(y, nullptr, false, x, weight, bias)) return;
  broadcast_to(y, bias);
  matmul(y, x, weight, false, true, 1, true);
}

void linear_gelu_tanh(Tensor& y, Tensor& h, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (y.numel() == 0 || fused(y, h.defined() ? &h : nullptr, true, x, weight, bias)) return;
  Tensor& to = h.defined() ? h : y;
  linear(to, x, weight, bias);
  gelu_tanh(y, to);
}

}  // namespace weft::cuda
