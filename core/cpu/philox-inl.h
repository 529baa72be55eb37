// Philox 4x32-10 (core/random.h) in vectors: words of a RandomKey's stream, many blocks at a time.

#if defined(WEFT_CORE_CPU_PHILOX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef WEFT_CORE_CPU_PHILOX_INL_H_
#undef WEFT_CORE_CPU_PHILOX_INL_H_
#else
#define WEFT_CORE_CPU_PHILOX_INL_H_
#endif

#include <cstdint>

#include "weft/core/cpu/targets.h"
#include "weft/core/random.h"

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace weft::cpu {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Writes blocks [first, first + count) of the stream: words 4 * first ... to out[0], ..., out[4 * count - 1].
inline void random_blocks(uint32_t* out, RandomKey key, uint64_t first, int64_t count) {
  int64_t done = 0;
#if HWY_TARGET != HWY_SCALAR
  // One 64-bit lane per block, its four counter words in four vectors. What the products leave in the upper halves of the lanes is
  // harmless: multiplications read the lower halves only. Lane 2j holds block j and lane 2j + 1 block half + j, so that interleaving
  // pairs of words gives `half` whole blocks in order, twice.
  const hn::ScalableTag<uint64_t> d;
  const hn::Repartition<uint32_t, decltype(d)> d32;
  constexpr int64_t lanes = static_cast<int64_t>(hn::MaxLanes(hn::ScalableTag<uint64_t>()));
  constexpr int64_t half = lanes / 2;
  HWY_ALIGN uint64_t order[lanes];
  for (int64_t j = 0; j < half; ++j) {
    order[2 * j] = static_cast<uint64_t>(j);
    order[2 * j + 1] = static_cast<uint64_t>(half + j);
  }
  const auto lane_block = hn::Load(d, order);
  const auto low_word = hn::Set(d, 0xffffffffU);
  const auto m0 = hn::BitCast(d32, hn::Set(d, 0xD2511F53U)), m1 = hn::BitCast(d32, hn::Set(d, 0xCD9E8D57U));
  for (; done + lanes <= count; done += lanes, out += 4 * lanes) {
    const auto index = hn::Add(hn::Set(d, first + static_cast<uint64_t>(done)), lane_block);
    auto c0 = index, c1 = hn::ShiftRight<32>(index);
    auto c2 = hn::Set(d, key.offset), c3 = hn::Set(d, key.offset >> 32);
    uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const auto product0 = hn::MulEven(m0, hn::BitCast(d32, c0)), product1 = hn::MulEven(m1, hn::BitCast(d32, c2));
      c0 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), c1), hn::Set(d, uint64_t{k0}));
      c2 = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), c3), hn::Set(d, uint64_t{k1}));
      c1 = product1;
      c3 = product0;
      k0 += 0x9E3779B9U;
      k1 += 0xBB67AE85U;
    }
    const auto words01 = hn::Or(hn::And(c0, low_word), hn::ShiftLeft<32>(c1));
    const auto words23 = hn::Or(hn::And(c2, low_word), hn::ShiftLeft<32>(c3));
    hn::StoreU(hn::BitCast(d32, hn::InterleaveLower(d, words01, words23)), d32, out);
    hn::StoreU(hn::BitCast(d32, hn::InterleaveUpper(d, words01, words23)), d32, out + 2 * lanes);
  }
#endif
  for (; done < count; ++done, out += 4) {
    const auto block = key.block(first + static_cast<uint64_t>(done));
    for (size_t i = 0; i < 4; ++i) out[i] = block[i];
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace weft::cpu
HWY_AFTER_NAMESPACE();

#endif  // WEFT_CORE_CPU_PHILOX_INL_H_
