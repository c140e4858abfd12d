// Results have the same bits from every compiler. Each function's results are hashed and compared
// with what GCC 12 gives. Where a change of arithmetic is meant to change results, the message of
// the failing check has the new row for the table.
//
// The baseline of each architecture has other instructions, and so a table of its own.
#include <doctest/doctest.h>
#include <fmt/format.h>
#include <attn/attn.hpp>

#include <array>
#include <bit>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "support/case.hpp"

#if defined(__x86_64__) || defined(__aarch64__)

using namespace attn;
using namespace attn::test;

namespace {

/// Multiples of 2^-12 in [-4, 4), from a congruential generator: no compiler or library rounds
/// here.
std::vector<float> numbers(std::int64_t count, std::uint64_t seed) {
  std::vector<float> out;
  std::uint64_t state = seed * 2654435761u + 1;
  for (std::int64_t n = 0; n < count; ++n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    out.push_back(static_cast<float>(static_cast<std::int64_t>(state >> 49) - 16384) * 0x1p-12f);
  }
  return out;
}

void assign(StridedTensor& tensor, std::uint64_t seed) {
  const std::vector<float> values = numbers(tensor.shape().product(), seed);
  tensor.assign(std::vector<double>(values.begin(), values.end()));
}

/// FNV-1a of 64 bits.
template <class Element>
std::uint64_t hash(const std::vector<Element>& elements) {
  std::uint64_t h = 14695981039346656037u;
  for (const Element element : elements) h = (h ^ std::uint64_t{element}) * 1099511628211u;
  return h;
}

std::uint64_t hash_of_call(const Case& c, Isa isa) {
  Inputs inputs = make_inputs(c);
  assign(inputs.q, 1);
  assign(inputs.k, 2);
  assign(inputs.v, 3);
  if (c.alibi) assign(inputs.alibi_slopes, 4);
  if (c.sinks) assign(inputs.sinks, 5);
  const Outputs outputs = run(inputs, c, isa);
  return hash(outputs.out.bits()) ^ hash(outputs.lse.bits());
}

struct Subject {
  std::string name;
  std::function<std::uint64_t(Isa)> hash;
};

Subject call(const std::string& name, const Case& c) {
  return {name, [c](Isa isa) { return hash_of_call(c, isa); }};
}

/// A function of x and y [5, 203], which leaves a remainder with every width of vectors.
template <class Function>
Subject rows(const std::string& name, Function function) {
  return {name, [function](Isa isa) {
            const std::vector<float> x = numbers(5 * 203, 6);
            std::vector<float> y(x.size());
            function(TensorView{x.data(), {5, 203}}, MutableTensorView{y.data(), {5, 203}},
                     Execution{.isa = isa});
            std::vector<std::uint32_t> bits;
            for (const float element : y) bits.push_back(std::bit_cast<std::uint32_t>(element));
            return hash(bits);
          }};
}

Case prefill() {
  return {.num_q_heads = 2, .q_len = 60, .kv_len = 600, .head_dim = 40, .v_head_dim = 36};
}
Case decode() {
  return {.num_q_heads = 6, .num_kv_heads = 2, .q_len = 2, .kv_len = 333, .head_dim = 50};
}
Case of_type(Case c, DType type) {
  c.q_type = c.kv_type = type;
  return c;
}
Case with_transforms(Case c) {
  c.options = {.softcap = 20.f, .causal = Causal::bottom_right()};
  c.alibi = true;
  return c;
}
Case with_normalizer(Case c, const Normalizer& normalizer) {
  c.options.normalizer = normalizer;
  c.lse = false;
  return c;
}

std::vector<Subject> calls() {
  return {call("prefill", prefill()),
          call("prefill_bf16", of_type(prefill(), DType::bf16)),
          call("prefill_transforms", with_transforms(prefill())),
          call("prefill_sigmoid", with_normalizer(prefill(), Normalizer::sigmoid())),
          call("prefill_sparsemax", with_normalizer(prefill(), Normalizer::sparsemax())),
          call("decode", decode()),
          call("decode_bf16", of_type(decode(), DType::bf16)),
          call("decode_f16", of_type(decode(), DType::f16)),
          call("decode_transforms", with_transforms(decode()))};
}

Rope tables(std::vector<float>& cos, std::vector<float>& sin, bool interleaved) {
  cos = numbers(5 * 101, 7);
  sin = numbers(5 * 101, 8);
  return {.cos = {cos.data(), {5, 101}}, .sin = {sin.data(), {5, 101}}, .interleaved = interleaved};
}
Subject rope_rows(const std::string& name, bool interleaved) {
  return rows(name, [interleaved](TensorView x, MutableTensorView y, const Execution& execution) {
    std::vector<float> cos, sin;
    const Dims shape{1, 1, 5, 203};
    rope({x.data, DType::f32, shape, {1015, 1015, 203, 1}}, tables(cos, sin, interleaved), {},
         {y.data, DType::f32, shape, {1015, 1015, 203, 1}}, execution);
  });
}

std::vector<Subject> functions() {
  using X = const TensorView&;
  using Y = const MutableTensorView&;
  using E = const Execution&;
  return {rows("softmax", [](X x, Y y, E e) { softmax(x, y, -1, 1.f, e); }),
          rows("log_softmax", [](X x, Y y, E e) { log_softmax(x, y, -1, 1.f, e); }),
          rows("entmax15", [](X x, Y y, E e) { entmax15(x, y, -1, {}, e); }),
          rows("rms_norm", [](X x, Y y, E e) { rms_norm(x, {}, y, {}, e); }),
          rows("layer_norm", [](X x, Y y, E e) { layer_norm(x, {}, {}, y, {}, {}, e); }),
          rows("gelu_erf", [](X x, Y y, E e) { gelu(x, y, GeluForm::erf, e); }),
          rows("gelu_tanh", [](X x, Y y, E e) { gelu(x, y, GeluForm::tanh, e); }),
          rows("silu", [](X x, Y y, E e) { silu(x, y, e); }),
          rope_rows("rope", false),
          rope_rows("rope_interleaved", true)};
}

/// Hashes in the order of the enumerators of Isa.
using Row = std::array<std::uint64_t, 4>;

#if defined(__x86_64__)
const std::map<std::string, Row> expected = {
    {"prefill", {{0xd8bda43d052d259c, 0x16e53d738b02f50c, 0x01097b5e738585c1, 0x01097b5e738585c1}}},
    {"prefill_bf16",
     {{0xab7cf32648d48d65, 0x05ea2b78057944b5, 0xce48ad3b01099cc0, 0x67846d5a1271a6a0}}},
    {"prefill_transforms",
     {{0xdb68a8e1f8a3903a, 0xe17947514c1cdc7f, 0x9f8c4f66549a890b, 0x9f8c4f66549a890b}}},
    {"prefill_sigmoid",
     {{0xe88360a8a8b4c600, 0x7c4fb53edc2def36, 0xa574f5f526b3342e, 0xa574f5f526b3342e}}},
    {"prefill_sparsemax",
     {{0x11dfadb955ae5408, 0x56bb35be1cc40b5b, 0x56bb35be1cc40b5b, 0x56bb35be1cc40b5b}}},
    {"decode", {{0x5ddbd8766744321a, 0xfe71206cbee9a1c5, 0x0c6120c77d7940c3, 0x0c6120c77d7940c3}}},
    {"decode_bf16",
     {{0x5a7bf7e306e14376, 0xc3f8027cc411c989, 0xd76557fb53e174b0, 0x8414f450d14ff1d7}}},
    {"decode_f16",
     {{0xcad82a0a36d61f62, 0xc7551c64c17d188c, 0x66dfa7d5451ba2b7, 0x66dfa7d5451ba2b7}}},
    {"decode_transforms",
     {{0x67bc89816e9a37d8, 0x1cec5a65effd7476, 0x5a3ae465d3580c97, 0x5a3ae465d3580c97}}},
    {"softmax", {{0xb76b83394c7fc1bd, 0xe622c2c3c13a1db3, 0x525bb97df7ca050f, 0x525bb97df7ca050f}}},
    {"log_softmax",
     {{0x9ef01ffca44a6dbb, 0x9ef01ffca44a6dbb, 0x9ef01ffca44a6dbb, 0x9ef01ffca44a6dbb}}},
    {"entmax15",
     {{0xec7dd9cd2d7b35e3, 0x0245e80974de1ed9, 0xfce3648bdf536456, 0xfce3648bdf536456}}},
    {"rms_norm",
     {{0xd6221d8a7f481bc1, 0xd6221d8a7f481bc1, 0xd6221d8a7f481bc1, 0xd6221d8a7f481bc1}}},
    {"layer_norm",
     {{0x47a9e1accc6c0b1f, 0x47a9e1accc6c0b1f, 0x47a9e1accc6c0b1f, 0x47a9e1accc6c0b1f}}},
    {"gelu_erf",
     {{0x3bb49371a62c81bf, 0xecfa34c73ae5bb88, 0x71bdbf8d6aac8a62, 0x71bdbf8d6aac8a62}}},
    {"gelu_tanh",
     {{0x6dc39b7ec5736f19, 0xa1f3ae9c5ff149f8, 0x76d1bcbfa828615f, 0x76d1bcbfa828615f}}},
    {"silu", {{0xb8a736264cb536ab, 0x132b27a65c347561, 0xe13b7a17e5ac49da, 0xe13b7a17e5ac49da}}},
    {"rope", {{0x3a68f2f74bbfe2df, 0xc918f00426025a8d, 0xc918f00426025a8d, 0xc918f00426025a8d}}},
    {"rope_interleaved",
     {{0x9cda4b04c2f94b66, 0xee5618ffca9bac33, 0xee5618ffca9bac33, 0xee5618ffca9bac33}}},
};
#else
/// There is the baseline alone.
const std::map<std::string, Row> expected = {
    {"prefill", {{0x85cd74b158314fb8}}},
    {"prefill_bf16", {{0xa9a077dcc6ca53ef}}},
    {"prefill_transforms", {{0x8a5b4cb048c896b0}}},
    {"prefill_sigmoid", {{0xfc94a4a5145e09e9}}},
    {"prefill_sparsemax", {{0x56bb35be1cc40b5b}}},
    {"decode", {{0xbd3ed0ae27e90534}}},
    {"decode_bf16", {{0xe7cbc2bf7ed72e0f}}},
    {"decode_f16", {{0xc89bc6ffdd74e22e}}},
    {"decode_transforms", {{0x86866846c2a90144}}},
    {"softmax", {{0x4135622ecbf8752f}}},
    {"log_softmax", {{0x9ef01ffca44a6dbb}}},
    {"entmax15", {{0x0c927741315c6575}}},
    {"rms_norm", {{0xd6221d8a7f481bc1}}},
    {"layer_norm", {{0x47a9e1accc6c0b1f}}},
    {"gelu_erf", {{0x695891fa15a7a004}}},
    {"gelu_tanh", {{0xca19cfb120db958d}}},
    {"silu", {{0xd7660665d7094d92}}},
    {"rope", {{0xc918f00426025a8d}}},
    {"rope_interleaved", {{0xee5618ffca9bac33}}},
};
#endif

void check(const std::vector<Subject>& subjects) {
  for (const Subject& subject : subjects) {
    Row row{};
    const auto known = expected.find(subject.name);
    if (known != expected.end()) row = known->second;
    const Row wanted = row;
    for (const Isa isa : available_isas()) row[static_cast<std::size_t>(isa)] = subject.hash(isa);
    INFO(fmt::format("{{\"{}\", {{{{{:#018x}, {:#018x}, {:#018x}, {:#018x}}}}}}},", subject.name,
                     row[0], row[1], row[2], row[3]));
    CHECK(row == wanted);
  }
}

}  // namespace

TEST_CASE("calls have the bits that every compiler gives") { check(calls()); }
TEST_CASE("functions of rows have the bits that every compiler gives") { check(functions()); }

#endif
