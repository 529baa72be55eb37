// Softmax and log-softmax along any axis. Forward: x is read once (twice where a row is longer than a block's registers), y written once;
// backward: dy and y read once, dx written. A row without visible elements gives zeros (-infinities in the logarithm) and zero gradients.
#include "weft/core/cuda/teams.cuh"

namespace weft::cuda {
namespace {

template <class A>
constexpr A negative_infinity = -std::numeric_limits<A>::infinity();

// A mask that broadcasts to x, along the axis of the softmax.
struct AxisMask {
  const bool* p = nullptr;  // none: all is visible
  int64_t step = 0;         // from one element of the axis to the next, 0 if one value stands for all
  BroadcastIndex at;

  AxisMask(const Tensor& mask, const Tensor& x, int axis) {
    if (!mask.defined()) return;
    p = mask.data<bool>();
    at = BroadcastIndex(mask.shape(), x.shape());
    const int own = axis - (x.rank() - mask.rank());
    if (own < 0 || mask.shape()[own] == 1) return;
    step = 1;
    for (int i = own + 1; i < mask.rank(); ++i) step *= mask.shape()[i];
  }
};

// exp(x - m) is computed for the maximum m of the row, or of what the thread has seen when the row does not fit into registers.
template <class T, int P, int N>
__global__ void __launch_bounds__(most_team_threads) softmax_kernel(T* y, const T* x, AxisMask mask, Teams teams, bool log) {
  using A = acc_t<T>;
  const Team team = teams.team(blockIdx.x);
  const bool* const visible = mask.p != nullptr && team.exists ? mask.p + mask.at(team.begin) : nullptr;
  A v[N][P] = {};
  const auto load = [&](int64_t first) {
    team.each<N>(first, [&](int j, int64_t i) {
      const Pack<T, P> pack = load_pack<P>(x + team.offset<P>(i));
      for (int k = 0; k < P; ++k) v[j][k] = widen(pack.value[k]);
      if (visible == nullptr) return;
      if (P > 1 && mask.step == 1) {
        const Pack<bool, P> shown = load_pack<P>(visible + i * P);
        for (int k = 0; k < P; ++k) v[j][k] = shown.value[k] ? v[j][k] : negative_infinity<A>;
      } else if (!visible[i * mask.step]) {
        for (int k = 0; k < P; ++k) v[j][k] = negative_infinity<A>;
      }
    });
  };
  const bool kept = teams.keeps<N>();
  const int64_t stretch = int64_t{N} * teams.width;

  A largest = negative_infinity<A>, total = 0;
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    load(first);
    const A before = largest;
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) largest = Largest()(largest, v[j][k]);
    });
    if (kept || largest == negative_infinity<A>) continue;
    total *= std::exp(before - largest);
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) total += std::exp(v[j][k] - largest);
    });
  }
  const A own = largest;
  largest = team.reduce(own, Largest(), negative_infinity<A>);
  const A shift = largest == negative_infinity<A> ? A(0) : largest;
  if (kept) {
    team.each<N>(0, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) {
        const A e = std::exp(v[j][k] - shift);
        total += e;
        if (!log) v[j][k] = e;
      }
    });
  } else {
    total *= std::exp(own - shift);
  }
  total = team.sum(total);
  const A scale = total == 0 ? A(0) : 1 / total, log_total = total == 0 ? A(0) : std::log(total);
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    if (!kept) load(first);
    team.each<N>(first, [&](int j, int64_t i) {
      Pack<T, P> pack;
      for (int k = 0; k < P; ++k) {
        pack.value[k] = narrow<T>(log ? v[j][k] - shift - log_total : (kept ? v[j][k] : std::exp(v[j][k] - shift)) * scale);
      }
      store_pack<P>(y + team.offset<P>(i), pack);
    });
  }
}

// dx = y * (dy - sum(dy * y)); of the logarithm dx = dy - exp(y) * sum(dy), over the elements that take part.
template <class T, int P, int N>
__global__ void __launch_bounds__(most_team_threads) softmax_backward_kernel(T* dx, const T* dy, const T* y, Teams teams, bool log) {
  using A = acc_t<T>;
  const Team team = teams.team(blockIdx.x);
  const bool kept = teams.keeps<N>();
  const int64_t stretch = int64_t{N} * teams.width;
  Kept<T, P, N> d, v;
  A total = 0;
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    d.load(team, dy, first);
    v.load(team, y, first);
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) total += log ? (v(j, k) == negative_infinity<A> ? A(0) : d(j, k)) : d(j, k) * v(j, k);
    });
  }
  total = team.sum(total);
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    if (!kept) {
      d.load(team, dy, first);
      v.load(team, y, first);
    }
    team.each<N>(first, [&](int j, int64_t i) {
      Pack<T, P> pack;
      for (int k = 0; k < P; ++k) {
        const A result = v(j, k);
        const A of_log = result == negative_infinity<A> ? A(0) : d(j, k) - std::exp(result) * total;
        pack.value[k] = narrow<T>(log ? of_log : result * (d(j, k) - total));
      }
      store_pack<P>(dx + team.offset<P>(i), pack);
    });
  }
}

void forward(Tensor& y, const Tensor& x, const Tensor& mask, int axis, bool log) {
  if (x.numel() == 0) return;
  dispatch_compute(x.dtype(), "softmax", [&]<class T>() {
    T* ys = y.data<T>();
    const T* xs = x.data<T>();
    const AxisMask shown(mask, x, axis);
    const bool packed = can_pack<pack_size<T>>(ys, xs) && (shown.step == 0 || can_pack<pack_size<T>>(shown.p));
    with_teams<T>(view_along(x.shape(), axis), packed, [&]<int P, int N>(const Teams& teams) {
      launch(softmax_kernel<T, P, N>, teams.grid(), teams.threads, 0, ys, xs, shown, teams, log);
    });
  });
}

void backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis, bool log) {
  if (y.numel() == 0) return;
  dispatch_compute(y.dtype(), "softmax_backward", [&]<class T>() {
    T* dxs = dx.data<T>();
    const T *dys = dy.data<T>(), *ys = y.data<T>();
    with_teams<T>(view_along(y.shape(), axis), can_pack<pack_size<T>>(dxs, dys, ys), [&]<int P, int N>(const Teams& teams) {
      launch(softmax_backward_kernel<T, P, N>, teams.grid(), teams.threads, 0, dxs, dys, ys, teams, log);
    });
  });
}

}  // namespace

void softmax(Tensor& y, const Tensor& x, const Tensor& mask, int axis) { forward(y, x, mask, axis, false); }
void softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis) { backward(dx, dy, y, axis, false); }
void log_softmax(Tensor& y, const Tensor& x, const Tensor& mask, int axis) { forward(y, x, mask, axis, true); }
void log_softmax_backward(Tensor& dx, const Tensor& dy, const Tensor& y, int axis) { backward(dx, dy, y, axis, true); }

}  // namespace weft::cuda
