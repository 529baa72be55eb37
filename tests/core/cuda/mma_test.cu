// Tensor core products, ldmatrix and asynchronous copies against plain C++, layout by layout. The same on a GPU and in emulation.
#include "weft/core/cuda/mma.cuh"

#include <set>

#include "core/cuda/kernel_testing.h"

using namespace weft;
using namespace weft::cuda;
using weft::testing::DeviceArray;
using weft::testing::error_of;
using weft::testing::has;

namespace {

/// Small integers: sums of their products are exact.
template <class T>
std::vector<T> integers(int count, int seed) {
  std::vector<T> values;
  for (int i = 0; i < count; ++i) values.push_back(T(static_cast<float>((i * 37 + i / 7 * 11 + seed) % 13 - 6)));
  return values;
}

/// a [16][16] times b [16][columns]; or times the transpose of b [columns][16].
template <class T>
std::vector<float> product(const std::vector<T>& a, const std::vector<T>& b, int columns, bool b_transposed) {
  std::vector<float> d;
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < columns; ++j) {
      float sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += static_cast<float>(a[static_cast<size_t>(i * 16 + k)]) *
               static_cast<float>(b[static_cast<size_t>(b_transposed ? j * 16 + k : k * columns + j)]);
      d.push_back(sum);
    }
  }
  return d;
}

/// kernel(operands..., d) by one warp; d has `count` elements.
template <class... Parameters, class... Operands>
std::vector<float> run_warp(void (*kernel)(Parameters...), int count, const std::vector<Operands>&... operands) {
  DeviceArray<float> d(count, -1);
  [&](auto&&... arrays) { launch(kernel, Grid(1), lanes_per_warp, 0, arrays.data()..., d.data()); }(DeviceArray<Operands>(operands)...);
  return d.values();
}

__device__ int lane() { return static_cast<int>(threadIdx.x); }
__device__ int group() { return lane() / 4; }
__device__ int pair() { return 2 * (lane() % 4); }

template <class T>
__device__ uint32_t two(T low, T high) {
  return static_cast<uint32_t>(low.bits) | static_cast<uint32_t>(high.bits) << 16;
}
/// The lane's registers of a left side [16][16], element by element.
template <class T>
__device__ void gather_left(uint32_t (&a)[4], const T* block) {
  for (int i = 0; i < 4; ++i) {
    const T* p = block + (group() + i % 2 * 8) * 16 + pair() + i / 2 * 8;
    a[i] = two(p[0], p[1]);
  }
}
/// And of a right side [16][8]: rows pair, pair + 1 (and 8 below) of column group.
template <class T>
__device__ void gather_right(uint32_t (&b)[2], const T* block) {
  for (int i = 0; i < 2; ++i) {
    const T* p = block + (pair() + 8 * i) * 8 + group();
    b[i] = two(p[0], p[8]);
  }
}
__device__ void scatter(float* d, const float (&sums)[4], int columns) {
  for (int i = 0; i < 4; ++i) d[(group() + i / 2 * 8) * columns + pair() + i % 2] = sums[i];
}

enum class Swap { none, left, right };

template <class T, Swap swapped>
__global__ void multiply(const T* a, const T* b, float* d) {
  uint32_t x[4], y[2];
  gather_left(x, a);
  gather_right(y, b);
  float sums[4] = {};
  if (swapped == Swap::left) {
    const uint32_t wrong[4] = {x[0], x[2], x[1], x[3]};
    mma<T>(sums, wrong, y[0], y[1]);
  } else {
    mma<T>(sums, x, y[swapped == Swap::right ? 1 : 0], y[swapped == Swap::right ? 0 : 1]);
  }
  scatter(d, sums, 8);
}

/// d = a b [16][16], from shared memory; `wide`: four matrices of the right side at a time, else two.
template <class T, bool by_columns, bool wide>
__global__ void multiply_tiles(const T* a, const T* b, float* d) {
  WEFT_SHARED(T, tile, 2 * 256);
  for (int i = lane(); i < 256; i += lanes_per_warp) tile[i] = a[i], tile[256 + i] = b[i];
  __syncwarp();
  uint32_t x[4], y[4];
  const int place = lane() % 16 * 16 + lane() / 16 * 8;
  load_matrices(x, shared_address(tile + place));
  if (wide) {
    if (by_columns) {
      load_matrices(y, shared_address(tile + 256 + (lane() % 8 + lane() / 16 * 8) * 16 + lane() / 8 % 2 * 8));
    } else {
      load_matrices_transposed(y, shared_address(tile + 256 + place));
    }
  } else {
    for (int half = 0; half < 2; ++half) {
      // Columns 8 half to 8 half + 7 of b: rows of the tile if it holds columns, else columns of it.
      const int row = by_columns ? 8 * half + lane() % 8 : lane() % 16, column = by_columns ? lane() / 8 % 2 * 8 : 8 * half;
      const SharedAddress at = shared_address(tile + 256 + row * 16 + column);
      uint32_t matrices[2];
      if (by_columns) {
        load_matrices(matrices, at);
      } else {
        load_matrices_transposed(matrices, at);
      }
      y[2 * half] = matrices[0], y[2 * half + 1] = matrices[1];
    }
  }
  for (int half = 0; half < 2; ++half) {
    float sums[4] = {};
    mma<T>(sums, x, y[2 * half], y[2 * half + 1]);
    scatter(d + 8 * half, sums, 16);
  }
}

/// d = (a b / 8) c, with b [16][16] and c [16][8].
template <class T>
__global__ void multiply_twice(const T* a, const T* b, const T* c, float* d) {
  WEFT_SHARED(T, tile, 256);
  for (int i = lane(); i < 256; i += lanes_per_warp) tile[i] = b[i];
  __syncwarp();
  uint32_t x[4], y[4], z[2];
  gather_left(x, a);
  gather_right(z, c);
  load_matrices_transposed(y, shared_address(tile + lane() % 16 * 16 + lane() / 16 * 8));
  float low[4] = {}, high[4] = {}, sums[4] = {};
  mma<T>(low, x, y[0], y[1]);
  mma<T>(high, x, y[2], y[3]);
  const uint32_t between[4] = {pack_two<T>(low[0] / 8, low[1] / 8), pack_two<T>(low[2] / 8, low[3] / 8),
                               pack_two<T>(high[0] / 8, high[1] / 8), pack_two<T>(high[2] / 8, high[3] / 8)};
  mma<T>(sums, between, z[0], z[1]);
  scatter(d, sums, 8);
}

template <class T>
__global__ void pack_pairs(float* d) {
  const float x = static_cast<float>(lane()) + 0.3F;
  const uint32_t packed = pack_two<T>(x, -2 * x);
  d[2 * lane()] = unpack_low<T>(packed);
  d[2 * lane() + 1] = unpack_high<T>(packed);
}

__global__ void powers_of_two(const float* x, float* d) { d[lane()] = exp2_fast(x[lane()]); }

}  // namespace

TEST_CASE_TEMPLATE("cuda: mma is a product of 16 x 16 and 16 x 8 elements, and a wrong layout shows", T, float16, bfloat16) {
  const std::vector<T> a = integers<T>(256, 1), b = integers<T>(128, 2);
  const std::vector<float> d = product(a, b, 8, false);
  CHECK(run_warp(multiply<T, Swap::none>, 128, a, b) == d);
  CHECK(run_warp(multiply<T, Swap::left>, 128, a, b) != d);
  CHECK(run_warp(multiply<T, Swap::right>, 128, a, b) != d);
}

TEST_CASE_TEMPLATE("cuda: ldmatrix loads left sides, right sides by columns, and right sides by rows", T, float16, bfloat16) {
  const std::vector<T> a = integers<T>(256, 3), b = integers<T>(256, 4);
  CHECK(run_warp(multiply_tiles<T, true, true>, 256, a, b) == product(a, b, 16, true));
  CHECK(run_warp(multiply_tiles<T, false, true>, 256, a, b) == product(a, b, 16, false));
  CHECK(run_warp(multiply_tiles<T, true, false>, 256, a, b) == product(a, b, 16, true));
  CHECK(run_warp(multiply_tiles<T, false, false>, 256, a, b) == product(a, b, 16, false));
}

TEST_CASE_TEMPLATE("cuda: sums of one mma, packed, are the left side of the next", T, float16, bfloat16) {
  const std::vector<T> a = integers<T>(256, 5), b = integers<T>(256, 6), c = integers<T>(128, 7);
  std::vector<T> between;
  for (float x : product(a, b, 16, false)) between.push_back(T(x / 8));  // few bits: bfloat16 rounds some of them
  CHECK(run_warp(multiply_twice<T>, 128, a, b, c) == product(between, c, 8, false));
}

TEST_CASE_TEMPLATE("cuda: two halves in a register", T, float16, bfloat16) {
  const std::vector<float> d = run_warp(pack_pairs<T>, 64);
  for (size_t i = 0; i < d.size(); ++i) {
    const float x = static_cast<float>(i / 2) + 0.3F;
    CHECK(d[i] == static_cast<float>(T(i % 2 == 0 ? x : -2 * x)));
  }
}

TEST_CASE("cuda: fast powers of two") {
  std::vector<float> x;
  for (int i = 0; i < 30; ++i) x.push_back(static_cast<float>(i * i) * -0.14F);
  x.push_back(-INFINITY);
  x.push_back(INFINITY);
  const std::vector<float> d = run_warp(powers_of_two, 32, x);
  for (size_t i = 0; i < 30; ++i) CHECK(std::fabs(d[i] - std::exp2(x[i])) <= 3e-7F * std::exp2(x[i]));
  CHECK(d[30] == 0);
  CHECK(d[31] == INFINITY);
}

// ---- asynchronous copies

namespace {

constexpr int groups = 3, group_floats = 4 * lanes_per_warp, left_out = 5;

/// What is seen in shared memory of three groups of copies after a wait for all but the newest (4: no wait). Lane 5 copies zeros.
template <int newest, bool commits>
__global__ void copy_groups(const float* from, float* seen) {
  WEFT_SHARED(float, tile, groups* group_floats);
  for (int i = lane(); i < groups * group_floats; i += lanes_per_warp) tile[i] = 0;
  __syncwarp();
  for (int n = 0; n < groups; ++n) {
    const int place = n * group_floats + 4 * lane();
    copy_async(shared_address(tile + place), from + place, lane() != left_out);
    if (commits) commit_copies();
  }
  if constexpr (newest < 4) wait_copies<newest>();
  __syncwarp();
  for (int i = lane(); i < groups * group_floats; i += lanes_per_warp) seen[i] = tile[i];
  __syncwarp();
  wait_copies<0>();
}

/// The number of groups that have come whole, which are the first ones; the others have not come at all (checked in emulation).
template <int newest, bool commits>
int groups_seen() {
  std::vector<float> numbers;
  for (int i = 0; i < groups * group_floats; ++i) numbers.push_back(static_cast<float>(i + 1));
  const std::vector<float> seen = run_warp(copy_groups<newest, commits>, groups * group_floats, numbers);
  int whole = 0;
  for (int n = 0; n < groups; ++n) {
    std::set<bool> come;
    for (int i = n * group_floats; i < (n + 1) * group_floats; ++i) {
      const auto at = static_cast<size_t>(i);
      if (i / 4 % lanes_per_warp == left_out) {
        CHECK(seen[at] == 0);
      } else {
        come.insert(seen[at] == numbers[at]);
      }
    }
    const bool all = come == std::set<bool>{true};
    if (all && whole == n) ++whole;
#ifdef WEFT_CUDA_EMULATED
    CHECK(come.size() == 1);
#endif
  }
  return whole;
}

}  // namespace

TEST_CASE("cuda: asynchronous copies are seen after the wait for their group, zeros where nothing is read") {
  CHECK(groups_seen<0, true>() == 3);
  CHECK(groups_seen<1, true>() >= 2);
#ifdef WEFT_CUDA_EMULATED
  CHECK(groups_seen<1, true>() == 2);
  CHECK(groups_seen<3, true>() == 0);
  CHECK(groups_seen<4, true>() == 0);   // no wait
  CHECK(groups_seen<0, false>() == 0);  // no group
  emulated::set_copy_time(emulated::CopyTime::at_once);
  CHECK(groups_seen<4, true>() == 3);
  emulated::set_copy_time(emulated::CopyTime::at_wait);
#endif
}

#ifdef WEFT_CUDA_EMULATED

namespace {

template <int bytes_off, int lanes>
__global__ void load_badly(float* d) {
  WEFT_SHARED(float16, tile, 8 * 64);
  uint32_t r[4] = {};
  if (lane() < lanes) load_matrices(r, shared_address(tile + 8 * lane()) + bytes_off);
  d[lane()] = static_cast<float>(r[0]);
}
template <int to, int from>
__global__ void copy_badly(float* d) {
  WEFT_SHARED(float, tile, 64);
  copy_async(shared_address(tile + to), d + from);
  commit_copies();
  wait_copies<0>();
}

}  // namespace

TEST_CASE("cuda: rows for ldmatrix and copies begin at multiples of 16 bytes, and every lane takes part (emulation)") {
  const auto error = [](void (*kernel)(float*)) { return error_of([&] { run_warp(kernel, 32); }); };
  CHECK(error(load_badly<0, 32>).empty());
  CHECK(has(error(load_badly<8, 32>), "access to 16 bytes at an address that is no multiple of that"));
  CHECK(has(error(load_badly<0, 16>), "ldmatrix"));
  CHECK(error(copy_badly<4, 8>).empty());
  CHECK(has(error(copy_badly<2, 8>), "access to 16 bytes"));
  CHECK(has(error(copy_badly<4, 1>), "access to 16 bytes"));
}

#endif
