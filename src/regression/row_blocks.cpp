#include "regression/row_blocks.hpp"

#include <algorithm>

#include "softmax/reproducible.hpp"
#include "tensor/copy.hpp"

namespace attn::detail {
namespace {

std::size_t index(std::int64_t n) noexcept { return static_cast<std::size_t>(n); }

/// Rows of lanes and of columns, for loops that the compiler turns into vectors.
template <std::int64_t num_classes>
void multiply(const double* __restrict x, std::int64_t columns, const double* __restrict w,
              double* __restrict z) noexcept {
  double sums[num_classes][lanes] = {};
  for (std::int64_t k = 0; k < columns; ++k) {
    for (std::int64_t c = 0; c < num_classes; ++c) {
      for (std::int64_t lane = 0; lane < lanes; ++lane)
        sums[c][lane] += w[c * columns + k] * x[k * lanes + lane];
    }
  }
  for (std::int64_t c = 0; c < num_classes; ++c) std::copy_n(sums[c], lanes, z + c * lanes);
}

}  // namespace

RowBlocks::RowBlocks(const TensorView& matrix, Ones ones)
    : matrix_(matrix), ones_(ones == Ones::yes), columns_(matrix.shape[1] + (ones_ ? 1 : 0)) {}

void RowBlocks::read(std::int64_t number, RowBlock& block) const {
  block.first = number * lanes;
  block.count = std::min(lanes, rows() - block.first);
  block.rows.resize(index(lanes * columns_));
  block.side_by_side.resize(index(lanes * columns_));
  const std::int64_t own = matrix_.shape[1];
  copy_elements(matrix_.sliced(0, block.first, block.first + block.count),
                {block.rows.data(), DType::f64, {block.count, own}, {columns_, 1}});
  std::fill(block.rows.begin() + block.count * columns_, block.rows.end(), 0.);
  if (!subtracted_.empty()) {
    for (std::int64_t lane = 0; lane < block.count; ++lane) {
      double* const row = block.rows.data() + lane * columns_;
      for (std::int64_t k = 0; k < own; ++k) row[k] -= subtracted_[index(k)];
    }
  }
  if (ones_) {
    for (std::int64_t lane = 0; lane < block.count; ++lane)
      block.rows[index(lane * columns_ + own)] = 1;
  }
  const double* const rows = block.rows.data();
  double* const side_by_side = block.side_by_side.data();
  for (std::int64_t k = 0; k < columns_; ++k) {
    for (std::int64_t lane = 0; lane < lanes; ++lane)
      side_by_side[k * lanes + lane] = rows[lane * columns_ + k];
  }
}

Chunks::Chunks(std::int64_t num_blocks, std::int64_t sums) noexcept : blocks(num_blocks) {
  constexpr std::int64_t most = 64, least_blocks = 16, most_sums = 1 << 24;
  count = std::clamp<std::int64_t>(std::min(blocks / least_blocks, most_sums / sums), 1, most);
}

void ChunkSums::add_up(double* total) const noexcept {
  std::copy_n(sums_.data(), size_, total);
  for (std::size_t chunk = 1; chunk < chunks_; ++chunk) {
    const double* const sums = sums_.data() + chunk * size_;
    for (std::size_t n = 0; n < size_; ++n) total[n] += sums[n];
  }
}

void multiply_rows(const RowBlock& block, std::int64_t columns, const double* parameters,
                   std::int64_t classes, double* z) noexcept {
  const double* const x = block.side_by_side.data();
  std::int64_t c = 0;
  // Two classes at once make enough independent sums to keep the adders busy.
  for (; c + 2 <= classes; c += 2) multiply<2>(x, columns, parameters + c * columns, z + c * lanes);
  if (c < classes) multiply<1>(x, columns, parameters + c * columns, z + c * lanes);
}

void add_products(const RowBlock& block, std::int64_t columns, const double* factors,
                  std::int64_t classes, double* sums) noexcept {
  const double* const x = block.rows.data();
  for (std::int64_t c = 0; c < classes; ++c) {
    const double* const f = factors + c * lanes;
    double* __restrict const sum = sums + c * columns;
    for (std::int64_t k = 0; k < columns; ++k) {
      const double* const column = x + k;
      const double upper = (f[0] * column[0] + f[1] * column[columns]) +
                           (f[2] * column[2 * columns] + f[3] * column[3 * columns]);
      const double lower = (f[4] * column[4 * columns] + f[5] * column[5 * columns]) +
                           (f[6] * column[6 * columns] + f[7] * column[7 * columns]);
      sum[k] += upper + lower;
    }
  }
}

void subtract_greatest(std::int64_t classes, double* z) noexcept {
  double greatest[lanes];
  std::copy_n(z, lanes, greatest);
  for (std::int64_t c = 1; c < classes; ++c) {
    for (std::int64_t lane = 0; lane < lanes; ++lane)
      greatest[lane] = z[c * lanes + lane] > greatest[lane] ? z[c * lanes + lane] : greatest[lane];
  }
  for (std::int64_t c = 0; c < classes; ++c) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) z[c * lanes + lane] -= greatest[lane];
  }
}

void exp_rows(std::int64_t classes, const double* z, double scale, double* p,
              double* sum) noexcept {
  double sums[lanes] = {};
  for (std::int64_t c = 0; c < classes; ++c) {
    for (std::int64_t lane = 0; lane < lanes; ++lane) {
      p[c * lanes + lane] = reproducible_exp(z[c * lanes + lane] * scale);
    }
    for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += p[c * lanes + lane];
  }
  std::copy_n(sums, lanes, sum);
}

void softmax_rows(std::int64_t classes, double temperature, double* z) noexcept {
  subtract_greatest(classes, z);
  // Dividing keeps 0 where a factor of 1 / temperature would be infinite.
  for (std::int64_t n = 0; n < classes * lanes; ++n) z[n] /= temperature;
  double sum[lanes];
  exp_rows(classes, z, 1, z, sum);
  for (std::int64_t n = 0; n < classes * lanes; ++n) z[n] /= sum[n % lanes];
}

std::int64_t top_class(std::int64_t classes, const double* z, std::int64_t lane) noexcept {
  for (std::int64_t c = 0; c < classes; ++c) {
    if (z[c * lanes + lane] == 0) return c;
  }
  return 0;
}

}  // namespace attn::detail
