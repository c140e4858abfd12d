// Files for tests of `attn_demo op` and `attn_demo plot`.
#pragma once

#include <attn/io.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "support/program.hpp"

namespace attn::test {

using Values = std::vector<double>;

inline Values values_of(const Tensor& tensor) {
  const Tensor wide = copy_as(tensor.view(), DType::f64);
  return {wide.data<double>(), wide.data<double>() + wide.size()};
}

/// A folder with an input x.npy, f32 [2, 3, 4]; tests add files to it.
struct OpSample {
  Folder folder;
  Tensor x = random_tensor({2, 3, 4}, 1);
  std::string out = folder / "out.npy";

  OpSample() { write_tensor(folder / "x.npy", x.view()); }

  std::string file(const std::string& name, const TensorView& tensor) const {
    write_tensor(folder / name, tensor);
    return folder / name;
  }
  template <class T>
  std::string file(const std::string& name, const Dims& shape,
                   const std::vector<T>& numbers) const {
    return file(name, TensorView(numbers.data(), shape));
  }
  std::string op(const std::string& options, const std::string& input = "x.npy") const {
    const std::size_t space = std::min(options.find(' '), options.size());
    return fmt::format("op {} --input {} --out {} {}", options.substr(0, space), folder / input,
                       out, options.substr(space));
  }
  double at(std::int64_t a, std::int64_t b, std::int64_t c) const {
    return static_cast<double>(x.data<float>()[(a * 3 + b) * 4 + c]);
  }
  /// The values of x after f has changed each slice along this axis.
  Values along(int axis, const std::function<void(Values&)>& f) const {
    Values all = values_of(x);
    const std::int64_t extent = x.shape()[axis], stride = dense_strides(x.shape())[axis];
    for (std::int64_t first = 0; first < x.size(); ++first) {
      if (first / stride % extent != 0) continue;
      Values slice;
      for (std::int64_t n = 0; n < extent; ++n)
        slice.push_back(all[static_cast<std::size_t>(first + n * stride)]);
      f(slice);
      for (std::int64_t n = 0; n < extent; ++n)
        all[static_cast<std::size_t>(first + n * stride)] = slice[static_cast<std::size_t>(n)];
    }
    return all;
  }
};

/// The tolerance of numbers of order 1 that were computed in f32 with about ten roundings.
inline constexpr double rounding = 4e-6;

inline void check_file(const std::string& file, const Dims& shape, const Values& wanted,
                       double tolerance = rounding) {
  CAPTURE(file);
  const Tensor tensor = read_tensor(file);
  CHECK(tensor.shape() == shape);
  const Values got = values_of(tensor);
  REQUIRE(got.size() == wanted.size());
  for (std::size_t n = 0; n < got.size(); ++n) {
    CAPTURE(n);
    CHECK(std::abs(got[n] - wanted[n]) <= tolerance);
  }
}

}  // namespace attn::test
