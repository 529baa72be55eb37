// Cross-entropy of logits [R, V]. Forward: logits are read once, two numbers per row are written. Backward: logits are read and dlogits
// written once. Vocabularies are often odd, so packs are counted from the 16-byte boundary before a row: its first and last may be cut.
#include "weft/core/cuda/teams.cuh"

namespace weft::cuda {
namespace {

template <class T>
struct Row {
  static constexpr int P = pack_size<T>;
  const T* x;
  int64_t size;
  int cut;  // elements of the first pack that are not the row's

  __device__ Row(const T* begin, int64_t row_size)
      : x(begin), size(row_size), cut(static_cast<int>(reinterpret_cast<uintptr_t>(begin) % sizeof(Pack<T, P>) / sizeof(T))) {}

  __device__ int64_t packs() const { return ceil_div(size + cut, P); }
  /// The first element of a pack; perhaps negative.
  __device__ int64_t element(int64_t pack) const { return pack * P - cut; }
  __device__ bool has(int64_t i) const { return i >= 0 && i < size; }
  __device__ bool is_whole(int64_t i) const { return i >= 0 && i + P <= size; }

  __device__ void load(int64_t i, acc_t<T> (&v)[P]) const {
    if (is_whole(i)) {
      const Pack<T, P> pack = load_pack<P>(x + i);
      for (int k = 0; k < P; ++k) v[k] = widen(pack.value[k]);
    } else {
      for (int k = 0; k < P; ++k) v[k] = has(i + k) ? widen(x[i + k]) : -std::numeric_limits<acc_t<T>>::infinity();
    }
  }
};

template <class T>
Teams teams_for(int64_t rows, int64_t size) {
  constexpr int P = pack_size<T>;
  return Teams::of_rows(rows, ceil_div(size + P - 1, P), P, kept_packs<P>);
}

// loss = (1 - smoothing) (lse - x[target]) + smoothing (lse - mean(x)), both differences taken from the maximum: it may be large.
template <class T>
__global__ void __launch_bounds__(most_team_threads)
    cross_entropy_kernel(acc_t<T>* losses, acc_t<T>* lses, const T* logits, const int64_t* targets, int64_t size, int64_t ignore_index,
                         acc_t<T> smoothing, Teams teams) {
  using A = acc_t<T>;
  constexpr int P = pack_size<T>, N = kept_packs<P>;
  constexpr A lowest = -std::numeric_limits<A>::infinity();
  Team team = teams.team(blockIdx.x);
  const int64_t target = team.exists ? targets[team.row] : ignore_index;
  const bool counts = team.exists && target != ignore_index;
  const Row<T> row(logits + team.row * size, size);
  team.packs = counts ? row.packs() : 0;
  A chosen = 0;
  if (counts && team.lane == 0) {  // a target out of range is told by target_share, but perhaps later
    chosen = row.has(target) ? widen(row.x[target]) : std::numeric_limits<A>::quiet_NaN();
  }

  A largest = lowest, total = 0, sum = 0;  // of x, of exp(x - largest), of x
  for (int64_t first = 0; first < team.packs; first += int64_t{N} * team.width) {
    A v[N][P] = {};
    team.each<N>(first, [&](int j, int64_t pack) { row.load(row.element(pack), v[j]); });
    const A before = largest;
    team.each<N>(first, [&](int j, int64_t pack) {
      for (int k = 0; k < P; ++k) {
        largest = Largest()(largest, v[j][k]);
        if (smoothing != 0 && row.has(row.element(pack) + k)) sum += v[j][k];
      }
    });
    if (largest == lowest) continue;
    total *= std::exp(before - largest);
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) total += std::exp(v[j][k] - largest);
    });
  }
  const A own = largest;
  largest = team.reduce(own, Largest(), lowest);
  total = team.sum(own == lowest ? A(0) : total * std::exp(own - largest));
  if (smoothing != 0) sum = team.sum(sum);
  if (!team.exists || team.lane != 0) return;
  const A log_sum = std::log(total);
  A loss = (1 - smoothing) * (log_sum - (chosen - largest));
  if (smoothing != 0) loss += smoothing * (log_sum - (sum / static_cast<A>(size) - largest));
  losses[team.row] = counts ? loss : A(0);
  lses[team.row] = counts ? largest + log_sum : A(0);
}

// dlogits may be the logits: a thread stores only what it has loaded itself.
template <class T>
__global__ void __launch_bounds__(most_team_threads)
    cross_entropy_backward_kernel(T* dlogits, const acc_t<T>* dlosses, const T* logits, const acc_t<T>* lses, const int64_t* targets,
                                  int64_t size, int64_t ignore_index, acc_t<T> smoothing, Teams teams) {
  using A = acc_t<T>;
  constexpr int P = pack_size<T>, N = kept_packs<P>;
  Team team = teams.team(blockIdx.x);
  if (!team.exists) return;
  const int64_t target = targets[team.row];
  const bool counts = target != ignore_index;
  const Row<T> row(logits + team.row * size, size);
  team.packs = row.packs();
  T* const to = dlogits + team.row * size;
  const bool aligned_alike = Row<T>(to, size).cut == row.cut;
  const A scale = dlosses[team.row], lse = lses[team.row], spread = smoothing / static_cast<A>(size);
  for (int64_t first = 0; first < team.packs; first += int64_t{N} * team.width) {
    A v[N][P] = {};
    if (counts) team.each<N>(first, [&](int j, int64_t pack) { row.load(row.element(pack), v[j]); });
    team.each<N>(first, [&](int j, int64_t pack) {
      const int64_t i = row.element(pack);
      Pack<T, P> out;
      for (int k = 0; k < P; ++k) {
        const A wanted = i + k == target ? spread + (1 - smoothing) : spread;
        out.value[k] = narrow<T>(counts ? scale * (std::exp(v[j][k] - lse) - wanted) : A(0));
      }
      if (row.is_whole(i) && aligned_alike) return store_pack<P>(to + i, out);
      for (int k = 0; k < P; ++k) {
        if (row.has(i + k)) to[i + k] = out.value[k];
      }
    });
  }
}

}  // namespace

void cross_entropy(Tensor& loss, Tensor& lse, const Tensor& logits, const Tensor& targets, int64_t ignore_index, double label_smoothing) {
  dispatch_compute(logits.dtype(), "cross_entropy", [&]<class T>() {
    const int64_t rows = logits.shape()[0], size = logits.shape()[1];
    const Teams teams = teams_for<T>(rows, size);
    launch(cross_entropy_kernel<T>, teams.grid(), teams.threads, 0, loss.data<acc_t<T>>(), lse.data<acc_t<T>>(), logits.data<T>(),
           targets.data<int64_t>(), size, ignore_index, label_smoothing, teams);
  });
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& dloss, const Tensor& logits, const Tensor& lse, const Tensor& targets,
                            int64_t ignore_index, double label_smoothing) {
  dispatch_compute(logits.dtype(), "cross_entropy_backward", [&]<class T>() {
    const int64_t rows = logits.shape()[0], size = logits.shape()[1];
    const Teams teams = teams_for<T>(rows, size);
    launch(cross_entropy_backward_kernel<T>, teams.grid(), teams.threads, 0, dlogits.data<T>(), dloss.data<acc_t<T>>(), logits.data<T>(),
           lse.data<acc_t<T>>(), targets.data<int64_t>(), size, ignore_index, label_smoothing, teams);
  });
}

}  // namespace weft::cuda
