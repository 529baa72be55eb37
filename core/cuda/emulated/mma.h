// Tensor cores and asynchronous copies (core/cuda/mma.cuh) in emulation, lane by lane with PTX's layouts: a wrong layout gives wrong
// numbers here as well.
#pragma once

#include <cstdint>

#include "weft/core/cuda/emulated/emulator.h"
#include "weft/core/half.h"

namespace weft::emulated {

/// mma.m16n8k16, row-major a, column-major b; T: float16 or bfloat16.
template <class T>
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const Location& at = Location::current());

/// ldmatrix .x2 or .x4, .trans if `transposed`: lane l gives the address of row l % 8 of matrix l / 8.
template <bool transposed, int Matrices>
void load_matrices(uint32_t (&r)[Matrices], uintptr_t row, const Location& at = Location::current());

/// cp.async: the bytes move at the wait, so that a wait that is missing leaves what was there before; or, as hardware may do it as well, at
/// once, so that a buffer which is still being read is overwritten.
void copy_async(uintptr_t to, const void* from, bool inside);
void commit_copies();
void wait_copies(int newest);
enum class CopyTime { at_wait, at_once };
/// Of all copies from now on.
void set_copy_time(CopyTime time);

}  // namespace weft::emulated
