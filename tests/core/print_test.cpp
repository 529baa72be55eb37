// to_string(Tensor): the layout of NumPy.
#include <doctest/doctest.h>

#include <clocale>
#include <limits>
#include <sstream>

#include "weft/core/kernels.h"
#include "weft/core/tensor.h"

using namespace weft;

namespace {

std::string text(const std::vector<double>& values, DType dtype = DType::float64) {
  const Tensor x = from_vector(values, {static_cast<int64_t>(values.size())});
  Tensor y = empty(x.shape(), {.dtype = dtype});
  WEFT_LAUNCH(y, convert(y, x));
  return to_string(y);
}

constexpr double inf = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("print: scalars, empty and undefined tensors") {
  CHECK(to_string(scalar(3.5)) == "3.5 float32 []");
  CHECK(to_string(scalar(-7, {.dtype = DType::int64})) == "-7 int64 []");
  CHECK(to_string(scalar(1, {.dtype = DType::boolean})) == "true bool []");
  CHECK(to_string(zeros({0, 3})) == "[] float32 [0, 3]");
  CHECK(to_string(Tensor()) == "an undefined tensor");
}

TEST_CASE("print: columns are aligned, with as many digits as they need") {
  CHECK(to_string(from_vector<float>({1, 2.25F, -3, 0.1F}, {2, 2})) == "[[ 1.    2.25]\n [-3.    0.1 ]] float32 [2, 2]");
  CHECK(text({0, 1, 2}) == "[0. 1. 2.] float64 [3]");
  CHECK(text({1.0 / 3, 2}) == "[0.33333333 2.        ] float64 [2]");
  CHECK(text({0.1, 0.7}, DType::float32) == "[0.1 0.7] float32 [2]");
  CHECK(text({0.1, 0.7}, DType::float16) == "[0.1 0.7] float16 [2]");
  CHECK(text({0.1, 3.140625}, DType::bfloat16) == "[0.1  3.14] bfloat16 [2]");
  CHECK(text({65504, 1000}, DType::float16) == "[65500.  1000.] float16 [2]");
  CHECK(text({10, -200, 3}, DType::int64) == "[  10 -200    3] int64 [3]");
  CHECK(text({1, 0}, DType::boolean) == "[ true false] bool [2]");
}

TEST_CASE("print: numbers of very different size are scientific, NaN and infinities keep the columns") {
  CHECK(text({1e-5, 1}) == "[1.e-05 1.e+00] float64 [2]");
  CHECK(text({1e8, 1.5}) == "[1.0e+08 1.5e+00] float64 [2]");
  CHECK(text({123456789.125}) == "[1.23456789e+08] float64 [1]");
  CHECK(text({1.5, not_a_number, inf, -inf}) == "[ 1.5  nan  inf -inf] float64 [4]");
  CHECK(text({0, 0.001}) == "[0.    0.001] float64 [2]");
}

TEST_CASE("print: outer axes are set apart, long lines wrap") {
  CHECK(to_string(arange(12).viewed_as({2, 2, 3})) == "[[[ 0  1  2]\n  [ 3  4  5]]\n\n [[ 6  7  8]\n  [ 9 10 11]]] int64 [2, 2, 3]");
  CHECK(to_string(ones({2, 1, 1, 2})) == "[[[[1. 1.]]]\n\n\n [[[1. 1.]]]] float32 [2, 1, 1, 2]");
  std::string first = "[", second = "";
  for (int i = 0; i < 33; ++i) first += (i > 0 ? (i < 10 ? "  " : " ") : " ") + std::to_string(i);
  for (int i = 33; i < 40; ++i) second += " " + std::to_string(i);
  CHECK(to_string(arange(40)) == first + "\n" + second + "] int64 [40]");
}

TEST_CASE("print: above 1000 elements only the ends are shown") {
  CHECK(to_string(arange(1001)) == "[   0    1    2 ...  998  999 1000] int64 [1001]");
  CHECK(to_string(arange(8000).viewed_as({2, 4000})) ==
        "[[   0    1    2 ... 3997 3998 3999]\n [4000 4001 4002 ... 7997 7998 7999]] int64 [2, 4000]");
  CHECK(to_string(zeros({400, 3})) ==
        "[[0. 0. 0.]\n [0. 0. 0.]\n [0. 0. 0.]\n ...\n [0. 0. 0.]\n [0. 0. 0.]\n [0. 0. 0.]] float32 [400, 3]");
  CHECK(to_string(arange(1000)).find("...") == std::string::npos);
}

TEST_CASE("print: the same in a locale that writes a comma") {
  const std::string before = std::setlocale(LC_ALL, nullptr);
  for (const char* name : {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8"}) {  // the machine may have none of them
    std::setlocale(LC_ALL, name);
    CHECK(text({0.1, 0.7}, DType::float32) == "[0.1 0.7] float32 [2]");
    CHECK(text({0.1, 0.7}, DType::float16) == "[0.1 0.7] float16 [2]");
    CHECK(text({1e-5, 1}) == "[1.e-05 1.e+00] float64 [2]");
  }
  std::setlocale(LC_ALL, before.c_str());
}

TEST_CASE("print: streams") {
  std::ostringstream out;
  out << ones({2});
  CHECK(out.str() == "[1. 1.] float32 [2]");
}
