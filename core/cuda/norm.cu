// y = (x - mean) rstd weight + bias: layer norm and RMS norm (no mean, no bias) of rows with a weight per element, group norm of groups of
// channels with a weight per channel. Forward: x is read once (twice where a row is longer than a block's registers), y written once.
// Backward: dy and x are read once, dx written, and the sums for weight and bias taken on the way; long rows and group norm read dy and x
// once more for those.
#include "weft/core/cuda/teams.cuh"

namespace weft::cuda {
namespace {

template <class T>
const T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

// A weight or bias for every element of a row, or for every channel: row r holds the channels r % groups * per_group and following.
struct Channels {
  int64_t size = 0, groups = 1, per_group = 0;  // size: elements of a channel, 0: none, parameters are per element

  /// Of elements i, i + 1, ... of a row; `absent` where there is no parameter.
  template <class T, int P>
  __device__ void load(acc_t<T> (&v)[P], const T* parameter, acc_t<T> absent, int64_t row, int64_t i) const {
    if (parameter == nullptr) {
      for (int k = 0; k < P; ++k) v[k] = absent;
    } else if (size == 0) {
      const Pack<T, P> pack = load_pack<P>(parameter + i);
      for (int k = 0; k < P; ++k) v[k] = widen(pack.value[k]);
    } else {
      const acc_t<T> value = widen(parameter[row % groups * per_group + i / size]);
      for (int k = 0; k < P; ++k) v[k] = value;
    }
  }
};

// ---- forward ----------------------------------------------------------------------------------------------------------------------------

// `means` null: not centered.
template <class T, int P, int N>
__global__ void __launch_bounds__(most_team_threads) norm_kernel(T* y, acc_t<T>* means, acc_t<T>* rstds, const T* x, const T* weight,
                                                                 const T* bias, Channels channels, double eps, Teams teams) {
  using A = acc_t<T>;
  const Team team = teams.team(blockIdx.x);
  const bool kept = teams.keeps<N>(), centered = means != nullptr;
  const int64_t stretch = int64_t{N} * teams.width;
  const A length = static_cast<A>(teams.packs * P);
  Kept<T, P, N> v;
  A mean = 0, squares = 0, seen = 0;  // mean, sum of squared distances from it, and number of the elements that this thread has seen
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    v.load(team, x, first);
    A n = 0, total = 0, own_squares = 0;
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) total += centered ? v(j, k) : v(j, k) * v(j, k);
      n += P;
    });
    if (!centered) {
      squares += total;
    } else if (kept) {
      mean = total;  // a sum until the whole team's is known
    } else if (n > 0) {
      const A own = total / n, delta = own - mean, share = n / (seen + n);
      team.each<N>(first, [&](int j, int64_t) {
        for (int k = 0; k < P; ++k) own_squares += weft::square(v(j, k) - own);
      });
      mean += delta * share;
      squares += own_squares + delta * delta * seen * share;
      seen += n;
    }
  }
  if (centered) {
    const A own = mean;
    mean = team.sum(kept ? own : own * seen) / length;
    if (kept) {
      team.each<N>(0, [&](int j, int64_t) {
        for (int k = 0; k < P; ++k) squares += weft::square(v(j, k) - mean);
      });
    } else {
      squares += seen * weft::square(own - mean);
    }
  }
  squares = team.sum(squares);
  A rstd = 1 / std::sqrt(squares / length + static_cast<A>(eps));
  const bool overflowed = !(squares < std::numeric_limits<A>::infinity());
  if (team.any(overflowed)) {  // once more, with the range of a double
    double variance = 0;
    for (int64_t first = 0; first < teams.packs; first += stretch) {
      if (!kept) v.load(team, x, first);
      team.each<N>(first, [&](int j, int64_t) {
        for (int k = 0; k < P; ++k) variance += weft::square(static_cast<double>(v(j, k)) - static_cast<double>(mean)) / length;
      });
    }
    variance = team.sum(variance);
    if (overflowed) rstd = static_cast<A>(1 / std::sqrt(variance + eps));
  }
  if (team.exists && team.lane == 0) {
    if (centered) means[team.row] = mean;
    rstds[team.row] = rstd;
  }
  for (int64_t first = 0; first < teams.packs; first += stretch) {
    if (!kept) v.load(team, x, first);
    team.each<N>(first, [&](int j, int64_t i) {
      A w[P], b[P];
      channels.load(w, weight, A(1), team.row, i * P);
      channels.load(b, bias, A(0), team.row, i * P);
      Pack<T, P> out;
      for (int k = 0; k < P; ++k) out.value[k] = narrow<T>((v(j, k) - mean) * rstd * w[k] + b[k]);
      store_pack<P>(y + team.offset<P>(i), out);
    });
  }
}

// ---- backward ---------------------------------------------------------------------------------------------------------------------------

// One block's sums [packs * P], from those of its threads.
template <class A, int P, int N>
__device__ void store_block_sums(A* sums, A (&own)[N][P], const Teams& teams, A* shared) {
  Team team = teams.team(0);
  team.packs = teams.packs;  // also of threads that had no row
  if (teams.width > lanes_per_warp) {
    team.each<N>(0, [&](int j, int64_t i) {
      for (int k = 0; k < P; ++k) sums[i * P + k] = own[j][k];
    });
    return;
  }
  WEFT_UNROLL
  for (int j = 0; j < N; ++j) {
    WEFT_UNROLL
    for (int k = 0; k < P; ++k) {
      for (int step = teams.width; step < lanes_per_warp; step *= 2) own[j][k] += __shfl_xor_sync(all_lanes, own[j][k], step);
    }
  }
  const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / lanes_per_warp;
  for (int warp = 0; warp < warps; ++warp) {  // one after the other: the order of additions is fixed
    if (thread / lanes_per_warp == warp && thread % lanes_per_warp < teams.width) {
      team.each<N>(0, [&](int j, int64_t i) {
        for (int k = 0; k < P; ++k) {
          const A total = warp == 0 ? own[j][k] : shared[i * P + k] + own[j][k];
          (warp + 1 == warps ? sums : shared)[i * P + k] = total;
        }
      });
    }
    __syncthreads();
  }
}

// With h = (x - mean) rstd and g = dy * weight: dx = rstd (g - mean(g) - h mean(g h)); sums of dy h and of dy over the rows of each block
// go to weight_sums and bias_sums [blocks, packs * P], if given.
template <class T, int P, int N>
__global__ void __launch_bounds__(most_team_threads)
    norm_backward_kernel(T* dx, acc_t<T>* weight_sums, acc_t<T>* bias_sums, const T* dy, const T* x, const acc_t<T>* means,
                         const acc_t<T>* rstds, const T* weight, Channels channels, Teams teams) {
  using A = acc_t<T>;
  WEFT_DYNAMIC_SHARED(A, shared);
  const bool kept = teams.keeps<N>(), centered = means != nullptr;
  const int64_t stretch = int64_t{N} * teams.width, size = teams.packs * P;
  A sums_dh[N][P] = {}, sums_d[N][P] = {};
  for (int64_t block = blockIdx.x; block * teams.per_block() < teams.count; block += gridDim.x) {
    const Team team = teams.team(block);
    const A mean = centered && team.exists ? means[team.row] : A(0), rstd = team.exists ? rstds[team.row] : A(0);
    Kept<T, P, N> d, v;
    const auto load = [&](int64_t first) {
      d.load(team, dy, first);
      v.load(team, x, first);
    };
    A mean_g = 0, mean_gh = 0;
    for (int64_t first = 0; first < teams.packs; first += stretch) {
      load(first);
      team.each<N>(first, [&](int j, int64_t i) {
        A w[P];
        channels.load(w, weight, A(1), team.row, i * P);
        WEFT_UNROLL
        for (int k = 0; k < P; ++k) {
          const A h = (v(j, k) - mean) * rstd, g = d(j, k) * w[k];
          mean_g += g;
          mean_gh += g * h;
          sums_dh[j][k] += d(j, k) * h;
          sums_d[j][k] += d(j, k);
        }
      });
    }
    mean_g = centered ? team.sum(mean_g) / static_cast<A>(size) : A(0);
    mean_gh = team.sum(mean_gh) / static_cast<A>(size);
    for (int64_t first = 0; first < teams.packs; first += stretch) {
      if (!kept) load(first);
      team.each<N>(first, [&](int j, int64_t i) {
        A w[P];
        channels.load(w, weight, A(1), team.row, i * P);
        Pack<T, P> out;
        WEFT_UNROLL
        for (int k = 0; k < P; ++k) {
          const A h = (v(j, k) - mean) * rstd;
          out.value[k] = narrow<T>(rstd * (d(j, k) * w[k] - mean_g - h * mean_gh));
        }
        store_pack<P>(dx + team.offset<P>(i), out);
      });
    }
  }
  if (weight_sums != nullptr) store_block_sums(weight_sums + blockIdx.x * size, sums_dh, teams, shared);
  if (bias_sums != nullptr) store_block_sums(bias_sums + blockIdx.x * size, sums_d, teams, shared);
}

// For rows too long for that: sums over pieces of `piece` rows, down the columns. teams: [pieces, piece, size] along the second axis.
template <class T>
__global__ void piece_sums_kernel(acc_t<T>* weight_sums, acc_t<T>* bias_sums, const T* dy, const T* x, const acc_t<T>* means,
                                  const acc_t<T>* rstds, int64_t rows, Teams teams) {
  using A = acc_t<T>;
  constexpr int N = 4;
  const Team team = teams.team(blockIdx.x);
  const int64_t first_row = team.row / teams.inner * teams.packs;
  A sum_dh = 0, sum_d = 0;
  for (int64_t first = 0; first < teams.packs; first += int64_t{N} * teams.width) {
    team.each<N>(first, [&](int, int64_t i) {
      const int64_t row = first_row + i;
      if (row >= rows) return;
      const A d = widen(dy[team.offset<1>(i)]), mean = means != nullptr ? means[row] : A(0);
      sum_dh += d * (widen(x[team.offset<1>(i)]) - mean) * rstds[row];
      sum_d += d;
    });
  }
  sum_dh = team.sum(sum_dh);
  sum_d = team.sum(sum_d);
  if (!team.exists || team.lane != 0) return;
  if (weight_sums != nullptr) weight_sums[team.row] = sum_dh;
  if (bias_sums != nullptr) bias_sums[team.row] = sum_d;
}

// Group norm: sums of dy h and of dy over each channel of each batch [batch * channels].
template <class T, int P, int N>
__global__ void __launch_bounds__(most_team_threads)
    channel_sums_kernel(acc_t<T>* weight_sums, acc_t<T>* bias_sums, const T* dy, const T* x, const acc_t<T>* means, const acc_t<T>* rstds,
                        int64_t per_group, Teams teams) {
  using A = acc_t<T>;
  const Team team = teams.team(blockIdx.x);
  const A mean = team.exists ? means[team.row / per_group] : A(0), rstd = team.exists ? rstds[team.row / per_group] : A(0);
  A sum_dh = 0, sum_d = 0;
  for (int64_t first = 0; first < teams.packs; first += int64_t{N} * teams.width) {
    Kept<T, P, N> d, v;
    d.load(team, dy, first);
    v.load(team, x, first);
    team.each<N>(first, [&](int j, int64_t) {
      for (int k = 0; k < P; ++k) {
        sum_dh += d(j, k) * (v(j, k) - mean) * rstd;
        sum_d += d(j, k);
      }
    });
  }
  sum_dh = team.sum(sum_dh);
  sum_d = team.sum(sum_d);
  if (!team.exists || team.lane != 0) return;
  if (weight_sums != nullptr) weight_sums[team.row] = sum_dh;
  if (bias_sums != nullptr) bias_sums[team.row] = sum_d;
}

// The second stage: y [columns] = sum of partial sums [rows, columns]. blockIdx.y: weight, bias.
template <class T>
__global__ void column_sums_kernel(T* dweight, T* dbias, const acc_t<T>* weight_sums, const acc_t<T>* bias_sums, Teams teams) {
  constexpr int N = 8;
  T* const y = blockIdx.y == 0 ? dweight : dbias;
  const acc_t<T>* const x = blockIdx.y == 0 ? weight_sums : bias_sums;
  if (y == nullptr) return;
  const Team team = teams.team(blockIdx.x);
  acc_t<T> total = 0;
  for (int64_t first = 0; first < teams.packs; first += int64_t{N} * teams.width) {
    team.each<N>(first, [&](int, int64_t i) { total += x[team.offset<1>(i)]; });
  }
  total = team.sum(total);
  if (team.exists && team.lane == 0) y[team.row] = narrow<T>(total);
}

// ---- launchers --------------------------------------------------------------------------------------------------------------------------

// Of the backward: 16 elements, each of which has two sums besides.
template <class T>
constexpr int most_kept = 16 / pack_size<T>;

// What an op gives, as pointers; some may be null.
template <class T>
struct Gradients {
  T *dx, *dweight, *dbias;
  const T *dy, *x;
  const acc_t<T>*means, *rstds;
  const T* weight;
};

// Partial sums of the weight's and the bias's gradients [rows, columns].
template <class T>
struct PartialSums {
  int64_t rows, columns;
  Tensor weight, bias;

  PartialSums(int64_t n, int64_t size, const Gradients<T>& g, Device device) : rows(n), columns(size) {
    const TensorOptions options{.dtype = dtype_of<acc_t<T>>, .device = device};
    if (g.dweight != nullptr) weight = empty({rows, columns}, options);
    if (g.dbias != nullptr) bias = empty({rows, columns}, options);
  }
  acc_t<T>* weight_sums() { return static_cast<acc_t<T>*>(weight.raw()); }
  acc_t<T>* bias_sums() { return static_cast<acc_t<T>*>(bias.raw()); }
  void add_up(const Gradients<T>& g) {
    const Teams teams = Teams::of_columns({1, rows, columns}, sizeof(acc_t<T>));
    launch(column_sums_kernel<T>, Grid(ceil_div(teams.count, teams.per_block()), 2), teams.threads, 0, g.dweight, g.dbias, weight_sums(),
           bias_sums(), teams);
  }
};

template <class T>
void norm(T* y, acc_t<T>* means, acc_t<T>* rstds, const T* x, const T* weight, const T* bias, int64_t rows, int64_t size, double eps,
          Channels channels = {}) {
  if (rows * size == 0) return;
  constexpr int pack = pack_size<T>;
  const bool packed = channels.size == 0 ? can_pack<pack>(y, x, weight, bias) : can_pack<pack>(y, x) && channels.size % pack == 0;
  with_teams<T>(AxisView{rows, size, 1}, packed, [&]<int P, int N>(const Teams& teams) {
    launch(norm_kernel<T, P, N>, teams.grid(), teams.threads, 0, y, means, rstds, x, weight, bias, channels, eps, teams);
  });
}

// Blocks that the registers of the device hold: each works on many rows, and has its own sums for the weight.
template <int N>
int64_t resident_blocks(const Teams& teams) {
  constexpr int threads = N == 1 ? 1024 : 512;  // of a multiprocessor
  return std::min<int64_t>(ceil_div(teams.count, teams.per_block()), context().processors * std::max(1, threads / teams.threads));
}

template <class T>
void norm_backward(const Gradients<T>& g, int64_t rows, int64_t size, Device device) {
  constexpr int64_t most_pieces = 64, fewest_rows = 16;
  constexpr int pack = pack_size<T>;
  const bool wants_sums = g.dweight != nullptr || g.dbias != nullptr;
  if (rows * size == 0) {
    if (wants_sums) PartialSums<T>(0, size, g, device).add_up(g);
    return;
  }
  with_teams<T, most_kept<T>>(AxisView{rows, size, 1}, can_pack<pack>(g.dx, g.dy, g.x, g.weight), [&]<int P, int N>(const Teams& teams) {
    const bool kept = teams.keeps<N>();
    const int64_t blocks = resident_blocks<N>(teams);
    PartialSums<T> sums(kept ? blocks : 0, size, g, device);
    const size_t shared_bytes = teams.width <= lanes_per_warp ? static_cast<size_t>(size) * sizeof(acc_t<T>) : 0;
    launch(norm_backward_kernel<T, P, N>, Grid(blocks), teams.threads, shared_bytes, g.dx, kept ? sums.weight_sums() : nullptr,
           kept ? sums.bias_sums() : nullptr, g.dy, g.x, g.means, g.rstds, g.weight, Channels(), teams);
    if (!wants_sums) return;
    if (kept) return sums.add_up(g);
    const int64_t piece = std::max(fewest_rows, ceil_div(rows, most_pieces));
    PartialSums<T> pieces(ceil_div(rows, piece), size, g, device);
    const Teams columns = Teams::of_columns(AxisView{pieces.rows, piece, size}, sizeof(T));
    launch(piece_sums_kernel<T>, columns.grid(), columns.threads, 0, pieces.weight_sums(), pieces.bias_sums(), g.dy, g.x, g.means, g.rstds,
           rows, columns);
    pieces.add_up(g);
  });
}

template <class T>
void group_norm_backward(const Gradients<T>& g, int64_t batch, Channels channels, Device device) {
  constexpr int pack = pack_size<T>;
  const int64_t all_channels = channels.groups * channels.per_group;
  if (g.dweight != nullptr || g.dbias != nullptr) {
    PartialSums<T> sums(channels.size == 0 ? 0 : batch, all_channels, g, device);
    if (sums.rows * all_channels > 0) {
      with_teams<T>(AxisView{batch * all_channels, channels.size, 1}, can_pack<pack>(g.dy, g.x), [&]<int P, int N>(const Teams& teams) {
        launch(channel_sums_kernel<T, P, N>, teams.grid(), teams.threads, 0, sums.weight_sums(), sums.bias_sums(), g.dy, g.x, g.means,
               g.rstds, channels.per_group, teams);
      });
    }
    sums.add_up(g);
  }
  if (batch * all_channels * channels.size == 0) return;
  const bool packed = can_pack<pack>(g.dx, g.dy, g.x) && channels.size % pack == 0;
  with_teams<T, most_kept<T>>(AxisView{batch * channels.groups, channels.per_group * channels.size, 1}, packed,
                              [&]<int P, int N>(const Teams& teams) {
                                launch(norm_backward_kernel<T, P, N>, Grid(resident_blocks<N>(teams)), teams.threads, 0, g.dx, nullptr,
                                       nullptr, g.dy, g.x, g.means, g.rstds, g.weight, channels, teams);
                              });
}

Channels channels_of(const Tensor& x, int64_t groups) {
  const int64_t batch = x.shape()[0], channels = x.shape()[1];
  return {.size = batch * channels == 0 ? 0 : x.numel() / (batch * channels), .groups = groups, .per_group = channels / groups};
}

int64_t row_size(const Tensor& x) { return x.shape().back(); }
int64_t row_count(const Tensor& x) { return row_size(x) == 0 ? 0 : x.numel() / row_size(x); }

template <class T>
Gradients<T> gradients(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean,
                       const Tensor& rstd, const Tensor& weight) {
  return {dx.data<T>(), static_cast<T*>(dweight.raw()), static_cast<T*>(dbias.raw()), dy.data<T>(),
          x.data<T>(),  data_or_null<acc_t<T>>(mean),   rstd.data<acc_t<T>>(),        data_or_null<T>(weight)};
}

}  // namespace

void layer_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  dispatch_compute(x.dtype(), "layer_norm", [&]<class T>() {
    norm(y.data<T>(), mean.data<acc_t<T>>(), rstd.data<acc_t<T>>(), x.data<T>(), data_or_null<T>(weight), data_or_null<T>(bias),
         row_count(x), row_size(x), eps);
  });
}

void layer_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight) {
  dispatch_compute(x.dtype(), "layer_norm_backward", [&]<class T>() {
    norm_backward(gradients<T>(dx, dweight, dbias, dy, x, mean, rstd, weight), row_count(x), row_size(x), x.device());
  });
}

void rms_norm(Tensor& y, Tensor& rstd, const Tensor& x, const Tensor& weight, double eps) {
  dispatch_compute(x.dtype(), "rms_norm", [&]<class T>() {
    norm<T>(y.data<T>(), nullptr, rstd.data<acc_t<T>>(), x.data<T>(), data_or_null<T>(weight), nullptr, row_count(x), row_size(x), eps);
  });
}

void rms_norm_backward(Tensor& dx, Tensor& dweight, const Tensor& dy, const Tensor& x, const Tensor& rstd, const Tensor& weight) {
  Tensor none;
  layer_norm_backward(dx, dweight, none, dy, x, none, rstd, weight);
}

void group_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& weight, const Tensor& bias, int64_t groups,
                double eps) {
  const Channels channels = channels_of(x, groups);
  dispatch_compute(x.dtype(), "group_norm", [&]<class T>() {
    norm(y.data<T>(), mean.data<acc_t<T>>(), rstd.data<acc_t<T>>(), x.data<T>(), data_or_null<T>(weight), data_or_null<T>(bias),
         x.shape()[0] * groups, channels.per_group * channels.size, eps, channels);
  });
}

void group_norm_backward(Tensor& dx, Tensor& dweight, Tensor& dbias, const Tensor& dy, const Tensor& x, const Tensor& mean,
                         const Tensor& rstd, const Tensor& weight, int64_t groups) {
  dispatch_compute(x.dtype(), "group_norm_backward", [&]<class T>() {
    group_norm_backward(gradients<T>(dx, dweight, dbias, dy, x, mean, rstd, weight), x.shape()[0], channels_of(x, groups), x.device());
  });
}

}  // namespace weft::cuda
