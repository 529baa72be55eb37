// What kernels are built from, each alone: barriers, shuffles, votes, atomics, shared memory. The same on a GPU and in emulation.
#include <numeric>

#include "core/cuda/kernel_testing.h"

using namespace weft;
using weft::cuda::all_lanes;
using weft::cuda::Grid;
using weft::cuda::launch;
using weft::testing::DeviceArray;
using weft::testing::expected;

namespace {

constexpr int threads = 96;  // three warps

__device__ int thread() { return static_cast<int>(threadIdx.x); }

// Runs a kernel(T* out) on one block and returns what its threads wrote.
template <class T>
std::vector<T> outputs(void (*kernel)(T*), size_t shared_bytes = 0) {
  DeviceArray<T> out(threads);
  launch(kernel, Grid(1), threads, shared_bytes, out.data());
  return out.values();
}

// ---- indices and blocks

__global__ void write_indices(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x + threadIdx.x] = static_cast<int>(10000 * blockIdx.x + 1000 * blockIdx.y + 100 * blockIdx.z + threadIdx.x);
}

__global__ void cover(int* out, int64_t n) {
  for (int64_t i = cuda::grid_start(); i < n; i += cuda::grid_stride()) out[i] += 1;
}

// ---- barriers

__global__ void reverse(int* out) {
  WEFT_SHARED(int, x, threads);
  x[thread()] = 7 * thread();
  __syncthreads();
  out[thread()] = x[threads - 1 - thread()];
}

__global__ void count_at_barrier(int* out) {
  const int count = __syncthreads_count(thread() % 3 == 0 ? 5 : 0);
  const int none = __syncthreads_or(thread() > 1000), some = __syncthreads_or(thread() == 17);
  const int most = __syncthreads_and(thread() != 17), all = __syncthreads_and(thread() < 1000);
  out[thread()] = count * 10000 + (none != 0) * 1000 + (some != 0) * 100 + (most != 0) * 10 + (all != 0);
}

__global__ void rotate_within_warp(int* out) {
  WEFT_SHARED(int, x, threads);
  x[thread()] = thread();
  __syncwarp();
  const int lane = thread() % 32, neighbour = thread() - lane + (lane + 1) % 32;
  for (int turn = 0; turn < 5; ++turn) {
    const int got = x[neighbour];
    __syncwarp();
    x[thread()] = got;
    __syncwarp();
  }
  out[thread()] = x[thread()];
}

// ---- shuffles

template <class T>
__global__ void shuffle(T* out) {
  const T x = static_cast<T>(thread()) + static_cast<T>(0.5);
  const int lane = thread() % 32;
  T sum = __shfl_sync(all_lanes, x, 5);
  sum += 2 * __shfl_sync(all_lanes, x, lane + 1, 8);  // any lane, modulo the width
  sum += 3 * __shfl_xor_sync(all_lanes, x, 3);
  sum += 4 * __shfl_xor_sync(all_lanes, x, 8, 8);  // from later groups nothing arrives, from earlier ones it does
  sum += 5 * __shfl_up_sync(all_lanes, x, 2);
  sum += 6 * __shfl_up_sync(all_lanes, x, 3, 16);
  sum += 7 * __shfl_down_sync(all_lanes, x, 2);
  sum += 8 * __shfl_down_sync(all_lanes, x, 1, 4);
  out[thread()] = sum;
}

template <class T>
T shuffled(int t) {
  const auto value = [](int i) { return static_cast<T>(i) + static_cast<T>(0.5); };
  const int lane = t % 32, first = t - lane;
  const auto of = [&](int other, bool arrives) { return value(arrives ? first + other : t); };
  return of(5, true) + 2 * of(lane / 8 * 8 + (lane + 1) % 8, true) + 3 * of(lane ^ 3, true) +
         4 * of(lane ^ 8, (lane ^ 8) < lane / 8 * 8 + 8) + 5 * of(lane - 2, lane >= 2) + 6 * of(lane - 3, lane % 16 >= 3) +
         7 * of(lane + 2, lane + 2 < 32) + 8 * of(lane + 1, lane % 4 < 3);
}

// Two groups of a warp at once, each with its own mask, and a different number of times.
__global__ void shuffle_in_groups(int* out) {
  const int lane = thread() % 32;
  int x = thread();
  if (lane < 20) {
    for (int i = 0; i < 3; ++i) x = __shfl_sync(0x000fffffU, x, (lane + 1) % 20);
  } else {
    for (int i = 0; i < 2; ++i) x = __shfl_sync(0xfff00000U, x, 20 + (lane - 20 + 5) % 12);
  }
  out[thread()] = x;
}

// ---- votes and reductions

__global__ void vote(unsigned* out) {
  const int lane = thread() % 32;
  const unsigned odd = __ballot_sync(all_lanes, lane % 2);
  unsigned result = odd;
  if (lane < 8) result ^= __ballot_sync(0xffU, lane >= 6) << 8;
  if (__any_sync(all_lanes, lane == 31)) result ^= 0x10000U;
  if (__any_sync(all_lanes, lane == 32)) result ^= 0x20000U;
  if (__all_sync(all_lanes, lane < 32)) result ^= 0x40000U;
  if (__all_sync(all_lanes, lane < 31)) result ^= 0x80000U;
  out[thread()] = result;
}

__global__ void reduce(int* out) {
  const int lane = thread() % 32;
  const auto bits = static_cast<unsigned>(thread()) * 2654435761U;
  int sum = __reduce_add_sync(all_lanes, thread() - 40);
  sum = 3 * sum + __reduce_min_sync(all_lanes, 7 - thread()) + 5 * __reduce_max_sync(all_lanes, -thread());
  sum += static_cast<int>(__reduce_max_sync(all_lanes, bits) % 1001U + __reduce_min_sync(all_lanes, bits) % 1001U);
  sum += static_cast<int>(__reduce_or_sync(all_lanes, 1U << lane % 5) + 100 * __reduce_and_sync(all_lanes, 0xf0U | bits % 16U));
  sum += static_cast<int>(__reduce_xor_sync(all_lanes, bits) % 1001U);
  if (lane >= 30) sum = static_cast<int>(__reduce_add_sync(0xc0000000U, static_cast<unsigned>(thread())));
  out[thread()] = sum;
}

int reduced(int t) {
  const int first = t / 32 * 32;
  if (t % 32 >= 30) return 2 * first + 61;
  const auto bits = [](int i) { return static_cast<unsigned>(i) * 2654435761U; };
  unsigned low = ~0U, high = 0, both = ~0U, odd = 0;
  int sum = 0;
  for (int i = first; i < first + 32; ++i) {
    sum += i - 40;
    low = std::min(low, bits(i));
    high = std::max(high, bits(i));
    both &= 0xf0U | bits(i) % 16U;
    odd ^= bits(i);
  }
  return 3 * sum + (7 - first - 31) - 5 * first + static_cast<int>(high % 1001U + low % 1001U + 31 + 100 * both + odd % 1001U);
}

__global__ void block_sum(double* out) {
  const double first = cuda::block_reduce(static_cast<double>(thread()), cuda::Add(), 0.0);
  out[thread()] = 1000 * cuda::block_reduce(-static_cast<double>(thread()), cuda::Largest(), -1e300) + first;
}

// ---- atomics

struct Counters {
  int sum = 0, smallest = 0, largest = 0;
  unsigned both = ~0U, any = 0, odd = 0, increments = 0;
  unsigned long long large = 0, largest_large = 0;
  float real = 0;
  double wide = 0;
  int exchanged = 0;
};

__global__ void count(Counters* c, int* order) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(&c->sum, t);
  atomicMin(&c->smallest, -t);
  atomicMax(&c->largest, t);
  atomicAnd(&c->both, ~(1U << t % 7));
  atomicOr(&c->any, 1U << t % 9);
  atomicXor(&c->odd, static_cast<unsigned>(t));
  atomicAdd(&c->large, 1ULL << 33);
  atomicMax(&c->largest_large, static_cast<unsigned long long>(t) << 33);
  atomicAdd(&c->real, 0.5F);
  atomicAdd(&c->wide, 0.25);
  atomicExch(&c->exchanged, 5);
  for (unsigned seen = c->increments;;) {
    const unsigned old = atomicCAS(&c->increments, seen, seen + 1);
    if (old == seen) break;
    seen = old;
  }
  __threadfence();
  const int ticket = atomicAdd(order, 1);
  order[1 + ticket] = t;
}

// ---- shared memory and vector accesses

__global__ void share(double* out) {
  WEFT_SHARED(double, a, threads);
  WEFT_SHARED(int, b, threads);
  WEFT_DYNAMIC_SHARED(float, c);
  a[thread()] = thread();
  b[thread()] = 1000 * thread();
  c[thread()] = static_cast<float>(thread()) / 4;
  __syncthreads();
  const int other = (thread() + 50) % threads;
  out[thread()] = a[other] + b[other] + static_cast<double>(c[other]);
}

template <class T>
__global__ void copy_packs(T* to, const T* from, int n) {
  constexpr int size = cuda::pack_size<T>;
  for (int i = thread(); i < n / size; i += threads) cuda::store_pack<size>(to + i * size, cuda::load_pack<size>(from + i * size));
}

}  // namespace

TEST_CASE("cuda: threads know their place") {
  DeviceArray<int> out(int64_t{4} * 3 * 2 * 64);
  launch(write_indices, Grid(4, 3, 2), 64, 0, out.data());
  CHECK(out.values() == expected<int>(4 * 3 * 2 * 64, [](int i) {
          const int block = i / 64;
          return 10000 * (block % 4) + 1000 * (block / 4 % 3) + 100 * (block / 12) + i % 64;
        }));
}

TEST_CASE("cuda: a loop over the grid takes every element once, whatever the grid") {
  for (int64_t n : {1, 31, 256, 1000, 5000}) {
    DeviceArray<int> one(n), some(n), as_chosen(n);
    launch(cover, Grid(1), 32, 0, one.data(), n);
    launch(cover, Grid(3), 96, 0, some.data(), n);
    launch(cover, cuda::grid_over(n), cuda::block_threads, 0, as_chosen.data(), n);
    const std::vector<int> ones(static_cast<size_t>(n), 1);
    CHECK(one.values() == ones);
    CHECK(some.values() == ones);
    CHECK(as_chosen.values() == ones);
  }
  launch(cover, Grid(0), 32, 0, nullptr, int64_t{5});  // nothing happens
}

TEST_CASE("cuda: block barriers") {
  CHECK(outputs(reverse) == expected<int>(threads, [](int t) { return 7 * (threads - 1 - t); }));
  CHECK(outputs(count_at_barrier) == std::vector<int>(threads, threads / 3 * 10000 + 101));
}

TEST_CASE("cuda: warp barriers") {
  CHECK(outputs(rotate_within_warp) == expected<int>(threads, [](int t) { return t / 32 * 32 + (t + 5) % 32; }));
}

TEST_CASE("cuda: shuffles of every kind, width and type") {
  CHECK(outputs(shuffle<float>) == expected<float>(threads, shuffled<float>));
  CHECK(outputs(shuffle<double>) == expected<double>(threads, shuffled<double>));
  CHECK(outputs(shuffle<int>) == expected<int>(threads, shuffled<int>));
  CHECK(outputs(shuffle<long long>) == expected<long long>(threads, shuffled<long long>));
}

TEST_CASE("cuda: parts of a warp shuffle on their own") {
  CHECK(outputs(shuffle_in_groups) == expected<int>(threads, [](int t) {
          const int lane = t % 32;
          return t - lane + (lane < 20 ? (lane + 3) % 20 : 20 + (lane - 20 + 10) % 12);
        }));
}

TEST_CASE("cuda: votes") {
  CHECK(outputs(vote) == expected<unsigned>(threads, [](int t) { return 0xaaaaaaaaU ^ 0x50000U ^ (t % 32 < 8 ? 0xc000U : 0U); }));
}

TEST_CASE("cuda: reductions of warps and blocks") {
  CHECK(outputs(reduce) == expected<int>(threads, reduced));
  CHECK(outputs(block_sum) == std::vector<double>(threads, threads * (threads - 1) / 2));
}

TEST_CASE("cuda: atomics") {
  constexpr int n = 300;
  DeviceArray<Counters> counters(1);
  DeviceArray<int> order(1 + n);
  launch(count, Grid(3), 100, 0, counters.data(), order.data());
  const Counters c = counters.values()[0];
  CHECK(c.sum == n * (n - 1) / 2);
  CHECK(c.smallest == 1 - n);
  CHECK(c.largest == n - 1);
  CHECK(c.both == (~0U << 7));
  CHECK(c.any == (1U << 9) - 1);
  unsigned odd = 0;
  for (unsigned t = 0; t < n; ++t) odd ^= t;
  CHECK(c.odd == odd);
  CHECK(c.large == n * (1ULL << 33));
  CHECK(c.largest_large == (n - 1) * (1ULL << 33));
  CHECK(c.real == n * 0.5F);
  CHECK(c.wide == n * 0.25);
  CHECK(c.exchanged == 5);
  CHECK(c.increments == n);
  std::vector<int> tickets = order.values();
  CHECK(tickets[0] == n);
  std::sort(tickets.begin() + 1, tickets.end());
  CHECK(std::vector<int>(tickets.begin() + 1, tickets.end()) == expected<int>(n, [](int t) { return t; }));
}

TEST_CASE("cuda: static and dynamic shared memory") {
  CHECK(outputs(share, threads * sizeof(float)) == expected<double>(threads, [](int t) { return 1001.25 * ((t + 50) % threads); }));
}

TEST_CASE("cuda: packs of every element type") {
  const auto check = []<class T>(T) {
    constexpr int n = 160;
    std::vector<T> from;
    for (int i = 0; i < n; ++i) from.push_back(static_cast<T>(static_cast<float>(i)));
    DeviceArray<T> x(from), y(n);
    launch(copy_packs<T>, Grid(1), threads, 0, y.data(), x.data(), n);
    const std::vector<T> to = y.values();
    CHECK(std::equal(to.begin(), to.end(), from.begin()));
  };
  check(double());
  check(float());
  check(float16());
  check(bfloat16());
  check(int64_t());
}
