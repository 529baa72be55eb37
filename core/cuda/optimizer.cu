// Optimizer steps and the norm of all gradients: one launch over all parameters, whatever their sizes and dtypes. Each call brings a table
// of them to the device; blocks take pieces of equal size and look up whose they are. Before it, a launch of one thread a parameter counts
// the steps. Floor: every tensor of a slot is read once and, if it changes, written once.
//
// A parameter in half precision is the rounded copy of its float32 master. One that is not has been given other values since, by a
// checkpoint or by hand: there the master begins again from the value.
#include <vector>

#include "weft/core/cuda/common.cuh"

namespace weft::cuda {
namespace {

constexpr int64_t step_piece = 4096;  // elements of a block: four turns of its threads, of 16 bytes each

// ---- the table of parameters ------------------------------------------------------------------------------------------------------------

// One parameter and what belongs to it; null pointers where a rule needs nothing. Moments and master are of the arithmetic type.
struct Entry {
  void* value;
  const void* grad;
  void *moment1, *moment2, *max_moment2, *master;
  int64_t* step;
  int64_t size;
  double lr, weight_decay;
  double step_size, inverse_root;  // of Adam: what `begin` made of them
  DType dtype;
  bool packed;  // all addresses are multiples of 16

  std::array<const void*, 6> tensors() const { return {value, grad, moment1, moment2, max_moment2, master}; }
};

struct Table {
  const int64_t* first_piece;  // of every entry
  Entry* entries;
  int count;

  struct Piece {
    const Entry& entry;
    int64_t begin, end;
  };
  // The piece of this block.
  __device__ Piece piece() const {
    const int64_t own = blockIdx.x;
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first_piece[middle] <= own ? low : high) = middle;
    }
    const int64_t begin = (own - first_piece[low]) * step_piece;
    return {entries[low], begin, std::min(begin + step_piece, entries[low].size)};
  }
};

// A table on the device, as long as this lives.
class DeviceTable {
 public:
  DeviceTable(const std::vector<Entry>& entries, Device device) : count_(static_cast<int>(entries.size())) {
    static_assert(sizeof(Entry) % sizeof(int64_t) == 0);
    std::vector<int64_t> first_piece;
    for (const Entry& entry : entries) {
#ifdef WEFT_CUDA_EMULATED
      // Launches look at their arguments only.
      for (const void* p : entry.tensors()) emulated::check_pointer(p, std::source_location::current());
#endif
      first_piece.push_back(pieces_);
      pieces_ += ceil_div(entry.size, step_piece);
    }
    const int64_t head = int64_t{count_} * 8, body = head / 8 * static_cast<int64_t>(sizeof(Entry));
    std::vector<std::byte> bytes(static_cast<size_t>(head + body));
    std::copy_n(reinterpret_cast<const std::byte*>(first_piece.data()), head, bytes.data());
    std::copy_n(reinterpret_cast<const std::byte*>(entries.data()), body, bytes.data() + head);
    memory_ = empty({(head + body) / 8}, {.dtype = DType::int64, .device = device});
    copy_bytes(memory_.raw(), device, bytes.data(), Device::cpu(), head + body);
  }
  int64_t pieces() const { return pieces_; }
  Table table() {
    int64_t* words = memory_.data<int64_t>();
    return {words, reinterpret_cast<Entry*>(words + count_), count_};
  }

 private:
  int count_;
  int64_t pieces_ = 0;
  Tensor memory_;
};

bool is_packed(const Entry& e) {
  for (const void* p : e.tensors()) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  }
  return true;
}

// `moments`: how many of them the rule needs.
std::vector<Entry> entries_of(std::span<ParameterSlot> slots, const char* op, bool with_grad, int moments) {
  std::vector<Entry> entries;
  for (ParameterSlot& slot : slots) {
    if (slot.value.numel() == 0) continue;
    dispatch_compute(slot.value.dtype(), op, [&]<class T>() {
      using A = acc_of<T>;
      Entry e{};
      e.value = slot.value.data<T>();
      if (with_grad) e.grad = slot.grad.data<T>();
      if (moments > 0) e.moment1 = slot.moment1.data<A>();
      if (moments > 1) e.moment2 = slot.moment2.data<A>();
      if (moments > 2) e.max_moment2 = slot.max_moment2.data<A>();
      if (slot.master.defined()) e.master = slot.master.data<A>();
      if (with_grad) e.step = slot.step.data<int64_t>();
      e.size = slot.value.numel();
      e.lr = slot.lr;
      e.weight_decay = slot.weight_decay;
      e.dtype = slot.value.dtype();
      e.packed = is_packed(e);
      entries.push_back(e);
    });
  }
  return entries;
}

// dispatch_compute within a kernel; all threads of a block agree on the dtype.
template <class F>
__device__ void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::float64:
      return f.template operator()<double>();
    case DType::float16:
      return f.template operator()<float16>();
    case DType::bfloat16:
      return f.template operator()<bfloat16>();
    default:
      return f.template operator()<float>();
  }
}

// ---- rules: what happens to one element, in the order of operations of core/cpu/optimizer.cpp ------------------------------------------

// What multiplies the gradients, read where it lies.
struct GradScale {
  double factor = 1;
  const double* tensor = nullptr;
  bool skip_nonfinite = false;

  GradScale() = default;
  template <class Rule>
  explicit GradScale(const Rule& rule)
      : factor(rule.grad_scale),
        tensor(rule.grad_scale_tensor.defined() ? rule.grad_scale_tensor.template data<double>() : nullptr),
        skip_nonfinite(rule.skip_nonfinite) {}

  __device__ double value() const { return tensor != nullptr ? factor * *tensor : factor; }
  __device__ bool is_skipped() const { return skip_nonfinite && !(std::fabs(value()) < std::numeric_limits<double>::infinity()); }
};

// g = scale * grad;  decoupled: p *= 1 - lr * weight_decay,  else g += weight_decay * p
// m += (1 - beta1) (g - m);  v = beta2 v + (1 - beta2) g^2;  amsgrad: v' = max(v', v), else v' = v
// p -= lr / (1 - beta1^step) * m / (sqrt(v') / sqrt(1 - beta2^step) + eps)
template <class A>
struct AdamUpdate {
  A scale, keep, decay, rate1, beta2, rate2, step_size, inverse_root, eps;
  bool amsgrad;

  __device__ void operator()(A& p, A grad, A& m, A& v, A& largest) const {
    p *= keep;
    const A g = mul_add(decay, p, grad * scale);
    m = mul_add(rate1, g - m, m);
    v = mul_add(rate2 * g, g, v * beta2);
    if (amsgrad) largest = Largest()(largest, v);
    p -= step_size * (m / (std::sqrt(amsgrad ? largest : v) * inverse_root + eps));
  }
};

struct AdamStep {
  static constexpr bool writes_value = true;
  GradScale scale;
  double beta1, beta2, eps;
  bool decoupled, amsgrad;

  explicit AdamStep(const AdamRule& rule)
      : scale(rule), beta1(rule.beta1), beta2(rule.beta2), eps(rule.eps), decoupled(rule.decoupled), amsgrad(rule.amsgrad) {}

  __device__ void begin(Entry& e) const {
    const auto step = static_cast<double>(*e.step);
    e.step_size = e.lr / (1 - std::pow(beta1, step));
    e.inverse_root = 1 / std::sqrt(1 - std::pow(beta2, step));
  }
  template <class A>
  __device__ AdamUpdate<A> update(const Entry& e, double grad_scale) const {
    return {.scale = static_cast<A>(grad_scale),
            .keep = static_cast<A>(decoupled ? 1 - e.lr * e.weight_decay : 1),
            .decay = static_cast<A>(decoupled ? 0 : e.weight_decay),
            .rate1 = static_cast<A>(1 - beta1),
            .beta2 = static_cast<A>(beta2),
            .rate2 = static_cast<A>(1 - beta2),
            .step_size = static_cast<A>(e.step_size),
            .inverse_root = static_cast<A>(e.inverse_root),
            .eps = static_cast<A>(eps),
            .amsgrad = amsgrad};
  }
};

// g = scale * grad + weight_decay * p;  with momentum: b = momentum * b + (1 - dampening) g (b = g at the first step),
// g = b, or g + momentum * b with nesterov;  p -= lr * g
template <class A>
struct SgdUpdate {
  A scale, decay, lr, momentum, rate;
  bool has_momentum, nesterov, first_step;

  __device__ void operator()(A& p, A grad, A& b, A&, A&) const {
    A g = mul_add(decay, p, grad * scale);
    if (has_momentum) {
      b = first_step ? g : mul_add(rate, g, b * momentum);
      g = nesterov ? mul_add(momentum, b, g) : b;
    }
    p -= lr * g;
  }
};

struct SgdStep {
  static constexpr bool writes_value = true;
  GradScale scale;
  double momentum, dampening;
  bool nesterov;

  explicit SgdStep(const SgdRule& rule) : scale(rule), momentum(rule.momentum), dampening(rule.dampening), nesterov(rule.nesterov) {}

  __device__ void begin(Entry&) const {}
  template <class A>
  __device__ SgdUpdate<A> update(const Entry& e, double grad_scale) const {
    return {.scale = static_cast<A>(grad_scale),
            .decay = static_cast<A>(e.weight_decay),
            .lr = static_cast<A>(e.lr),
            .momentum = static_cast<A>(momentum),
            .rate = static_cast<A>(1 - dampening),
            .has_momentum = momentum != 0,
            .nesterov = nesterov,
            .first_step = *e.step == 1};
  }
};

template <class A>
struct EmaUpdate {
  A rate;
  __device__ void operator()(A& value, A, A& average, A&, A&) const { average = mul_add(rate, value - average, average); }
};

struct EmaStep {
  static constexpr bool writes_value = false;
  GradScale scale;
  double decay;
  template <class A>
  __device__ EmaUpdate<A> update(const Entry&, double) const {
    return {.rate = static_cast<A>(1 - decay)};
  }
};

// ---- kernels ---------------------------------------------------------------------------------------------------------------------------

// Counts the step of every parameter, and prepares what depends on its number.
template <class Rule>
__global__ void begin_kernel(Table table, Rule rule) {
  const int i = static_cast<int>(blockIdx.x) * block_threads + static_cast<int>(threadIdx.x);
  if (i >= table.count || rule.scale.is_skipped()) return;
  Entry& e = table.entries[i];
  ++*e.step;
  rule.begin(e);
}

template <class Rule>
__global__ void __launch_bounds__(block_threads, 3) step_kernel(Table table, Rule rule) {
  if (rule.scale.is_skipped()) return;
  const double scale = rule.scale.value();
  const Table::Piece piece = table.piece();
  const Entry& e = piece.entry;
  with_type(e.dtype, [&]<class T>() {
    using A = acc_of<T>;
    constexpr int N = pack_size<A>;
    auto* const value = static_cast<T*>(e.value);
    auto* const grad = static_cast<const T*>(e.grad);
    auto *const moment1 = static_cast<A*>(e.moment1), *const moment2 = static_cast<A*>(e.moment2),
                *const max_moment2 = static_cast<A*>(e.max_moment2), *const master = static_cast<A*>(e.master);
    const bool packed = e.packed;
    const auto update = rule.template update<A>(e, scale);
    for (int64_t i = piece.begin + static_cast<int>(threadIdx.x) * N; i < piece.end; i += block_threads * N) {
      A p[N], g[N], m[N], v[N], largest[N];
      const int64_t left = piece.end - i;
      const auto at = [i](auto* tensor) { return tensor == nullptr ? nullptr : tensor + i; };
      load_some(p, at(value), left, packed);
      if (master != nullptr) {  // it counts, unless somebody has changed the value since
        A exact[N];
        load_some(exact, at(master), left, packed);
        for (int j = 0; j < N; ++j) {
          if (widen(narrow<T>(exact[j])) == p[j]) p[j] = exact[j];
        }
      }
      load_some(g, at(grad), left, packed);
      load_some(m, at(moment1), left, packed);
      load_some(v, at(moment2), left, packed);
      load_some(largest, at(max_moment2), left, packed);
      for (int j = 0; j < N; ++j) update(p[j], g[j], m[j], v[j], largest[j]);
      store_some(at(moment1), m, left, packed);
      store_some(at(moment2), v, left, packed);
      store_some(at(max_moment2), largest, left, packed);
      if constexpr (Rule::writes_value) {
        store_some(at(master), p, left, packed);
        store_some(at(value), p, left, packed);
      }
    }
  });
}

// In double, so that gradients neither overflow nor lose what small elements add up to.
__global__ void squared_norm_kernel(double* sums, Table table) {
  const Table::Piece piece = table.piece();
  double total = 0;
  with_type(piece.entry.dtype, [&]<class T>() {
    constexpr int N = pack_size<T>;
    const auto* const x = static_cast<const T*>(piece.entry.grad);
    for (int64_t i = piece.begin + static_cast<int>(threadIdx.x) * N; i < piece.end; i += block_threads * N) {
      acc_of<T> values[N];
      load_some(values, x + i, piece.end - i, piece.entry.packed);
      for (int j = 0; j < N; ++j) total += static_cast<double>(values[j]) * static_cast<double>(values[j]);
    }
  });
  total = block_reduce(total, Add(), 0.0);
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

template <class Rule>
void step(const std::vector<Entry>& entries, Device device, const Rule& rule) {
  DeviceTable table(entries, device);
  if constexpr (Rule::writes_value) {
    launch(begin_kernel<Rule>, ceil_div(table.table().count, block_threads), block_threads, 0, table.table(), rule);
  }
  launch(step_kernel<Rule>, table.pieces(), block_threads, 0, table.table(), rule);
}

}  // namespace

void adam_step(std::span<ParameterSlot> slots, const AdamRule& rule) {
  if (slots.empty()) return;
  step(entries_of(slots, "adam_step", true, rule.amsgrad ? 3 : 2), slots[0].value.device(), AdamStep(rule));
}
void sgd_step(std::span<ParameterSlot> slots, const SgdRule& rule) {
  if (slots.empty()) return;
  step(entries_of(slots, "sgd_step", true, rule.momentum != 0 ? 1 : 0), slots[0].value.device(), SgdStep(rule));
}
void ema_step(std::span<ParameterSlot> slots, double decay) {
  if (slots.empty()) return;
  step(entries_of(slots, "ema_step", false, 1), slots[0].value.device(), EmaStep{.scale = {}, .decay = decay});
}

void squared_norm(Tensor& y, std::span<const Tensor> xs) {
  std::vector<Entry> entries;
  for (const Tensor& x : xs) {
    if (x.numel() == 0) continue;
    dispatch_compute(x.dtype(), "squared_norm", [&]<class T>() {
      Entry e{};
      e.grad = x.data<T>();
      e.size = x.numel();
      e.dtype = x.dtype();
      e.packed = is_packed(e);
      entries.push_back(e);
    });
  }
  DeviceTable table(entries, y.device());
  Tensor sums = empty({table.pieces()}, {.dtype = DType::float64, .device = y.device()});
  launch(squared_norm_kernel, table.pieces(), block_threads, 0, sums.data<double>(), table.table());
  AxisSet all;
  all.add(0);
  sum(y, sums, all);
}

}  // namespace weft::cuda
