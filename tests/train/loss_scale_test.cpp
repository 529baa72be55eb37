// Loss scaling: what is scaled comes back, overflows halve the scale and are counted, good steps double it.
#include "weft/train/loss_scale.h"

#include "testing.h"
#include "weft/train/adam.h"
#include "weft/train/clip.h"

using namespace weft;
using weft::testing::error_of;
using weft::testing::has;

namespace {

constexpr TensorOptions f64{.dtype = DType::float64};

}  // namespace

TEST_CASE("loss scale: a step with scaled gradients is the step without") {
  const auto train = [](bool scaled) {
    const Tensor p = parameter(from_vector<double>({1, -2, 3}, {3}));
    AdamW adam({p}, {.lr = 0.1});
    LossScale scale(default_device(), {.initial = 1024});
    for (int i = 0; i < 3; ++i) {
      const Tensor loss = sum(p * p * p);
      backward(scaled ? scale.apply(loss) : loss);
      Tensor norm = grad_norm(adam.parameters());
      if (scaled) norm = scale.remove(norm);
      const Tensor factor = clip_scale(norm, 1);
      adam.step(scaled ? scale.remove(factor) : factor);
      scale.update(norm);
      adam.zero_grad();
    }
    return p.to_vector<double>();
  };
  CHECK(train(true) == train(false));  // powers of two: to the bit
}

TEST_CASE("loss scale: overflow halves it, good steps double it") {
  LossScale scale(default_device(), {.initial = 8, .growth_interval = 2});
  scale.update(scalar(1, f64));
  CHECK(scale.scale() == 8);
  scale.update(scalar(HUGE_VAL, f64));
  CHECK(scale.scale() == 4);
  CHECK(scale.skipped_steps() == 1);
  scale.update(scalar(1, f64));  // counts from the start again
  CHECK(scale.scale() == 4);
  scale.update(scalar(1, f64));
  CHECK(scale.scale() == 8);
  scale.update(scalar(std::nan(""), f64));
  CHECK(scale.scale() == 4);
  CHECK(scale.skipped_steps() == 2);

  LossScale other(default_device());
  other.load_state_dict(scale.state_dict());
  CHECK(other.scale() == 4);
  CHECK(other.skipped_steps() == 2);
  CHECK(has(error_of([&] { other.load_state_dict({{"scale", scalar(1, f64)}}); }), "expected scale, good_steps and skipped_steps"));
  CHECK(has(error_of([&] { LossScale bad(default_device(), {.initial = -1}); }), "LossScale: expected initial > 0"));
}
