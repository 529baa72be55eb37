// y = x / max(|x|, eps) along any axis: x is read once (twice where it is longer than a block's registers), y written once; the backward
// reads dy and y.
#include "weft/core/cuda/teams.cuh"

namespace weft::cuda {
namespace {

template <class T, int P, int N>
__global__ void __launch_bounds__(most_team_threads) l2_normalize_kernel(T* y, acc_t<T>* norms, const T* x, acc_t<T> eps, Teams teams) {
  using A = acc_t<T>;
  const Team team = teams.team(blockIdx.x);
  const bool kept = teams.keeps<N>();
  const int64_t stretch = int64_t{N} * teams.width;
  Kept<T, P, N> v;
  A squares = 0;
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    v.load(team, x, first);
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) squares += v(j, k) * v(j, k);
    });
  }
  squares = team.sum(squares);
  A norm = std::sqrt(squares);
  const bool overflowed = !(squares < std::numeric_limits<A>::infinity());
  if (team.any(overflowed)) {  // once more, with the range of a double
    double wide = 0;
    for (int64_t first = 0; first < teams.packs; first += stretch) {
      if (!kept) v.load(team, x, first);
      team.each<N>(first, [&](int j, int64_t) {
        for (int k = 0; k < P; ++k) wide += static_cast<double>(v(j, k)) * static_cast<double>(v(j, k));
      });
    }
    wide = team.sum(wide);
    if (overflowed) norm = static_cast<A>(std::sqrt(wide));
  }
  if (team.exists && team.lane == 0) norms[team.row] = norm;
  const A length = weft::max(norm, eps);
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    if (!kept) v.load(team, x, first);
    team.each<N>(first, [&](int j, int64_t i) {
      Pack<T, P> out;
      for (int k = 0; k < P; ++k) out.value[k] = narrow<T>(v(j, k) / length);
      store_pack<P>(y + team.offset<P>(i), out);
    });
  }
}

// dx = (dy - y sum(dy y)) / |x|, or dy / eps where |x| < eps.
template <class T, int P, int N>
__global__ void __launch_bounds__(most_team_threads)
    l2_normalize_backward_kernel(T* dx, const T* dy, const T* y, const acc_t<T>* norms, acc_t<T> eps, Teams teams) {
  using A = acc_t<T>;
  const Team team = teams.team(blockIdx.x);
  const bool kept = teams.keeps<N>();
  const int64_t stretch = int64_t{N} * teams.width;
  Kept<T, P, N> d, v;
  A dot = 0;
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    d.load(team, dy, first);
    v.load(team, y, first);
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) dot += d(j, k) * v(j, k);
    });
  }
  dot = team.sum(dot);
  const A norm = team.exists ? norms[team.row] : A(1), length = weft::max(norm, eps);
  if (norm < eps) dot = 0;
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    if (!kept) {
      d.load(team, dy, first);
      v.load(team, y, first);
    }
    team.each<N>(first, [&](int j, int64_t i) {
      Pack<T, P> out;
      for (int k = 0; k < P; ++k) out.value[k] = narrow<T>((d(j, k) - v(j, k) * dot) / length);
      store_pack<P>(dx + team.offset<P>(i), out);
    });
  }
}

}  // namespace

void l2_normalize(Tensor& y, Tensor& norm, const Tensor& x, int axis, double eps) {
  if (x.numel() == 0) return;
  dispatch_compute(x.dtype(), "l2_normalize", [&]<class T>() {
    T* ys = y.data<T>();
    const T* xs = x.data<T>();
    with_teams<T>(view_along(x.shape(), axis), can_pack<pack_size<T>>(ys, xs), [&]<int P, int N>(const Teams& teams) {
      launch(l2_normalize_kernel<T, P, N>, teams.grid(), teams.threads, 0, ys, norm.data<acc_t<T>>(), xs, eps, teams);
    });
  });
}

void l2_normalize_backward(Tensor& dx, const Tensor& dy, const Tensor& y, const Tensor& norm, int axis, double eps) {
  if (y.numel() == 0) return;
  dispatch_compute(y.dtype(), "l2_normalize_backward", [&]<class T>() {
    T* dxs = dx.data<T>();
    const T *dys = dy.data<T>(), *ys = y.data<T>();
    with_teams<T>(view_along(y.shape(), axis), can_pack<pack_size<T>>(dxs, dys, ys), [&]<int P, int N>(const Teams& teams) {
      launch(l2_normalize_backward_kernel<T, P, N>, teams.grid(), teams.threads, 0, dxs, dys, ys, norm.data<acc_t<T>>(), eps, teams);
    });
  });
}

}  // namespace weft::cuda
