// Uses the library as its users do: attends to three keys on threads of its own, and catches the
// error of a wrong call.
#include <attn/attention.hpp>
#include <attn/error.hpp>
#include <attn/execution.hpp>
#include <attn/tensor.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>

namespace {

/// Lends no thread.
class Nobody final : public attn::Executor {
  void offer(int, const Task&) override {}
};

/// With q = 0 all scores are 0, so that the output is the mean of the values.
bool output_is_mean_of_values() {
  constexpr std::int64_t kv_len = 3, dim = 4;
  const std::array<float, dim> q{};
  const std::array<float, kv_len * dim> k{};
  std::array<float, kv_len * dim> v{};
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = static_cast<float>(i);

  attn::Tensor out(attn::DType::f32, {1, 1, 1, dim});
  Nobody nobody;
  attn::attention({q.data(), {1, 1, 1, dim}}, {k.data(), {1, 1, kv_len, dim}},
                  {v.data(), {1, 1, kv_len, dim}}, out.view(), {}, {.executor = &nobody});
  for (std::int64_t i = 0; i < dim; ++i) {
    const float mean = static_cast<float>(i + dim), got = out.data<float>()[i];
    if (!(std::abs(got - mean) < 1e-5f)) {
      std::fprintf(stderr, "output %d is %g, not %g\n", static_cast<int>(i),
                   static_cast<double>(got), static_cast<double>(mean));
      return false;
    }
  }
  return true;
}

/// The error is thrown inside the library and caught outside of it.
bool error_can_be_caught() {
  try {
    attn::attention({});
  } catch (const attn::Error& error) {
    return error.code() == attn::ErrorCode::invalid_argument;
  }
  std::fputs("a call without tensors throws nothing\n", stderr);
  return false;
}

}  // namespace

int main() {
  if (!output_is_mean_of_values() || !error_can_be_caught()) return 1;
  std::puts("attn: found, linked and run");
}
