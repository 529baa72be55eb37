// Which OpenBLAS kernels run, and the one case where its own choice is mended.
#pragma once

#include <string>

namespace weft::cpu {

/// Call before the first BLAS call (cheap afterwards). An OpenBLAS older than the processor falls back to kernels of 2004: where it did and
/// nobody pinned OPENBLAS_CORETYPE, the best kernels that the processor can run are selected instead.
void prepare_blas();

/// "OpenBLAS 0.3.21, SkylakeX kernels (chosen by weft: ...), OpenMP, 2 threads": programs print it at start.
std::string blas_description();

}  // namespace weft::cpu
