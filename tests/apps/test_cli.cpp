// attn_demo run: what it writes.
#include <attn/io.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "support/program.hpp"

using namespace attn;
using namespace attn::test;

namespace {

double largest_difference(const TensorView& a, const TensorView& b) {
  REQUIRE(a.shape == b.shape);
  const Tensor left = copy_as(a, DType::f64), right = copy_as(b, DType::f64);
  double largest = 0;
  for (std::int64_t n = 0; n < left.size(); ++n) {
    largest = std::max(largest, std::abs(left.data<double>()[n] - right.data<double>()[n]));
  }
  return largest;
}

bool same_bits(const TensorView& a, const TensorView& b) {
  const Tensor left = copy_as(a, a.dtype), right = copy_as(b, b.dtype);
  return a.dtype == b.dtype && a.shape == b.shape &&
         std::memcmp(left.data(), right.data(), left.size_in_bytes()) == 0;
}

constexpr double rounding = 1e-5;

}  // namespace

TEST_CASE("run writes what the library computes") {
  const Sample sample;
  check_done(sample.run("--lse " + sample.folder / "lse.npy"));
  CHECK(same_bits(read_tensor(sample.out).view(), sample.expected().view()));
  CHECK(read_tensor(sample.folder / "lse.npy").shape() == Dims{2, 4, 3});
  CHECK(sample.folder.names() == Names{"k.npy", "lse.npy", "out.npy", "q.npy", "v.npy"});

  for (const char* options :
       {"--kernel naive", "--kernel unfused", "--kernel tiled --threads 1", "--isa baseline"}) {
    check_done(sample.run(options));
    CHECK(largest_difference(read_tensor(sample.out).view(), sample.expected().view()) < rounding);
  }
}

TEST_CASE("every option reaches the engine") {
  const Sample sample;
  const auto check = [&](const std::string& arguments, const AttentionOptions& options,
                         TensorView AttentionTensors::*side = &AttentionTensors::mask,
                         const TensorView& given = {}) {
    check_done(sample.run(arguments));
    CHECK(same_bits(read_tensor(sample.out).view(), sample.expected(options, side, given).view()));
    CHECK(!same_bits(read_tensor(sample.out).view(), sample.expected().view()));
  };
  check("--scale -0.5", {.softmax_scale = -0.5f});
  check("--softcap 0.25", {.softcap = 0.25f});
  check("--causal", {.causal = Causal::bottom_right()});
  check("--causal bottom-right", {.causal = Causal::bottom_right()});
  check("--causal top-left", {.causal = Causal::top_left()});
  check("--causal-offset -1", {.causal = Causal::with_offset(-1)});
  check("--causal --q-position 0", {.causal = Causal::top_left()});
  check("--causal --q-position top-left", {.causal = Causal::top_left()});
  check("--causal bottom-right --q-position 2", {.causal = Causal::bottom_right()});
  check("--window 1,0 --q-position -1",
        {.window = Window{1, 0}, .q_position = QueryPosition::at(-1)});
  check("--window 1,-1", {.window = Window{1, {}}});
  check("--window -1,0", {.window = Window{{}, 0}});
  check("--normalizer sigmoid", {.normalizer = Normalizer::sigmoid()});
  check("--normalizer sigmoid --sigmoid-bias -0.5", {.normalizer = Normalizer::sigmoid(-0.5f)});
  check("--normalizer sparsemax", {.normalizer = Normalizer::sparsemax()});
  check("--normalizer entmax15", {.normalizer = Normalizer::entmax(1.5f)});
  check("--normalizer entmax --alpha 1.2", {.normalizer = Normalizer::entmax(1.2f)});

  const Tensor per_head = random_tensor({4}, 4);
  check("--alibi " + sample.file("slopes.npy", per_head.view()), {},
        &AttentionTensors::alibi_slopes, per_head.view());
  check("--sinks " + sample.file("sinks.npy", copy_as(per_head.view(), DType::f64).view()), {},
        &AttentionTensors::sinks, per_head.view());
  const std::int32_t lengths[] = {2, 5};
  const TensorView kv_lens(lengths, {2});
  check("--kv-lens " + sample.file("lens.npy", kv_lens), {}, &AttentionTensors::kv_lens, kv_lens);
  check("--kv-lens " + sample.file("lens.npy", copy_as(kv_lens, DType::i64).view()), {},
        &AttentionTensors::kv_lens, kv_lens);
}

TEST_CASE("masks are booleans or floats of any type") {
  const Sample sample;
  const Tensor additive = random_tensor({3, 5}, 5);
  const Tensor boolean = counted(DType::boolean, {3, 5});
  const auto check = [&](const std::string& file, const Tensor& mask) {
    check_done(sample.run("--mask " + file));
    CHECK(same_bits(read_tensor(sample.out).view(),
                    sample.expected({}, &AttentionTensors::mask, mask.view()).view()));
  };
  check(sample.file("mask.npy", additive.view()), additive);
  check(sample.file("mask.npy", copy_as(additive.view(), DType::f64).view()), additive);
  check(sample.file("mask.npy", boolean.view()), boolean);
  const std::string bytes(static_cast<const char*>(boolean.data()), boolean.size_in_bytes());
  check(sample.folder.write("mask.npy", npy(numpy_header("|u1", "(3, 5)"), bytes)), boolean);
  const std::string integers = sample.file("mask.npy", counted(DType::i64, {3, 5}).view());
  check_refused_with(attn_demo(sample.run("--mask " + integers)),
                     "has type i64; it needs booleans");
}

TEST_CASE("layouts are views of the same numbers") {
  const Sample sample;
  const Folder folder;
  const auto seq_first = [](const Tensor& tensor) { return tensor.view().permuted({0, 2, 1, 3}); };
  const auto write = [&](const Dims& q_shape, const Dims& k_shape, const Dims& v_shape) {
    const auto reshaped = [&](const char* name, const Tensor& tensor, const Dims& shape) {
      const Tensor dense = copy_as(seq_first(tensor), DType::f32);
      write_tensor(folder / name, TensorView(dense.data(), DType::f32, shape));
    };
    reshaped("q.npy", sample.q, q_shape);
    reshaped("k.npy", sample.k, k_shape);
    reshaped("v.npy", sample.v, v_shape);
  };
  const std::string run =
      fmt::format("run --q {0}/q.npy --k {0}/k.npy --v {0}/v.npy --out {0}/out.npy ", folder / ".");
  const Tensor expected = sample.expected();

  write({2, 3, 4, 8}, {2, 5, 2, 8}, {2, 5, 2, 6});
  check_done(run + "--layout bshd");
  CHECK(same_bits(read_tensor(folder / "out.npy").view(), seq_first(expected)));

  write({2, 3, 32}, {2, 5, 16}, {2, 5, 12});
  check_done(run + "--heads 4 --kv-heads 2");
  const Tensor merged = read_tensor(folder / "out.npy");
  CHECK(merged.shape() == Dims{2, 3, 24});
  CHECK(same_bits(TensorView(merged.data(), DType::f32, {2, 3, 4, 6}), seq_first(expected)));

  check_refused_with(attn_demo(run), "needs --heads");
  check_refused_with(attn_demo(run + "--heads 5 --kv-heads 2"), "no multiple of its 5 heads");
  check_refused_with(attn_demo(run + "--heads 4 --kv-heads 2 --layout bshd"),
                     "--layout is for rank-4 inputs");
  check_refused_with(attn_demo(run + "--kv-heads 2"), "--kv-heads requires --heads");
  check_refused_with(attn_demo(sample.run("--heads 4")), "--heads is for rank-3 inputs");
}

TEST_CASE("earlier keys and values come first, and are handed back with the new ones") {
  const Sample sample;
  const Folder folder;
  write_tensor(folder / "past_k.npy", sample.k.view().sliced(2, 0, 3));
  write_tensor(folder / "past_v.npy", sample.v.view().sliced(2, 0, 3));
  // New keys and values are bshd; past ones are always bhsd.
  write_tensor(folder / "q.npy", sample.q.view().permuted({0, 2, 1, 3}));
  write_tensor(folder / "k.npy", sample.k.view().sliced(2, 3, 5).permuted({0, 2, 1, 3}));
  write_tensor(folder / "v.npy", sample.v.view().sliced(2, 3, 5).permuted({0, 2, 1, 3}));
  const std::string run = fmt::format(
      "run --layout bshd --q {0}/q.npy --k {0}/k.npy --v {0}/v.npy --out {0}/out.npy --past-k "
      "{0}/past_k.npy ",
      folder / ".");
  check_done(fmt::format(
      "{1} --past-v {0}/past_v.npy --causal --present-k {0}/all_k.npy --present-v {0}/all_v.npy",
      folder / ".", run));
  const Tensor out = read_tensor(folder / "out.npy");
  CHECK(same_bits(out.view().permuted({0, 2, 1, 3}),
                  sample.expected({.causal = Causal::bottom_right()}).view()));
  CHECK(same_bits(read_tensor(folder / "all_k.npy").view(), sample.k.view()));
  CHECK(same_bits(read_tensor(folder / "all_v.npy").view(), sample.v.view()));
  check_refused_with(attn_demo(run), "--past-k requires --past-v");
  check_refused_with(attn_demo(run + "--past-v " + folder / "past_k.npy"),
                     "--past-v has shape [2, 2, 3, 8]");
  write_tensor(folder / "short_v.npy", sample.v.view().sliced(2, 0, 2));
  check_refused_with(attn_demo(run + "--past-v " + folder / "short_v.npy"),
                     "past_len needs to be the same");
}

TEST_CASE("caches of any type and any pages give what the textbook makes of their contents") {
  const Sample sample;
  const std::int32_t lengths[] = {2, 5};
  const std::vector<std::string> calls = {
      "--causal", "--kv-lens " + sample.file("lens.npy", {lengths, {2}}),
      "--mask " + sample.file("mask.npy", random_tensor({3, 5}, 5).view()),
      fmt::format("--past-k {} --past-v {}", sample.folder / "k.npy", sample.folder / "v.npy")};
  for (const char* kv_dtype : {"f32", "bf16", "f16", "i8"}) {
    for (const char* pages : {"", "--page-size 0", "--page-size 2", "--page-size 64"}) {
      for (const std::string& call : calls) {
        const std::string options = fmt::format("{} --kv-dtype {} {}", call, kv_dtype, pages);
        CAPTURE(options);
        check_done(sample.run(options + " --kernel naive"));
        const Tensor expected = read_tensor(sample.out);
        check_done(sample.run(options));
        CHECK(largest_difference(read_tensor(sample.out).view(), expected.view()) < rounding);
      }
    }
  }
  check_done(sample.run("--page-size 2"));
  CHECK(largest_difference(read_tensor(sample.out).view(), sample.expected().view()) < rounding);
  check_done(sample.run("--kernel unfused --kv-dtype i8 --page-size 2"));
  const double cost = largest_difference(read_tensor(sample.out).view(), sample.expected().view());
  CHECK(cost > 1e-4);
  CHECK(cost < 0.1);
}

TEST_CASE("present K and V are what the cache holds, in the type of dtype") {
  const Sample sample;
  const std::string past =
      fmt::format("--past-k {0}/k.npy --past-v {0}/v.npy ", sample.folder / ".");
  const std::string present =
      fmt::format("--present-k {0}/all_k.npy --present-v {0}/all_v.npy ", sample.folder / ".");
  const auto halves_differ_by = [&](const char* name, const Tensor& given) {
    const Tensor all = read_tensor(sample.folder / name);
    CHECK(all.dtype() == DType::f32);
    REQUIRE(all.shape()[2] == 10);
    const double first = largest_difference(all.view().sliced(2, 0, 5), given.view());
    CHECK(largest_difference(all.view().sliced(2, 5, 10), given.view()) == first);
    return first;
  };
  for (const char* pages : {"", "--page-size 3"}) {
    check_done(sample.run(past + present + pages));
    CHECK(halves_differ_by("all_k.npy", sample.k) == 0);
    CHECK(halves_differ_by("all_v.npy", sample.v) == 0);
    check_done(sample.run(past + present + "--kv-dtype i8 " + pages));
    for (const double error :
         {halves_differ_by("all_k.npy", sample.k), halves_differ_by("all_v.npy", sample.v)}) {
      CHECK(error > 1e-3);
      CHECK(error < 4.0 / 127);
    }
  }
}

TEST_CASE("scores are written after each step") {
  const Sample sample;
  const std::string scores = sample.folder / "scores.npy";
  const auto at = [&](const std::string& stage) {
    check_done(sample.run("--causal top-left --softcap 0.5 --scores " + scores + stage));
    return read_tensor(scores);
  };
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const Tensor scaled = at(" --scores-stage scaled"), capped = at(" --scores-stage capped"),
               masked = at(" --scores-stage masked");
  const Tensor weights = at("");  // the default
  REQUIRE(weights.shape() == Dims{2, 4, 3, 5});
  for (std::int64_t n = 0; n < weights.size(); ++n) {
    const bool visible = n % 5 <= n / 5 % 3;
    CHECK(static_cast<double>(capped.data<float>()[n]) ==
          doctest::Approx(0.5 * std::tanh(2 * static_cast<double>(scaled.data<float>()[n]))));
    CHECK(masked.data<float>()[n] == (visible ? capped.data<float>()[n] : -infinity));
    CHECK((weights.data<float>()[n] > 0) == visible);
  }
  check_refused_with(attn_demo(sample.run("--scores-stage masked")),
                     "--scores-stage requires --scores");
}

TEST_CASE("dtype is that of the engine, O, and present K and V") {
  const Sample sample;
  const std::string half = sample.folder / "half.npy", brain = sample.folder / "brain.safetensors";
  const AttentionOptions causal{.causal = Causal::bottom_right()};
  check_done(fmt::format("run {} --causal --dtype f16 --out {} --lse {}", sample.inputs, half,
                         sample.folder / "lse.npy"));
  CHECK(read_tensor(half).dtype() == DType::f16);
  CHECK(largest_difference(read_tensor(half).view(), sample.expected(causal).view()) < 5e-3);
  CHECK(read_tensor(sample.folder / "lse.npy").dtype() == DType::f32);

  check_done(fmt::format("run {} --causal --dtype bf16 --out {} --present-k {}", sample.inputs,
                         brain, sample.folder / "k.safetensors"));
  CHECK(read_tensor(brain + ":out").dtype() == DType::bf16);
  CHECK(largest_difference(read_tensor(brain + ":out").view(), sample.expected(causal).view()) <
        5e-2);
  CHECK(same_bits(read_tensor(sample.folder / "k.safetensors:present_k").view(),
                  copy_as(sample.k.view(), DType::bf16).view()));
  check_refused_with(attn_demo(sample.run("--dtype bf16")), ".npy has no bf16");

  const std::string wide = sample.file("q64.npy", copy_as(sample.q.view(), DType::f64).view());
  check_done(fmt::format("run --q {} --k {} --v {} --out {}", wide, sample.folder / "k.npy",
                         sample.folder / "v.npy", sample.out));
  CHECK(same_bits(read_tensor(sample.out).view(), sample.expected().view()));
}

TEST_CASE("an output may take an input's place, but a failed run leaves what was there") {
  const Sample sample;
  const std::string q = sample.folder / "q.npy";
  check_refused_with(
      attn_demo(fmt::format("run {} --out {} --lse /no/such/folder/lse.npy", sample.inputs, q)),
      "lse.npy");
  CHECK(same_bits(read_tensor(q).view(), sample.q.view()));
  check_done(fmt::format("run {} --out {}", sample.inputs, q));
  CHECK(same_bits(read_tensor(q).view(), sample.expected().view()));
  CHECK(sample.folder.names() == sample.names);
}
