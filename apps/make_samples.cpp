// Makes the sample tensors of data/, the same bytes each time. data/README.md says what they are.
#include <attn/attn.hpp>
#include <attn/io.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <limits>

#include "apps/support/random.hpp"

namespace {

using namespace attn;

enum Seed : std::uint64_t { prefill_seed = 100, decode_seed = 200, padded_seed = 300 };

/// Writes a prompt of a model with grouped heads, in one safetensors file.
void make_prefill(const std::filesystem::path& folder) {
  const Tensor q = apps::normal_tensor({1, 8, 256, 64}, DType::f32, prefill_seed);
  const Tensor k = apps::normal_tensor({1, 2, 256, 64}, DType::f32, prefill_seed + 1);
  const Tensor v = apps::normal_tensor({1, 2, 256, 64}, DType::f32, prefill_seed + 2);
  const std::array<NamedTensor, 3> tensors = {{{"q", q.view()}, {"k", k.view()}, {"v", v.view()}}};
  write_safetensors(folder / "prefill.safetensors", tensors);
}

/// Writes one new token after a cache of 511 tokens, in half precision.
void make_decode(const std::filesystem::path& folder) {
  const auto write = [&](const char* name, const Dims& shape, std::uint64_t stream) {
    write_tensor(folder / name,
                 apps::normal_tensor(shape, DType::f16, decode_seed + stream).view());
  };
  write("decode_q.npy", {1, 8, 1, 64}, 0);
  write("decode_k.npy", {1, 2, 1, 64}, 1);
  write("decode_v.npy", {1, 2, 1, 64}, 2);
  write("decode_past_k.npy", {1, 2, 511, 64}, 3);
  write("decode_past_v.npy", {1, 2, 511, 64}, 4);
}

/// Writes texts of different lengths in one batch, [batch, seq, heads * dim]. Keys and values of
/// the padding are NaN, like memory that was never written. The mask keeps them out of the result.
void make_padded(const std::filesystem::path& folder) {
  constexpr std::array<std::int64_t, 3> lengths = {80, 53, 21};
  constexpr std::int64_t batch = 3, seq = 80, width = 4 * 32;
  Tensor q = apps::normal_tensor({batch, seq, width}, DType::f32, padded_seed);
  Tensor k = apps::normal_tensor({batch, seq, width}, DType::f32, padded_seed + 1);
  Tensor v = apps::normal_tensor({batch, seq, width}, DType::f32, padded_seed + 2);
  Tensor mask(DType::boolean, {batch, 1, seq, seq});
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t begin = (b * seq + lengths[b]) * width, end = (b + 1) * seq * width;
    for (Tensor* padded : {&k, &v})
      std::fill(padded->data<float>() + begin, padded->data<float>() + end,
                std::numeric_limits<float>::quiet_NaN());
    for (std::int64_t i = 0; i < lengths[b]; ++i)
      std::fill_n(mask.data<bool>() + (b * seq + i) * seq, lengths[b], true);
  }
  write_tensor(folder / "padded_q.npy", q.view());
  write_tensor(folder / "padded_k.npy", k.view());
  write_tensor(folder / "padded_v.npy", v.view());
  write_tensor(folder / "padded_mask.npy", mask.view());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: make_samples FOLDER\n", stderr);
    return 2;
  }
  try {
    make_prefill(argv[1]);
    make_decode(argv[1]);
    make_padded(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_samples: error: %s\n", error.what());
    return 2;
  }
}
