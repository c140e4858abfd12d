// The matrix multiplication micro-kernel, and the kernels that pack its operands. The inputs are
// small integers, of which all sums are exact: results must be equal to those of plain loops.
#include <algorithm>
#include <limits>

#include "kernels/guarded.hpp"
#include "matmul/multiply_rows.hpp"

using namespace attn;
using namespace attn::test;
using kernels::Arithmetic;
using kernels::Kernels;
using kernels::PanelLayout;

namespace {

struct Shape {
  std::int64_t rows, columns, depth, panel_width;
  bool accumulate;
};

/// A call of the micro-kernel: its random operands, and the results of plain loops.
struct MatmulCall {
  MatmulCall(const Arithmetic& arithmetic_of_call, std::int64_t vector_width, const Shape& shape)
      : arithmetic(arithmetic_of_call),
        s(shape),
        w(vector_width),
        factor(arithmetic.vnni_factor),
        wide(round_up(s.columns, w)),
        layout{s.panel_width, s.depth * s.panel_width, s.panel_width},
        a(static_cast<std::size_t>(s.rows * s.depth * factor)),
        b(static_cast<std::size_t>(s.depth * factor * wide)),
        packed_a(s.depth == 0 ? 0 : (s.rows - 1) * a_stride() + s.depth),
        // B ends with the last vector that the kernel may read.
        packed_b(s.depth == 0 ? 0 : place_in_b(s.depth - 1, wide - 1) + 1),
        c((s.rows - 1) * c_stride() + wide),
        maxima(s.rows * w),
        expected(static_cast<std::size_t>(s.rows * wide)),
        greatest(static_cast<std::size_t>(s.rows * w), -std::numeric_limits<float>::infinity()) {
    std::fill_n(maxima.data(), maxima.size(), -std::numeric_limits<float>::infinity());
  }

  std::int64_t a_stride() const { return s.depth + 3; }
  std::int64_t c_stride() const { return wide + 5; }
  std::int64_t place_in_b(std::int64_t k, std::int64_t n) const {
    return n / layout.panel_width * layout.panel_stride + k * layout.row_stride +
           n % layout.panel_width;
  }
  float a_at(std::int64_t r, std::int64_t k) const {
    return a[static_cast<std::size_t>(r * s.depth * factor + k)];
  }
  float b_at(std::int64_t k, std::int64_t n) const {
    return b[static_cast<std::size_t>(k * wide + n)];
  }

  void draw_operands(Random& random);
  void expect(Random& random);
  void run();

  const Arithmetic& arithmetic;
  Shape s;
  std::int64_t w, factor, wide;
  PanelLayout layout;
  std::vector<float> a, b;
  Guarded<float> packed_a, packed_b, c, maxima;
  std::vector<float> expected, greatest;
};

void MatmulCall::draw_operands(Random& random) {
  for (float& x : a) x = small_integer(random);
  for (float& x : b) x = small_integer(random);
  for (std::int64_t k = 0; k < s.depth; ++k) {
    for (std::int64_t r = 0; r < s.rows; ++r) {
      packed_a[r * a_stride() + k] =
          factor == 1 ? a_at(r, k) : packed_pair(a_at(r, 2 * k), a_at(r, 2 * k + 1));
    }
    for (std::int64_t n = 0; n < wide; ++n) {
      packed_b[place_in_b(k, n)] =
          factor == 1 ? b_at(k, n) : packed_pair(b_at(2 * k, n), b_at(2 * k + 1, n));
    }
  }
}

/// Where the call accumulates, C begins with random values.
void MatmulCall::expect(Random& random) {
  for (std::int64_t r = 0; r < s.rows; ++r) {
    for (std::int64_t n = 0; n < wide; ++n) {
      double sum = 0;
      if (s.accumulate) sum = c[r * c_stride() + n] = small_integer(random);
      for (std::int64_t k = 0; k < s.depth * factor; ++k)
        sum += static_cast<double>(a_at(r, k)) * b_at(k, n);
      expected[static_cast<std::size_t>(r * wide + n)] = static_cast<float>(sum);
      float& lane = greatest[static_cast<std::size_t>(r * w + n % w)];
      lane = std::max(lane, static_cast<float>(sum));
    }
  }
}

void MatmulCall::run() {
  for (Guarded<float>* const memory : {&packed_a, &packed_b, &c, &maxima}) memory->remember();
  std::vector<std::byte> lines(4096);
  kernels::PrefetchWalk walk{.row = lines.data(), .row_stride = 128, .row_bytes = 100, .rows = 4};
  arithmetic.matmul({.a = packed_a.data(),
                     .a_stride = a_stride(),
                     .b = {packed_b.data(), layout},
                     .c = c.data(),
                     .c_stride = c_stride(),
                     .rows = s.rows,
                     .columns = s.columns,
                     .depth = s.depth,
                     .accumulate = s.accumulate,
                     .maxima = maxima.data(),
                     .prefetch = &walk});
}

void check_matmul(const Kernels& kernels, const Arithmetic& arithmetic, const Shape& shape,
                  Random& random) {
  CAPTURE(arithmetic.vnni_factor);
  CAPTURE(shape.rows);
  CAPTURE(shape.columns);
  CAPTURE(shape.depth);
  CAPTURE(shape.panel_width);
  CAPTURE(shape.accumulate);
  MatmulCall call(arithmetic, kernels.vector_width, shape);
  call.draw_operands(random);
  call.expect(random);
  call.run();
  bool equal = true;
  for (std::int64_t r = 0; r < shape.rows; ++r) {
    for (std::int64_t n = 0; n < call.wide; ++n)
      equal &= call.c[r * call.c_stride() + n] ==
               call.expected[static_cast<std::size_t>(r * call.wide + n)];
  }
  CHECK(equal);
  CHECK(std::equal(call.greatest.begin(), call.greatest.end(), call.maxima.data()));
  CHECK(call.c.only_changed(shape.rows, call.c_stride(), call.wide));
  CHECK(call.maxima.only_changed(shape.rows, call.w, call.w));
  CHECK(call.packed_a.only_changed(0, 0, 0));
  CHECK(call.packed_b.only_changed(0, 0, 0));
}

}  // namespace

TEST_CASE("matmul: every number of rows, columns up to two panels and a remainder") {
  for_each_isa([](const Kernels& kernels) {
    Random random(1);
    for (const Arithmetic* arithmetic : {&kernels.f32, &kernels.bf16}) {
      if (arithmetic->matmul == nullptr) continue;
      for (std::int64_t rows = 1; rows <= kernels::tile_rows; ++rows) {
        for (std::int64_t columns = 1; columns <= 2 * kernels.panel_width + 1; ++columns) {
          const std::int64_t depth = random.pick<std::int64_t>({0, 1, 2, 7, 33});
          check_matmul(kernels, *arithmetic,
                       {rows, columns, depth, kernels.panel_width, random.chance(0.5)}, random);
          check_matmul(kernels, *arithmetic,
                       {rows, columns, 5, kernels.vector_width, random.chance(0.5)}, random);
        }
      }
    }
  });
}

TEST_CASE("pack_finite: every number of columns; what is not finite becomes 0 and is reported") {
  for_each_isa([](const Kernels& kernels) {
    Random random(2);
    for (const Arithmetic* arithmetic : {&kernels.f32, &kernels.bf16}) {
      if (arithmetic->pack_finite == nullptr) continue;
      const std::int64_t factor = arithmetic->vnni_factor, p = kernels.panel_width;
      for (std::int64_t columns = 1; columns <= 2 * p + 1; ++columns) {
        for (const std::int64_t rows : {1, 2, 3, 6}) {
          for (const bool finite : {true, false}) {
            CAPTURE(factor);
            CAPTURE(columns);
            CAPTURE(rows);
            const std::int64_t wide = round_up(columns, kernels.vector_width), stride = columns + 3,
                               depth = (rows + factor - 1) / factor, panels = (wide + p - 1) / p;
            const PanelLayout layout{p, depth * p, p};
            std::vector<float> values(static_cast<std::size_t>(depth * factor * wide));
            const std::int64_t size = (rows - 1) * stride + columns;
            Guarded<float> floats(factor == 1 ? size : 0);
            Guarded<std::uint16_t> halves(factor == 2 ? size : 0);
            const std::int64_t bad = finite ? -1 : random.integer(0, rows * columns - 1);
            for (std::int64_t r = 0; r < rows; ++r) {
              for (std::int64_t n = 0; n < columns; ++n) {
                const bool here = r * columns + n == bad;
                const float x = small_integer(random);
                values[static_cast<std::size_t>(r * wide + n)] = here ? 0 : x;
                if (factor == 1) floats[r * stride + n] = here ? __builtin_nanf("") : x;
                if (factor == 2) halves[r * stride + n] = here ? 0x7f80 : bf16_of(x);
              }
            }
            const std::int64_t last = wide - (panels - 1) * p;
            Guarded<float> dst((panels - 1) * layout.panel_stride + (depth - 1) * p + last);
            dst.remember();
            const void* const src = factor == 1 ? static_cast<const void*>(floats.data())
                                                : static_cast<const void*>(halves.data());
            CHECK(arithmetic->pack_finite(src, stride, rows, columns, dst.data(), layout) ==
                  finite);
            bool equal = true;
            for (std::int64_t k = 0; k < depth; ++k) {
              for (std::int64_t n = 0; n < wide; ++n) {
                const auto at = [&](std::int64_t row) {
                  return values[static_cast<std::size_t>(row * wide + n)];
                };
                const float expected = factor == 1 ? at(k) : packed_pair(at(2 * k), at(2 * k + 1));
                equal &= std::memcmp(&dst[n / p * layout.panel_stride + k * p + n % p], &expected,
                                     sizeof expected) == 0;
              }
            }
            CHECK(equal);
            CHECK(dst.only_changed(1, 0, dst.size()));
          }
        }
      }
    }
  });
}

TEST_CASE("pack_transposed: every number of keys and remainders of depth") {
  for_each_isa([](const Kernels& kernels) {
    Random random(3);
    const std::int64_t w = kernels.vector_width;
    for (std::int64_t keys = 1; keys <= 2 * w + 1; ++keys) {
      for (std::int64_t depth = 1; depth <= 2 * w + 1; ++depth) {
        CAPTURE(keys);
        CAPTURE(depth);
        const std::int64_t stride = depth + 2, wide = round_up(keys, w), dst_stride = wide + 3;
        Guarded<float> src((keys - 1) * stride + depth), dst((depth - 1) * dst_stride + wide);
        for (std::int64_t n = 0; n < keys; ++n) {
          for (std::int64_t k = 0; k < depth; ++k) src[n * stride + k] = small_integer(random);
        }
        dst.remember();
        kernels.pack_transposed(src.data(), stride, keys, depth, dst.data(), dst_stride);
        bool equal = true;
        for (std::int64_t k = 0; k < depth; ++k) {
          for (std::int64_t n = 0; n < wide; ++n)
            equal &= dst[k * dst_stride + n] == (n < keys ? src[n * stride + k] : 0.f);
        }
        CHECK(equal);
        CHECK(dst.only_changed(depth, dst_stride, wide));
      }
    }
  });
}

TEST_CASE("all_finite: one infinity or NaN at every place of every length") {
  for_each_isa([](const Kernels& kernels) {
    for (std::int64_t count = 0; count <= 3 * kernels.vector_width; ++count) {
      Guarded<float> x(count);
      std::fill_n(x.data(), count, std::numeric_limits<float>::max());
      CHECK(kernels.all_finite(x.data(), count));
      for (std::int64_t n = 0; n < count; ++n) {
        x[n] = n % 2 ? -std::numeric_limits<float>::infinity() : __builtin_nanf("");
        CHECK_FALSE(kernels.all_finite(x.data(), count));
        x[n] = 0;
      }
    }
  });
}

TEST_CASE("Any number of rows and any depth have the bits of one register tile") {
  for_each_isa([](const Kernels& kernels) {
    for (const Arithmetic& arithmetic : {kernels.f32, kernels.bf16}) {
      if (arithmetic.matmul == nullptr) continue;
      Random random(11);
      const auto normal_elements = [&](std::int64_t count) {
        std::vector<float> elements;
        while (static_cast<std::int64_t>(elements.size()) < count) {
          const auto x = static_cast<float>(random.normal());
          elements.push_back(arithmetic.vnni_factor == 1 ? x : packed_pair(x, 1 - x));
        }
        return elements;
      };
      constexpr std::int64_t most_rows = 97, most_depth = 2100;
      const std::int64_t width = kernels.panel_width;
      const std::vector<float> a = normal_elements(most_rows * most_depth),
                               b = normal_elements(most_depth * width);
      for (const std::int64_t rows :
           {std::int64_t{1}, std::int64_t{6}, std::int64_t{13}, most_rows}) {
        for (const std::int64_t depth : {std::int64_t{0}, std::int64_t{5}, std::int64_t{1024},
                                         std::int64_t{1025}, most_depth}) {
          for (const bool accumulate : {false, true}) {
            std::vector<float> c(static_cast<std::size_t>(rows * width), 0.5f), tiles = c;
            kernels::MatmulTile product{.a = a.data(),
                                        .a_stride = most_depth,
                                        .b = {b.data(), {width, most_depth * width, width}},
                                        .c = c.data(),
                                        .c_stride = width,
                                        .rows = rows,
                                        .columns = width,
                                        .depth = depth,
                                        .accumulate = accumulate};
            detail::multiply_rows(arithmetic, product);
            for (std::int64_t r = 0; r < rows; ++r) {
              product.a = a.data() + r * most_depth;
              product.c = tiles.data() + r * width;
              product.rows = 1;
              arithmetic.matmul(product);
            }
            CHECK(c == tiles);
          }
        }
      }
    }
  });
}
