// The instruction sets that SIMD files are compiled for. Every such file includes this before hwy/foreach_target.h.
//
// On x86: AVX-512 (Highway's AVX3), AVX2 with FMA, and plain scalar code for anything older; SSSE3 and SSE4 are left out to save a
// third of the compile time. Vectors whose size is unknown when compiling cannot be members of Simd<T>: no SVE, no RVV.
#pragma once

#ifndef HWY_DISABLED_TARGETS
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#endif
