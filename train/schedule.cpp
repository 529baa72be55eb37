#include "weft/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <vector>

#include "weft/core/error.h"
#include "weft/core/spec.h"

namespace weft {
namespace {

double warmup(int64_t step, const ScheduleOptions& o) { return static_cast<double>(step + 1) / static_cast<double>(o.warmup_steps) * o.lr; }

// The part of the way from the end of the warm-up to total_steps: 0 to 1.
double progress(int64_t step, const ScheduleOptions& o) {
  if (step >= o.total_steps) return 1;
  return static_cast<double>(step - o.warmup_steps) / static_cast<double>(o.total_steps - o.warmup_steps);
}

}  // namespace

double warmup_constant(int64_t step, const ScheduleOptions& o) { return step < o.warmup_steps ? warmup(step, o) : o.lr; }

double warmup_linear(int64_t step, const ScheduleOptions& o) {
  if (step < o.warmup_steps) return warmup(step, o);
  return o.min_lr + (o.lr - o.min_lr) * (1 - progress(step, o));
}

double warmup_cosine(int64_t step, const ScheduleOptions& o) {
  if (step < o.warmup_steps) return warmup(step, o);
  return o.min_lr + (o.lr - o.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * progress(step, o)));
}

double warmup_inverse_sqrt(int64_t step, const ScheduleOptions& o) {
  if (step < o.warmup_steps) return warmup(step, o);
  const auto from = static_cast<double>(std::max<int64_t>(1, o.warmup_steps));
  return std::max(o.min_lr, o.lr * std::sqrt(from / static_cast<double>(step + 1)));
}

Schedule make_schedule(const std::string& name, const ScheduleOptions& options) {
  using Function = double (*)(int64_t, const ScheduleOptions&);
  static const std::map<std::string, Function> known = {
      {"constant", warmup_constant}, {"cosine", warmup_cosine}, {"inverse_sqrt", warmup_inverse_sqrt}, {"linear", warmup_linear}};
  const auto found = known.find(name);
  if (found == known.end()) {
    std::vector<std::string> names;
    for (const auto& entry : known) names.push_back(entry.first);
    fail("schedule: unknown name \"{}\"; {}", name, suggest(name, names));
  }
  return [function = found->second, options](int64_t step) { return function(step, options); };
}

}  // namespace weft
