// Tensor cores and asynchronous copies: the PTX instructions that weft's kernels use, one function each (sm_80 and newer).
//
// A product of one warp: d[16][8] += a[16][16] b[16][8], float32 sums of float16 or bfloat16 products. The operands are spread over the
// lanes, two elements to a register. With group g = lane / 4 and pair c = 2 (lane % 4), a lane holds
//
//     a0: a[g][c], a[g][c + 1]     a1: a[g + 8][c ..]     a2: a[g][c + 8 ..]     a3: a[g + 8][c + 8 ..]
//     b0: b[c][g], b[c + 1][g]     b1: b[c + 8][g], b[c + 9][g]
//     d0, d1: d[g][c], d[g][c + 1]     d2, d3: d[g + 8][c], d[g + 8][c + 1]
//
// so that sums of one product, packed in pairs, are the left side of another: {d0 d1, d2 d3} of columns 0 to 7 and of 8 to 15.
//
// Matrices of 8 x 8 elements come from shared memory, four at a time: lanes 8 m to 8 m + 7 give the addresses of the rows of matrix m, 16
// bytes each. Of a block of 16 x 16, lane l names
//
//     row l % 16, column 8 (l / 16), as it lies:            a0 a1 a2 a3 of that block
//     the same, transposed:                                 b0 b1 of columns 0 to 7, b0 b1 of columns 8 to 15, if it holds b's rows
//     row l % 8 + 8 (l / 16), column 8 (l / 8 % 2), as is:  the same, if it holds b's columns
//
// An instruction wants its registers side by side: then these orders need no moves.
#pragma once

#include "weft/core/cuda/common.cuh"

#ifdef WEFT_CUDA_EMULATED
#include "weft/core/cuda/emulated/mma.h"
#endif

namespace weft::cuda {

#ifdef WEFT_CUDA_EMULATED
using SharedAddress = uintptr_t;
#else
using SharedAddress = uint32_t;
#endif

/// Where the instructions below find p, a pointer into shared memory. Sums and differences in bytes are fine.
__device__ inline SharedAddress shared_address(const void* p) {
#ifdef WEFT_CUDA_EMULATED
  return reinterpret_cast<uintptr_t>(p);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
#endif
}

/// d += a b. All lanes of the warp must call it.
template <class T>
__device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>);
#ifdef WEFT_CUDA_EMULATED
  emulated::mma<T>(d, a, b0, b1);
#else
  if constexpr (std::is_same_v<T, float16>) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
#endif
}

/// Four 8 x 8 matrices (two: by the addresses of lanes 0 to 15). A lane gets elements c and c + 1 of row g of each.
__device__ inline void load_matrices(uint32_t (&r)[4], SharedAddress row) {
#ifdef WEFT_CUDA_EMULATED
  emulated::load_matrices<false>(r, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
#endif
}
__device__ inline void load_matrices(uint32_t (&r)[2], SharedAddress row) {
#ifdef WEFT_CUDA_EMULATED
  emulated::load_matrices<false>(r, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(row) : "memory");
#endif
}
/// The same, each matrix transposed: a lane gets element g of rows c and c + 1.
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
#ifdef WEFT_CUDA_EMULATED
  emulated::load_matrices<true>(r, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
#endif
}
__device__ inline void load_matrices_transposed(uint32_t (&r)[2], SharedAddress row) {
#ifdef WEFT_CUDA_EMULATED
  emulated::load_matrices<true>(r, row);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(row) : "memory");
#endif
}

// ---- asynchronous copies: a thread's copies come in groups, and it waits for all but the newest groups ---------------------------------

/// 16 bytes from global to shared memory, both aligned to that; zeros, and nothing is read, unless `inside`.
__device__ inline void copy_async(SharedAddress to, const void* from, bool inside = true) {
#ifdef WEFT_CUDA_EMULATED
  emulated::copy_async(to, from, inside);
#else
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(inside ? 16 : 0)
               : "memory");
#endif
}
/// The copies since the last commit are a group, even if there are none.
__device__ inline void commit_copies() {
#ifdef WEFT_CUDA_EMULATED
  emulated::commit_copies();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Until at most `newest` groups are on their way. This thread sees their bytes then, others after a barrier.
template <int newest>
__device__ inline void wait_copies() {
#ifdef WEFT_CUDA_EMULATED
  emulated::wait_copies(newest);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(newest) : "memory");
#endif
}

// ---- small things beside them ----------------------------------------------------------------------------------------------------------

/// Two numbers rounded to one register, `low` in its lower half.
template <class T>
__device__ inline uint32_t pack_two(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t packed;
  if constexpr (std::is_same_v<T, float16>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
#else
  return static_cast<uint32_t>(narrow<T>(low).bits) | static_cast<uint32_t>(narrow<T>(high).bits) << 16;
#endif
}
/// And back.
template <class T>
__device__ inline float unpack_low(uint32_t packed) {
  T x;
  x.bits = static_cast<uint16_t>(packed & 0xffffU);
  return widen(x);
}
template <class T>
__device__ inline float unpack_high(uint32_t packed) {
  T x;
  x.bits = static_cast<uint16_t>(packed >> 16);
  return widen(x);
}

/// 2^x by the special function unit: 2 units in the last place, results below the smallest normal number are zero.
__device__ inline float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

}  // namespace weft::cuda
