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

enum Seed : std::uint64_t {
  prefill_seed = 100,
  decode_seed = 200,
  padded_seed = 300,
  classes_seed = 400
};

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

/// Rows of three classes in turn, [rows, features]: the first two features scatter around a point
/// of the class, and the others are noise.
Tensor rows_of_classes(std::int64_t rows, std::int64_t features, std::uint64_t stream) {
  constexpr std::array<std::array<float, 2>, 3> points = {
      {{-1.3f, -0.6f}, {1.2f, -0.9f}, {0.2f, 1.4f}}};
  Tensor values = apps::normal_tensor({rows, features}, DType::f32, classes_seed + stream);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t k = 0; k < 2; ++k)
      values.data<float>()[row * features + k] +=
          points[static_cast<std::size_t>(row % 3)][static_cast<std::size_t>(k)];
  }
  return values;
}

Tensor classes_in_turn(std::int64_t rows) {
  Tensor classes(DType::i64, {rows});
  for (std::int64_t row = 0; row < rows; ++row) classes.data<std::int64_t>()[row] = row % 3;
  return classes;
}

/// Writes what softmax regression learns from: rows of two features; and rows of twenty, so few of
/// them for the fit that it takes noise for knowledge, and others to calibrate it with.
void make_classes(const std::filesystem::path& folder) {
  constexpr std::int64_t few = 90, more = 600;
  const Tensor two = rows_of_classes(few, 2, 0), twenty = rows_of_classes(few, 20, 1),
               held_out = rows_of_classes(more, 20, 2);
  const Tensor target = classes_in_turn(few), held_out_target = classes_in_turn(more);
  const std::array<NamedTensor, 5> tensors = {{{"two", two.view()},
                                               {"twenty", twenty.view()},
                                               {"target", target.view()},
                                               {"held_out", held_out.view()},
                                               {"held_out_target", held_out_target.view()}}};
  write_safetensors(folder / "classes.safetensors", tensors);
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
    make_classes(argv[1]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_samples: error: %s\n", error.what());
    return 2;
  }
}
