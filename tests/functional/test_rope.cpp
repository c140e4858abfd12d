// rope against its definition in double.
#include <attn/functional.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <optional>

#include "support/check_fails.hpp"
#include "support/functional.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

enum class Positions { counted, i32, i64, table_of_each };

struct RopeCase {
  Dims shape{2, 3, 4, 8};
  std::int64_t pairs = 4;
  bool interleaved = false;
  Positions positions = Positions::counted;
  DType in = DType::f32, out = DType::f32;
  Layout in_layout = Layout::bhsd, out_layout = Layout::bhsd, table_layout = Layout::bhsd;
  Execution execution{};

  std::string to_string() const {
    return fmt::format("{}: {} pairs, interleaved {}, positions {}, {} {} to {} {}, tables {}",
                       shape.to_string(), pairs, interleaved, static_cast<int>(positions),
                       name_of(in), name_of(in_layout), name_of(out), name_of(out_layout),
                       name_of(table_layout));
  }
};

struct Operands {
  StridedTensor x, cos, sin, ids;

  Rope tables(bool interleaved) const {
    return {.cos = cos.view(), .sin = sin.view(), .interleaved = interleaved};
  }
};

Operands random_operands(Random& random, const RopeCase& c) {
  Operands operands;
  const std::int64_t batch = c.shape[0], seq = c.shape[2];
  const std::int64_t rows = seq + random.integer(0, 5);
  operands.x = tensor_of(c.in, c.shape, c.in_layout, normal_values(random, c.shape.product()));
  const Dims table_shape =
      c.positions == Positions::table_of_each ? Dims{batch, seq, c.pairs} : Dims{rows, c.pairs};
  operands.cos = operands.sin = StridedTensor(DType::f32, table_shape, c.table_layout);
  for_each_index(table_shape, [&](const Dims& at) {
    const double angle = 6.28 * random.uniform();
    operands.cos.set(at, std::cos(angle));
    operands.sin.set(at, std::sin(angle));
  });
  if (c.positions != Positions::i32 && c.positions != Positions::i64) return operands;
  operands.ids = StridedTensor(c.positions == Positions::i32 ? DType::i32 : DType::i64,
                               {batch, seq}, c.table_layout);
  for_each_index({batch, seq}, [&](const Dims& at) {
    operands.ids.set(at, static_cast<double>(random.integer(0, rows - 1)));
  });
  return operands;
}

struct Rotated {
  std::vector<double> y;
  std::vector<double> tolerances;  // of y before it is rounded to its type
};

/// Two products and their sum are each rounded once: 2 units of the sum of their magnitudes, which
/// includes the unit of the result. An element that is not rotated keeps its bits.
Rotated exact_result(const RopeCase& c, const Operands& operands) {
  const std::vector<double> x = operands.x.values(), cos = operands.cos.values(),
                            sin = operands.sin.values();
  const std::vector<double> ids =
      operands.ids.view_if_made().absent() ? std::vector<double>{} : operands.ids.values();
  Rotated rotated{x, std::vector<double>(x.size())};
  const std::int64_t seq = c.shape[2], dim = c.shape[3];
  for_each_index({c.shape[0], c.shape[1], seq, c.pairs}, [&](const Dims& at) {
    const std::int64_t place = at[0] * seq + at[2];
    const std::int64_t position =
        c.positions == Positions::table_of_each ? place
        : ids.empty()                           ? at[2]
                      : static_cast<std::int64_t>(ids[static_cast<std::size_t>(place)]);
    const double cosine = cos[static_cast<std::size_t>(position * c.pairs + at[3])];
    const double sine = sin[static_cast<std::size_t>(position * c.pairs + at[3])];
    const std::int64_t row = ((at[0] * c.shape[1] + at[1]) * seq + at[2]) * dim;
    const auto first = static_cast<std::size_t>(row + (c.interleaved ? 2 * at[3] : at[3]));
    const std::size_t second = first + static_cast<std::size_t>(c.interleaved ? 1 : c.pairs);
    rotated.y[first] = x[first] * cosine - x[second] * sine;
    rotated.y[second] = x[first] * sine + x[second] * cosine;
    rotated.tolerances[first] =
        2 * float_unit * (std::fabs(x[first] * cosine) + std::fabs(x[second] * sine));
    rotated.tolerances[second] =
        2 * float_unit * (std::fabs(x[first] * sine) + std::fabs(x[second] * cosine));
  });
  return rotated;
}

void run(const RopeCase& c, const Operands& operands, const MutableTensorView& y) {
  rope(operands.x.view(), operands.tables(c.interleaved), operands.ids.view_if_made(), y,
       c.execution);
}

/// Checks the result of each instruction set.
void check_result(RopeCase c, const Operands& operands) {
  CAPTURE(c.to_string());
  const Rotated wanted = exact_result(c, operands);
  for (const Isa isa : available_isas()) {
    CAPTURE(name_of(isa));
    c.execution.isa = isa;
    StridedTensor y(c.out, c.shape, c.out_layout);
    run(c, operands, y.view());
    CHECK(first_difference(y.values(), wanted.y, [&](std::size_t n) {
            const double own = c.out == DType::f32 ? 0 : rounding_to(c.out, wanted.y[n]);
            return (1 + 1e-6) * (wanted.tolerances[n] + own);
          }) == "");
    CHECK(y.gaps_untouched());
  }
}

RopeCase random_case(Random& random) {
  const std::int64_t dim = random.pick<std::int64_t>({0, 1, 2, 3, 8, 16, 33, 64, 130, 600});
  return {.shape = {random.integer(0, 3), random.integer(0, 4), random.integer(0, 40), dim},
          .pairs = random.chance(0.5) ? dim / 2 : random.integer(0, dim / 2),
          .interleaved = random.chance(0.5),
          .positions = random.pick(
              {Positions::counted, Positions::i32, Positions::i64, Positions::table_of_each}),
          .in = random.pick(float_types),
          .out = random.pick(float_types),
          .in_layout = random.pick(all_layouts),
          .out_layout = random.pick(all_layouts),
          .table_layout = random.pick(all_layouts),
          .execution = {.num_threads = random.pick({1, 2, 3}), .isa = {}}};
}

}  // namespace

TEST_CASE("Random shapes, positions, tables, types and layouts") {
  for (const std::uint64_t seed : seeds(0, 600)) {
    INFO(repeat_command(seed));
    Random random(seed);
    const RopeCase c = random_case(random);
    check_result(c, random_operands(random, c));
  }
}

TEST_CASE("Every number of pairs") {
  Random random(1);
  for (std::int64_t pairs = 0; pairs <= 70; ++pairs) {
    for (const bool interleaved : {false, true}) {
      for (const Layout layout : {Layout::bhsd, Layout::strided_dim}) {
        const RopeCase c{.shape = {1, 2, 3, 2 * pairs + pairs % 3},
                         .pairs = pairs,
                         .interleaved = interleaved,
                         .table_layout = layout};
        check_result(c, random_operands(random, c));
      }
    }
  }
}

TEST_CASE("A quarter turn, by hand") {
  const std::vector<float> x = {1, 2, 3, 4, 5}, cos = {0, 0}, sin = {1, 1};
  std::vector<float> y(5);
  const TensorView cosines(cos.data(), {1, 2}), sines(sin.data(), {1, 2});
  rope({x.data(), {1, 1, 1, 5}}, {.cos = cosines, .sin = sines}, {}, {y.data(), {1, 1, 1, 5}});
  CHECK(y == std::vector<float>{-3, -4, 1, 2, 5});
  rope({x.data(), {1, 1, 1, 5}}, {.cos = cosines, .sin = sines, .interleaved = true}, {},
       {y.data(), {1, 1, 1, 5}});
  CHECK(y == std::vector<float>{-2, 1, -4, 3, 5});
}

TEST_CASE("In place and on any number of threads the bits are the same") {
  Random random(2);
  for (const Layout layout : all_layouts) {
    for (const DType dtype : float_types) {
      for (const bool interleaved : {false, true}) {
        RopeCase c{.shape = {2, 8, 70, 72},
                   .pairs = 34,
                   .interleaved = interleaved,
                   .in = dtype,
                   .out = dtype};
        c.in_layout = c.out_layout = layout;
        CAPTURE(c.to_string());
        Operands operands = random_operands(random, c);
        StridedTensor wanted(dtype, c.shape, layout);
        c.execution.num_threads = 1;
        run(c, operands, wanted.view());
        c.execution.num_threads = 4;
        run(c, operands, operands.x.view());
        CHECK(operands.x.bits() == wanted.bits());
        CHECK(operands.x.gaps_untouched());
      }
    }
  }
}

TEST_CASE("Heads in one row, [batch, seq, heads * dim], by a view") {
  Random random(3);
  const std::int64_t batch = 2, seq = 5, heads = 3, dim = 8;
  const RopeCase c{.shape = {batch, heads, seq, dim},
                   .positions = Positions::i64,
                   .in_layout = Layout::bshd,
                   .out_layout = Layout::bshd};
  const Operands operands = random_operands(random, c);
  const StridedTensor& x = operands.x;  // lies in memory as [batch, seq, heads, dim]
  StridedTensor wanted(DType::f32, c.shape, Layout::bshd),
      row(DType::f32, {batch, seq, heads * dim});
  run(c, operands, wanted.view());
  const TensorView split(x.view().data, DType::f32, {batch, seq, heads, dim});
  const MutableTensorView split_y(row.view().data, DType::f32, {batch, seq, heads, dim});
  rope(split.permuted({0, 2, 1, 3}), operands.tables(false), operands.ids.view(),
       split_y.permuted({0, 2, 1, 3}));
  const Tensor together = copy_as(wanted.view().permuted({0, 2, 1, 3}), DType::f64);
  CHECK(row.values() ==
        std::vector<double>(together.data<double>(), together.data<double>() + together.size()));
}

TEST_CASE("NaN and infinities touch their own pair only; what is not rotated keeps its bits") {
  for (const bool interleaved : {false, true}) {
    RopeCase c{.shape = {1, 1, 2, 40}, .pairs = 18, .interleaved = interleaved};
    Random random(4);
    Operands operands = random_operands(random, c);
    operands.x.set({0, 0, 0, 2}, std::numeric_limits<double>::quiet_NaN());
    operands.x.set_bits({0, 0, 1, 38}, 0x7fa12345);  // a signaling NaN
    StridedTensor y(DType::f32, c.shape);
    run(c, operands, y.view());
    const std::vector<double> values = y.values();
    for (std::size_t n = 0; n < 80; ++n)
      CHECK(std::isnan(values[n]) == (n == 2 || n == (interleaved ? 3u : 20u) || n == 78));
    CHECK(y.bits()[78] == 0x7fa12345);
  }
}

namespace {

/// A valid call, to be changed and refused.
struct RefusedCall {
  Random random{5};
  RopeCase c{.shape = {2, 3, 4, 8}, .pairs = 4, .positions = Positions::i64};
  Operands operands = random_operands(random, c);
  Rope tables = operands.tables(false);
  StridedTensor y{DType::f32, c.shape};

  void check(const std::vector<std::string>& fragments, const auto& change) {
    TensorView x = operands.x.view(), position_ids = operands.ids.view();
    Rope rotary = tables;
    MutableTensorView to = y.view();
    Execution execution;
    change(x, rotary, position_ids, to, execution);
    check_fails(ErrorCode::invalid_argument, fragments,
                [&] { rope(x, rotary, position_ids, to, execution); });
    CHECK(y.untouched());
  }
};

}  // namespace

TEST_CASE("x, y and threads that do not fit are refused before anything is written") {
  RefusedCall call;
  const auto refused = [&](const std::vector<std::string>& fragments, const auto& change) {
    call.check(fragments, change);
  };
  StridedTensor integers(DType::i32, call.c.shape), flat(DType::f32, {2, 4, 24});
  refused({"x has shape [2, 4, 24]", "rank 4"},
          [&](auto& x, auto&, auto&, auto&, auto&) { x = flat.view(); });
  refused({"x has type i32"}, [&](auto& x, auto&, auto&, auto&, auto&) { x = integers.view(); });
  refused({"y has shape [2, 4, 24]"},
          [&](auto&, auto&, auto&, auto& to, auto&) { to = flat.view(); });
  refused({"y has type i32"}, [&](auto&, auto&, auto&, auto& to, auto&) { to = integers.view(); });
  refused({"num_threads is -1"},
          [&](auto&, auto&, auto&, auto&, auto& execution) { execution.num_threads = -1; });
}

TEST_CASE("Tables that do not fit are refused before anything is written") {
  RefusedCall call;
  const auto refused = [&](const std::vector<std::string>& fragments, const auto& change) {
    call.check(fragments, change);
  };
  refused({"tables.cos", "rank"},
          [&](auto&, auto& rotary, auto&, auto&, auto&) { rotary.cos = {}; });
  refused({"tables.sin", "rank"},
          [&](auto&, auto& rotary, auto&, auto&, auto&) { rotary.sin = {}; });
  refused({"tables.cos has type f16"},
          [&](auto&, auto& rotary, auto&, auto&, auto&) { rotary.cos.dtype = DType::f16; });
  refused({"tables.sin", "no data"},
          [&](auto&, auto& rotary, auto&, auto&, auto&) { rotary.sin.data = nullptr; });
  refused({"tables.sin", "dim 1 is 3", "needs 4"}, [&](auto&, auto& rotary, auto&, auto&, auto&) {
    rotary.sin = rotary.sin.sliced(1, 0, 3);
  });
  refused({"tables.cos", "dim 1 is 5", "at most 4"}, [&](auto&, auto& rotary, auto&, auto&, auto&) {
    rotary.cos = rotary.sin = {rotary.cos.data, DType::f32, {4, 5}, {0, 0}};
  });
  refused({"tables.cos", "dim 0 is 3", "at least 4"},
          [&](auto&, auto& rotary, auto& position_ids, auto&, auto&) {
            position_ids = {};
            rotary.cos = rotary.cos.sliced(0, 0, 3);
            rotary.sin = rotary.sin.sliced(0, 0, 3);
          });
  const auto in_three_dims = [](Rope& rotary, const Dims& shape) {
    rotary.cos = {rotary.cos.data, DType::f32, shape, {0, 0, 0}};
    rotary.sin = {rotary.sin.data, DType::f32, shape, {0, 0, 0}};
  };
  refused({"position_ids is given", "absent"}, [&](auto&, auto& rotary, auto&, auto&, auto&) {
    in_three_dims(rotary, {2, 4, 4});
  });
  refused({"tables.cos", "dim 0 is 1", "needs 2 (batch of x)"},
          [&](auto&, auto& rotary, auto& position_ids, auto&, auto&) {
            position_ids = {};
            in_three_dims(rotary, {1, 4, 4});
          });
  refused({"tables.cos", "dim 1 is 5", "needs 4 (seq of x)"},
          [&](auto&, auto& rotary, auto& position_ids, auto&, auto&) {
            position_ids = {};
            in_three_dims(rotary, {2, 5, 4});
          });
}

TEST_CASE("Position ids that do not fit are refused before anything is written") {
  RefusedCall call;
  const auto refused = [&](const std::vector<std::string>& fragments, const auto& change) {
    call.check(fragments, change);
  };
  const Rope& tables = call.tables;
  StridedTensor flat(DType::f32, {2, 4, 24}), ids(DType::i32, {2, 4});
  refused({"position_ids has shape [2, 3]", "dim 1 is 3", "needs 4"},
          [&](auto&, auto&, auto& position_ids, auto&, auto&) {
            position_ids = position_ids.sliced(1, 0, 3);
          });
  refused({"position_ids has shape [1, 4]", "needs 2"},
          [&](auto&, auto&, auto& position_ids, auto&, auto&) {
            position_ids = position_ids.sliced(0, 0, 1);
          });
  refused({"position_ids has type f32", "i32 or i64"},
          [&](auto&, auto&, auto& position_ids, auto&, auto&) {
            position_ids = flat.view().sliced(2, 0, 1);
            position_ids.shape = position_ids.strides = {2, 4};
          });
  for (const double bad : {-1., static_cast<double>(tables.cos.shape[0])}) {
    ids.assign({0, 1, 2, 3, 0, 1, bad, 3});
    refused({fmt::format("position_ids[1, 2] is {}", bad),
             fmt::format("less than {}", tables.cos.shape[0])},
            [&](auto&, auto&, auto& position_ids, auto&, auto&) { position_ids = ids.view(); });
  }
}
