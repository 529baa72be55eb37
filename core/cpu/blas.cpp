#include "weft/core/cpu/blas.h"

#include <cblas.h>
#include <strings.h>

#include <cstdlib>
#include <mutex>
#include <string_view>

#include "weft/core/device.h"

// Exported by builds of OpenBLAS that hold kernels for many processors; they re-read OPENBLAS_CORETYPE. Absent (null) elsewhere.
extern "C" {
[[gnu::weak]] void gotoblas_dynamic_init(void);
[[gnu::weak]] void gotoblas_dynamic_quit(void);
}

namespace weft::cpu {
namespace {

constexpr const char* core_variable = "OPENBLAS_CORETYPE";

std::string selection_note;

// The newest kernel family of OpenBLAS 0.3.21 that this processor runs, if its present choice lacks AVX2 although the processor has it.
const char* better_core() {
#if defined(__x86_64__)
  for (const char* modern : {"Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"}) {
    if (strcasecmp(openblas_get_corename(), modern) == 0) return nullptr;  // releases differ in the letters they write large
  }
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return "SkylakeX";
  if (avx2) return "Haswell";
#endif
  return nullptr;
}

void select_kernels() {
  if (std::getenv(core_variable) != nullptr) {
    selection_note = std::string(" (pinned by ") + core_variable + ")";
    return;
  }
  const char* core = better_core();
  if (core == nullptr || gotoblas_dynamic_init == nullptr || gotoblas_dynamic_quit == nullptr) return;
  selection_note = std::string(" (chosen by weft, OpenBLAS itself took ") + openblas_get_corename() + ")";
  setenv(core_variable, core, 1);
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  unsetenv(core_variable);  // programs started from here choose for themselves
}

}  // namespace

void prepare_blas() {
  static std::once_flag once;
  std::call_once(once, select_kernels);
}

std::string blas_description() {
  prepare_blas();
  const std::string_view config = openblas_get_config();  // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..."
  const size_t version_end = config.find(' ', config.find(' ') + 1);
  std::string text = std::string(config.substr(0, version_end)) + ", " + openblas_get_corename() + " kernels" + selection_note + ", ";
  switch (openblas_get_parallel()) {
    case 2:
      text += "OpenMP";
      break;
    case 1:
      text += "pthreads (slow beside OpenMP: install libopenblas-openmp-dev and remove libopenblas0-pthread)";
      break;
    default:
      text += "sequential (install libopenblas-openmp-dev)";
      break;
  }
  return text + ", " + std::to_string(num_threads()) + (num_threads() == 1 ? " thread" : " threads");
}

}  // namespace weft::cpu
