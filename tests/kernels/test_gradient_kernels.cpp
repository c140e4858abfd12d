// The kernels of the backward pass: the elementwise part against loops in double, and products with
// an operand that is given as its transpose.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/guarded.hpp"

using namespace attn;
using namespace attn::test;
using kernels::Arithmetic;
using kernels::GradientTile;
using kernels::Kernels;

namespace {

constexpr double eps = 0x1p-23;
constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

/// A tile of scores and dP. Row r sees the columns from begin[r] to end[r]; every seventh of them
/// has a score of -inf. What is hidden holds NaN in dP.
struct Tile {
  Tile(const Kernels& kernels, std::int64_t vectors, Random& random)
      : columns(vectors * kernels.vector_width),
        stride(columns + 3),
        scores(rows * stride),
        gradients(rows * stride) {
    for (std::int64_t r = 0; r < rows; ++r) {
      begin[r] = random.integer(0, columns);
      end[r] = random.integer(0, columns);  // empty for some rows
      base[r] = static_cast<float>(r % 2 == 0 ? 0 : random.normal());
      shift[r] = static_cast<float>(random.normal() + 1);
      mean[r] = static_cast<float>(random.normal());
      for (std::int64_t j = 0; j < columns; ++j) {
        const bool seen = visible(r, j);
        s(r, j) = seen ? static_cast<float>(random.normal() - 2) : -infinity;
        g(r, j) = seen ? static_cast<float>(random.normal()) : not_a_number;
        if (j < begin[r] || j >= end[r]) s(r, j) = not_a_number;
      }
    }
    for (Guarded<float>* const memory : {&scores, &gradients}) memory->remember();
  }

  bool visible(std::int64_t r, std::int64_t j) const {
    return j >= begin[r] && j < end[r] && j % 7 != 3;
  }
  float& s(std::int64_t r, std::int64_t j) { return scores[r * stride + j]; }
  float& g(std::int64_t r, std::int64_t j) { return gradients[r * stride + j]; }
  GradientTile tile() {
    return {.scores = scores.data(),
            .gradients = gradients.data(),
            .stride = stride,
            .rows = rows,
            .begin = begin,
            .end = end,
            .first = 0,
            .last = columns};
  }

  /// Runs the kernel and compares with p(s, r) and ds(p, dp, r).
  template <class Kernel, class P, class Ds>
  void check(Kernel kernel, P p, Ds ds) {
    const std::vector<float> scores_before(scores.data(), scores.data() + scores.size());
    const std::vector<float> gradients_before(gradients.data(),
                                              gradients.data() + gradients.size());
    kernel(tile());
    bool good = true;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < columns; ++j) {
        if (!visible(r, j)) {
          good &= s(r, j) == 0 && g(r, j) == 0;
          continue;
        }
        const auto n = static_cast<std::size_t>(r * stride + j);
        const double probability = p(static_cast<double>(scores_before[n]), r);
        const double gradient = ds(probability, static_cast<double>(gradients_before[n]), r);
        // The arguments of the exponentials are up to 10, and rounded.
        good &= std::fabs(s(r, j) - probability) <= 12 * eps * probability;
        good &= std::fabs(g(r, j) - gradient) <=
                12 * eps * std::fabs(gradient) + 2 * eps * probability * 4;
      }
    }
    CHECK(good);
    CHECK(scores.only_changed(rows, stride, columns));
    CHECK(gradients.only_changed(rows, stride, columns));
  }

  static constexpr std::int64_t rows = kernels::tile_rows;
  std::int64_t columns, stride;
  Guarded<float> scores, gradients;
  std::int64_t begin[rows], end[rows];
  float base[rows], shift[rows], mean[rows];
};

template <class Test>
void for_each_tile(Test test) {
  for_each_isa([&](const Kernels& kernels) {
    Random random(7);
    for (std::int64_t vectors = 1; vectors <= 9; ++vectors) {
      CAPTURE(vectors);
      Tile tile(kernels, vectors, random);
      test(kernels, tile);
    }
  });
}

/// Random small integers, whose products and sums are exact.
std::vector<float> integers(std::int64_t count, Random& random) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = small_integer(random);
  return values;
}

struct Product {
  std::int64_t rows, columns, depth;
  bool accumulate;
};

/// C = A B with A as its transpose is what it is with A.
void check_transposed(const Kernels& kernels, const Arithmetic& arithmetic, const Product& p,
                      Random& random) {
  CAPTURE(arithmetic.vnni_factor);
  CAPTURE(p.rows);
  CAPTURE(p.columns);
  CAPTURE(p.depth);
  const std::int64_t width = round_up(p.columns, kernels.vector_width);
  const kernels::PanelLayout layout{kernels.panel_width, p.depth * kernels.panel_width,
                                    kernels.panel_width};
  const std::int64_t panels = (width + kernels.panel_width - 1) / kernels.panel_width;
  const auto packed = [&](std::int64_t count) {
    std::vector<float> values = integers(count, random);
    if (arithmetic.vnni_factor == 2) {
      for (float& value : values) value = packed_pair(value, small_integer(random));
    }
    return values;
  };
  const std::vector<float> a = packed(p.rows * p.depth), b = packed(panels * layout.panel_stride),
                           c = integers(p.rows * width, random);
  const std::int64_t stride = p.rows + 2;
  Guarded<float> transposed((p.depth - 1) * stride + p.rows);
  for (std::int64_t k = 0; k < p.depth; ++k) {
    for (std::int64_t r = 0; r < p.rows; ++r)
      transposed[k * stride + r] = a[static_cast<std::size_t>(r * p.depth + k)];
  }
  std::vector<float> expected = c;
  kernels::MatmulTile call{.a = a.data(),
                           .a_stride = p.depth,
                           .b = {b.data(), layout},
                           .c = expected.data(),
                           .c_stride = width,
                           .rows = p.rows,
                           .columns = p.columns,
                           .depth = p.depth,
                           .accumulate = p.accumulate};
  arithmetic.matmul(call);
  std::vector<float> got = c;
  call.a = transposed.data();
  call.a_stride = stride;
  call.c = got.data();
  arithmetic.matmul_transposed(call);
  CHECK(got == expected);
}

}  // namespace

TEST_CASE("Gradients of softmax") {
  for_each_tile([](const Kernels& kernels, Tile& tile) {
    const float scale = 1.5f;
    tile.check(
        [&](const GradientTile& t) {
          kernels.softmax_gradient(t, scale, {tile.base, tile.shift, tile.mean});
        },
        [&](double s, std::int64_t r) {
          const double x = s - static_cast<double>(tile.base[r]);
          return std::exp2(static_cast<double>(scale) * x - static_cast<double>(tile.shift[r]));
        },
        [&](double p, double dp, std::int64_t r) {
          return p * (dp - static_cast<double>(tile.mean[r]));
        });
  });
}

TEST_CASE("Gradients of sigmoid") {
  for_each_tile([](const Kernels& kernels, Tile& tile) {
    tile.check([&](const GradientTile& t) { kernels.sigmoid_gradient(t, tile.shift); },
               [&](double s, std::int64_t r) {
                 return 1 / (1 + std::exp(-(s + static_cast<double>(tile.shift[r]))));
               },
               [](double p, double dp, std::int64_t) { return p * (1 - p) * dp; });
  });
}

TEST_CASE("A row whose lse is -inf or NaN") {
  for_each_tile([](const Kernels& kernels, Tile& tile) {
    tile.shift[0] = -infinity;
    tile.shift[1] = not_a_number;
    std::fill_n(&tile.s(0, 0), tile.columns, -infinity);
    kernels.softmax_gradient(tile.tile(), 1, {tile.base, tile.shift, tile.mean});
    bool good = true;
    for (std::int64_t j = 0; j < tile.columns; ++j) {
      good &= tile.s(0, j) == 0 && tile.g(0, j) == 0;
      good &= tile.visible(1, j) ? std::isnan(tile.s(1, j)) && std::isnan(tile.g(1, j))
                                 : tile.s(1, j) == 0 && tile.g(1, j) == 0;
    }
    CHECK(good);
  });
}

TEST_CASE("Gradients of softcap, sums by distance, and sums of copies") {
  for_each_isa([](const Kernels& kernels) {
    Random random(3);
    for (std::int64_t count = 0; count <= 4 * kernels.vector_width + 1; ++count) {
      CAPTURE(count);
      const float cap = 2.5f;
      Guarded<float> capped(count), gradient(count), copies(3 * count), sum(count);
      std::vector<double> softcap(static_cast<std::size_t>(count));
      double by_distance = 5;
      for (std::int64_t n = 0; n < count; ++n) {
        capped[n] =
            n % 5 == 4 ? not_a_number : static_cast<float>(cap * std::tanh(random.normal()));
        gradient[n] = n % 5 == 4 ? 0 : small_integer(random);
        const double tanh = static_cast<double>(capped[n]) / cap;
        softcap[static_cast<std::size_t>(n)] =
            n % 5 == 4 ? 0 : static_cast<double>(gradient[n]) * (1 - tanh * tanh);
        by_distance += std::abs(3.0 - static_cast<double>(n)) * static_cast<double>(gradient[n]);
        for (int copy = 0; copy < 3; ++copy) copies[copy * count + n] = small_integer(random);
      }
      CHECK(kernels.distance_sum(gradient.data(), count, 3, 5) == by_distance);
      kernels.softcap_gradient(capped.data(), count, cap, gradient.data());
      kernels.sum_copies({copies.data(), count, 3}, count, 0.5f, sum.data());
      bool good = true;
      for (std::int64_t n = 0; n < count; ++n) {
        const double expected = softcap[static_cast<std::size_t>(n)];
        good &= std::fabs(gradient[n] - expected) <= 8 * eps * 8;
        good &= sum[n] == (copies[n] + copies[count + n] + copies[2 * count + n]) / 2;
      }
      CHECK(good);
      kernels.sum_copies({copies.data(), count, 0}, count, 1, sum.data());
      CHECK(std::all_of(sum.data(), sum.data() + count, [](float x) { return x == 0; }));
    }
  });
}

TEST_CASE("Products with the transpose of A") {
  for_each_isa([](const Kernels& kernels) {
    Random random(11);
    for (const Arithmetic* const arithmetic : {&kernels.f32, &kernels.bf16}) {
      if (arithmetic->matmul == nullptr) continue;
      for (std::int64_t rows = 1; rows <= kernels::tile_rows; ++rows) {
        for (const std::int64_t depth : {1, 2, 7, 48}) {
          for (const std::int64_t columns :
               {std::int64_t{1}, kernels.vector_width, kernels.panel_width + 1}) {
            check_transposed(kernels, *arithmetic, {rows, columns, depth, depth % 2 == 0}, random);
          }
        }
      }
    }
  });
}

TEST_CASE("Rows in pairs") {
  for_each_isa([](const Kernels& kernels) {
    if (kernels.bf16.pair_rows == nullptr) return;
    Random random(5);
    for (std::int64_t rows = 1; rows <= kernels::tile_rows; ++rows) {
      CAPTURE(rows);
      const std::int64_t columns = 4 * kernels.vector_width, stride = columns + 5;
      const std::vector<float> x = integers(rows * stride, random);
      Guarded<float> pairs((rows + 1) / 2 * stride);
      std::vector<float> rounded = x;
      kernels.bf16.pair_rows({.x = rounded.data(),
                              .stride = stride,
                              .rows = rows,
                              .columns = columns,
                              .pairs = pairs.data(),
                              .rounded = rounded.data()});
      const auto at = [&](std::int64_t r, std::int64_t j) {
        return r < rows ? x[static_cast<std::size_t>(r * stride + j)] : 0.f;
      };
      const auto same = [](float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; };
      bool good = true;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t j = 0; j < columns; ++j) {
          if (r % 2 == 0)
            good &= same(pairs[r / 2 * stride + j], packed_pair(at(r, j), at(r + 1, j)));
          if (j % 2 == 0) {
            good &= same(rounded[static_cast<std::size_t>(r * stride + j / 2)],
                         packed_pair(at(r, j), at(r, j + 1)));
          }
        }
      }
      CHECK(good);
    }
  });
}
