#include "weft/core/random.h"

#include "weft/core/kernels.h"

namespace weft {
namespace {

Generator& process_generator() {
  static Generator generator(0);
  return generator;
}

thread_local Generator* scoped_generator = nullptr;

RandomKey next_key(Generator* generator) { return (generator != nullptr ? *generator : default_generator()).next(); }

}  // namespace

Generator& default_generator() { return scoped_generator != nullptr ? *scoped_generator : process_generator(); }

void manual_seed(uint64_t seed) { process_generator() = Generator(seed); }

GeneratorScope::GeneratorScope(Generator& generator) : previous_(scoped_generator) { scoped_generator = &generator; }
GeneratorScope::~GeneratorScope() { scoped_generator = previous_; }

Tensor rand(const Shape& shape, double low, double high, TensorOptions options, Generator* generator) {
  WEFT_CHECK(low <= high, "rand: expected low <= high, got [{}, {})", low, high);
  Tensor y = empty(shape, options);
  WEFT_LAUNCH(y, fill_uniform(y, low, high, next_key(generator)));
  return y;
}

Tensor randn(const Shape& shape, double mean, double std, TensorOptions options, Generator* generator) {
  WEFT_CHECK(std >= 0, "randn: the standard deviation must not be negative, got {}", std);
  Tensor y = empty(shape, options);
  WEFT_LAUNCH(y, fill_normal(y, mean, std, next_key(generator)));
  return y;
}

Tensor randint(int64_t high, const Shape& shape, Device device, Generator* generator) {
  WEFT_CHECK(high >= 1, "randint: the upper bound must be at least 1, got {}", high);
  Tensor y = empty(shape, {.dtype = DType::int64, .device = device});
  WEFT_LAUNCH(y, fill_integers(y, high, next_key(generator)));
  return y;
}

Tensor keep_mask(const Shape& shape, double p, RandomKey key, Device device) {
  WEFT_CHECK(p >= 0 && p <= 1, "keep_mask: the probability must be in [0, 1], got {}", p);
  Tensor y = empty(shape, {.dtype = DType::boolean, .device = device});
  WEFT_LAUNCH(y, fill_keep_mask(y, p, key));
  return y;
}

}  // namespace weft
