// Uses the library once: attends to three keys.
#include <attn/attention.hpp>
#include <attn/tensor.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>

int main() {
  constexpr std::int64_t keys = 3, dim = 4;
  const std::array<float, dim>
      query{};  // scores of 0 weigh all keys equally: the output is the mean of the values
  std::array<float, keys * dim> key{}, value{};
  for (std::size_t i = 0; i < value.size(); ++i) value[i] = static_cast<float>(i);

  attn::Tensor out(attn::DType::f32, {1, 1, 1, dim});
  attn::attention({query.data(), {1, 1, 1, dim}}, {key.data(), {1, 1, keys, dim}},
                  {value.data(), {1, 1, keys, dim}}, out.view());
  for (std::int64_t i = 0; i < dim; ++i) {
    const float mean = static_cast<float>(i + dim), got = out.data<float>()[i];
    if (!(std::abs(got - mean) < 1e-5f)) {
      std::fprintf(stderr, "output %d is %g, not %g\n", static_cast<int>(i),
                   static_cast<double>(got), static_cast<double>(mean));
      return 1;
    }
  }
  std::puts("attn: found, linked and run");
}
