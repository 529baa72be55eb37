// The tensor core instructions against plain products, fragment by fragment. Kernels of tests exist in emulation only.
#ifdef WEFT_CUDA_EMULATED

#include "weft/core/cuda/mma.cuh"

#include <set>

#include "testing.h"

using namespace weft;
using namespace weft::cuda;
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

/// rows x columns of a b^T, b given by rows of its columns, or of a b.
template <class T>
std::vector<float> product(const std::vector<T>& a, const std::vector<T>& b, int rows, int columns, int depth, bool b_transposed) {
  std::vector<float> d;
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) {
      float sum = 0;
      for (int k = 0; k < depth; ++k)
        sum += static_cast<float>(a[static_cast<size_t>(i * depth + k)]) *
               static_cast<float>(b[static_cast<size_t>(b_transposed ? j * depth + k : k * columns + j)]);
      d.push_back(sum);
    }
  }
  return d;
}

/// A kernel of one warp on device arrays.
template <class F>
void run_warp(F f) {
  emulated::run([&] { f(static_cast<int>(threadIdx.x)); }, dim3(1), dim3(32), 1 << 14, std::source_location::current());
}

template <class T>
Tensor on_device(const std::vector<T>& values) {
  Tensor x = empty({static_cast<int64_t>(values.size())}, {.dtype = dtype_of<T>, .device = Device::cpu()});
  std::copy(values.begin(), values.end(), x.data<T>());
  return to(x, Device::cuda());
}
template <class T>
T* device_data(const Tensor& x) {
  return static_cast<T*>(x.raw());
}
Tensor device_floats(int count) { return full({count}, -1, {.dtype = DType::float32, .device = Device::cuda()}); }

/// The registers of a lane for a block of 16 x 16, from memory.
template <class T>
void gather_left(uint32_t (&a)[4], const T* block, int lane, int stride = 16) {
  const int g = lane / 4, c = 2 * (lane % 4);
  for (int i = 0; i < 4; ++i) {
    const T* p = block + (g + 8 * (i % 2)) * stride + c + 8 * (i / 2);
    a[i] = static_cast<uint32_t>(p[0].bits) | static_cast<uint32_t>(p[1].bits) << 16;
  }
}
void scatter(float* d, const float (&sums)[4], int lane, int columns) {
  const int g = lane / 4, c = 2 * (lane % 4);
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * columns + c + i % 2] = sums[i];
}

/// d = a b, 16 x 16 x 8, from registers that are filled element by element; swapped: two of them in the wrong order.
template <class T>
std::vector<float> one_product(const std::vector<T>& a, const std::vector<T>& b, bool swap_left, bool swap_right) {
  const Tensor left = on_device(a), right = on_device(b), d = device_floats(16 * 8);
  run_warp([&](int lane) {
    const int g = lane / 4, c = 2 * (lane % 4);
    uint32_t x[4], y[2];
    gather_left(x, device_data<T>(left), lane);
    for (int i = 0; i < 2; ++i) {
      const T* p = device_data<T>(right) + (c + 8 * i) * 8 + g;
      y[i] = static_cast<uint32_t>(p[0].bits) | static_cast<uint32_t>(p[8].bits) << 16;
    }
    if (swap_left) std::swap(x[1], x[2]);
    if (swap_right) std::swap(y[0], y[1]);
    float sums[4] = {};
    mma<T>(sums, x, y[0], y[1]);
    scatter(device_data<float>(d), sums, lane, 8);
  });
  return d.to_vector<float>();
}

}  // namespace

TEST_CASE_TEMPLATE("cuda: mma is a product of 16 x 16 and 16 x 8 elements, and a wrong layout shows", T, float16, bfloat16) {
  const std::vector<T> a = integers<T>(16 * 16, 1), b = integers<T>(16 * 8, 2);
  const std::vector<float> expected = product(a, b, 16, 8, 16, false);
  CHECK(one_product(a, b, false, false) == expected);
  CHECK(one_product(a, b, true, false) != expected);
  CHECK(one_product(a, b, false, true) != expected);
}

TEST_CASE_TEMPLATE("cuda: ldmatrix loads left sides, right sides by columns, and right sides by rows", T, float16, bfloat16) {
  const std::vector<T> a = integers<T>(16 * 16, 3), b = integers<T>(16 * 16, 4);
  const Tensor left = on_device(a), right = on_device(b);
  const auto multiply = [&](bool by_columns, bool narrow) {
    const Tensor d = device_floats(16 * 16);
    run_warp([&](int lane) {
      WEFT_SHARED(T, tile, 2 * 16 * 16);
      for (int i = lane; i < 16 * 16; i += 32) {
        tile[i] = device_data<T>(left)[i];
        tile[16 * 16 + i] = device_data<T>(right)[i];
      }
      __syncwarp();
      uint32_t x[4], y[4];
      const SharedAddress place = shared_address(tile) + static_cast<SharedAddress>(2 * (lane % 16 * 16 + lane / 16 * 8));
      load_matrices(x, place);
      if (narrow) {  // two matrices at a time
        for (int half = 0; half < 2; ++half) {
          // Columns 8 half to 8 half + 7 of b: rows of the tile if it holds columns, else columns of it.
          const int row = by_columns ? 8 * half + lane % 8 : lane % 16, column = by_columns ? lane / 8 % 2 * 8 : 8 * half;
          const SharedAddress at = shared_address(tile + 16 * 16) + static_cast<SharedAddress>(2 * (row * 16 + column));
          uint32_t two[2];
          if (by_columns) {
            load_matrices(two, at);
          } else {
            load_matrices_transposed(two, at);
          }
          y[2 * half] = two[0], y[2 * half + 1] = two[1];
        }
      } else if (by_columns) {
        load_matrices(y, place + 2 * 16 * 16);
        std::swap(y[1], y[2]);
      } else {
        load_matrices_transposed(y, place + 2 * 16 * 16);
      }
      for (int half = 0; half < 2; ++half) {
        float sums[4] = {};
        mma<T>(sums, x, y[2 * half], y[2 * half + 1]);
        scatter(device_data<float>(d) + 8 * half, sums, lane, 16);
      }
    });
    return d.to_vector<float>();
  };
  for (const bool narrow : {false, true}) {
    CHECK(multiply(true, narrow) == product(a, b, 16, 16, 16, true));
    CHECK(multiply(false, narrow) == product(a, b, 16, 16, 16, false));
    CHECK(multiply(true, narrow) != product(a, b, 16, 16, 16, false));
  }
}

TEST_CASE_TEMPLATE("cuda: sums of one mma, packed, are the left side of the next", T, float16, bfloat16) {
  const std::vector<T> a = integers<T>(16 * 16, 5), b = integers<T>(16 * 16, 6), c = integers<T>(16 * 8, 7);
  const Tensor left = on_device(a), middle = on_device(b), right = on_device(c), d = device_floats(16 * 8);
  run_warp([&](int lane) {
    WEFT_SHARED(T, tile, 16 * 16);
    for (int i = lane; i < 16 * 16; i += 32) tile[i] = device_data<T>(middle)[i];
    __syncwarp();
    uint32_t x[4], y[4];
    gather_left(x, device_data<T>(left), lane);
    load_matrices_transposed(y, shared_address(tile) + static_cast<SharedAddress>(2 * (lane % 16 * 16 + lane / 16 * 8)));
    float low[4] = {}, high[4] = {}, sums[4] = {};
    mma<T>(low, x, y[0], y[1]);
    mma<T>(high, x, y[2], y[3]);
    for (float& value : low) value *= 0.125F;  // so that few bits are left: bfloat16 holds them
    for (float& value : high) value *= 0.125F;
    const uint32_t between[4] = {pack_two<T>(low[0], low[1]), pack_two<T>(low[2], low[3]), pack_two<T>(high[0], high[1]),
                                 pack_two<T>(high[2], high[3])};
    const int g = lane / 4, pair = 2 * (lane % 4);
    const T* p = device_data<T>(right) + pair * 8 + g;
    const auto two = [](T first, T second) { return static_cast<uint32_t>(first.bits) | static_cast<uint32_t>(second.bits) << 16; };
    mma<T>(sums, between, two(p[0], p[8]), two(p[64], p[72]));
    scatter(device_data<float>(d), sums, lane, 8);
  });
  std::vector<T> rounded;
  for (float x : product(a, b, 16, 16, 16, false)) rounded.push_back(T(0.125F * x));
  CHECK(d.to_vector<float>() == product(rounded, c, 16, 8, 16, false));
}

TEST_CASE("cuda: pairs of halves in a register") {
  run_warp([](int lane) {
    const float x = static_cast<float>(lane) + 0.3F;
    const uint32_t packed = pack_two<float16>(x, -x);
    if (unpack_low<float16>(packed) != widen(narrow<float16>(x)) || unpack_high<float16>(packed) != -widen(narrow<float16>(x))) {
      emulated::fault("halves in the wrong order");
    }
  });
  run_warp([](int lane) {
    const float x = static_cast<float>(lane) + 0.3F;
    const uint32_t packed = pack_two<bfloat16>(x, -x);
    if (unpack_low<bfloat16>(packed) != widen(narrow<bfloat16>(x)) || unpack_high<bfloat16>(packed) != -widen(narrow<bfloat16>(x))) {
      emulated::fault("halves in the wrong order");
    }
  });
}

TEST_CASE("cuda: rows for ldmatrix begin at multiples of 16 bytes, and every lane takes part") {
  const auto load_at = [](int bytes, int lanes) {
    return error_of([&] {
      run_warp([&](int lane) {
        WEFT_SHARED(float16, tile, 8 * 64);
        uint32_t r[4];
        if (lane < lanes) load_matrices(r, shared_address(tile) + static_cast<SharedAddress>(16 * lane + bytes));
      });
    });
  };
  CHECK(load_at(0, 32).empty());
  CHECK(has(load_at(8, 32), "access to 16 bytes at an address that is no multiple of that"));
  CHECK(has(load_at(0, 16), "ldmatrix"));
}

namespace {

/// What is seen in shared memory of three groups of copies, after a wait for all but the newest (4: no wait).
template <int newest>
std::vector<float> seen_after_waiting(bool commit) {
  std::vector<float> numbers;
  for (int i = 0; i < 3 * 32 * 4; ++i) numbers.push_back(static_cast<float>(i + 1));
  const Tensor from = on_device(numbers), out = device_floats(3 * 32 * 4);
  run_warp([&](int lane) {
    WEFT_SHARED(float, tile, 3 * 32 * 4);
    for (int i = lane; i < 3 * 32 * 4; i += 32) tile[i] = 0;
    __syncwarp();
    for (int group = 0; group < 3; ++group) {
      const int place = 4 * (32 * group + lane);
      copy_async(shared_address(tile + place), device_data<float>(from) + place, lane != 5);
      if (commit) commit_copies();
    }
    if constexpr (newest < 4) wait_copies<newest>();
    __syncwarp();
    for (int i = lane; i < 3 * 32 * 4; i += 32) device_data<float>(out)[i] = tile[i];
    __syncwarp();
    wait_copies<0>();
  });
  return out.to_vector<float>();
}

int arrived_groups(const std::vector<float>& seen) {
  int groups = 0;
  for (int group = 0; group < 3; ++group) {
    std::set<bool> arrived;
    for (int i = 0; i < 32 * 4; ++i) {
      const float x = seen[static_cast<size_t>(group * 128 + i)];
      if (i / 4 == 5) {
        CHECK(x == 0);
      } else {
        arrived.insert(x == static_cast<float>(group * 128 + i + 1));
      }
    }
    CHECK(arrived.size() == 1);
    groups += *arrived.begin() ? 1 : 0;
  }
  return groups;
}

}  // namespace

TEST_CASE("cuda: asynchronous copies are seen after the wait for their group, zeros where nothing is read") {
  CHECK(arrived_groups(seen_after_waiting<0>(true)) == 3);
  CHECK(arrived_groups(seen_after_waiting<1>(true)) == 2);
  CHECK(arrived_groups(seen_after_waiting<3>(true)) == 0);
  CHECK(arrived_groups(seen_after_waiting<4>(true)) == 0);   // no wait at all
  CHECK(arrived_groups(seen_after_waiting<0>(false)) == 0);  // no group
  emulated::set_copy_time(emulated::CopyTime::at_once);
  CHECK(arrived_groups(seen_after_waiting<4>(true)) == 3);
  emulated::set_copy_time(emulated::CopyTime::at_wait);

  const auto copy_to = [](int to, int from) {
    return error_of([&] {
      const Tensor source = device_floats(64);
      run_warp([&](int) {
        WEFT_SHARED(float, tile, 64);
        copy_async(shared_address(tile + to), device_data<float>(source) + from);
        commit_copies();
        wait_copies<0>();
      });
    });
  };
  CHECK(copy_to(4, 8).empty());
  CHECK(has(copy_to(2, 8), "access to 16 bytes"));
  CHECK(has(copy_to(4, 1), "access to 16 bytes"));
}

#endif
