#include "regression/arguments.hpp"

#include <atomic>
#include <cmath>
#include <limits>

#include "regression/row_blocks.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

bool accepts(Values values, double x) noexcept {
  return values == Values::finite ? std::isfinite(x) : x >= 0 && x <= 1;
}

void require_class_type(const TensorView& target) {
  require_form("target", target);
  if (!is_integer(target.dtype) && target.dtype != DType::i8 && target.dtype != DType::boolean)
    reject(fmt::format("target has type {}; it needs i8, i32, i64 or boolean (classes)",
                       name_of(target.dtype)));
}

}  // namespace

void require_any_float(const char* name, const TensorView& tensor) {
  require_form(name, tensor);
  switch (tensor.dtype) {
    case DType::f32:
    case DType::bf16:
    case DType::f16:
    case DType::f64: return;
    default:
      reject(fmt::format("{} has type {}; it needs f32, bf16, f16 or f64", name,
                         name_of(tensor.dtype)));
  }
}

void require_matrix(const char* name, const TensorView& matrix, const char* layout) {
  require_any_float(name, matrix);
  require_rank(name, matrix, 2, layout);
  require_memory(name, matrix);
}

void require_output_matrix(const char* name, const MutableTensorView& matrix, std::int64_t rows,
                           std::int64_t classes) {
  require_matrix(name, matrix, "[rows, classes]");
  require_extent(name, matrix, 0, rows, "rows of input");
  require_extent(name, matrix, 1, classes, "classes of the model");
  require_elements_apart(name, matrix);
}

void require_values(const char* name, const TensorView& matrix, Values values,
                    const Threads& given_threads) {
  constexpr std::int64_t none = std::numeric_limits<std::int64_t>::max();
  if (matrix.size() == 0) return;
  const RowBlocks blocks(matrix, RowBlocks::Ones::no);
  const Chunks chunks(blocks.blocks(), 1);
  std::atomic<std::int64_t> first_wrong = none;  // in row-major order
  const Threads threads = threads_for(matrix.size(), given_threads);
  std::vector<RowBlock> scratch(static_cast<std::size_t>(threads.count));
  for_each_block(chunks, threads, [&](std::int64_t number, std::int64_t, int thread) {
    RowBlock& block = scratch[static_cast<std::size_t>(thread)];
    blocks.read(number, block);
    for (std::int64_t n = 0; n < block.count * blocks.columns(); ++n) {
      if (!accepts(values, block.rows[static_cast<std::size_t>(n)]))
        atomic_min(first_wrong, block.first * blocks.columns() + n);
    }
  });
  if (first_wrong == none) return;
  const Dims place = index_of(matrix.shape, first_wrong);
  double wrong = 0;
  copy_into(matrix.sliced(0, place[0], place[0] + 1).sliced(1, place[1], place[1] + 1),
            {&wrong, {1, 1}});
  reject(fmt::format("{}{} is {}; it needs a {}", name, place.to_string(), wrong,
                     values == Values::finite ? "finite number" : "number in 0..1"));
}

std::vector<std::int64_t> checked_targets(const TensorView& target, const char* matrix_name,
                                          std::int64_t rows, std::optional<std::int64_t> classes) {
  require_class_type(target);
  require_rank("target", target, 1, "[rows]");
  require_extent("target", target, 0, rows, fmt::format("rows of {}", matrix_name).c_str());
  require_memory("target", target);
  std::vector<std::int64_t> targets(static_cast<std::size_t>(rows));
  copy_into(target, {targets.data(), {rows}});
  const std::int64_t most = classes ? *classes - 1 : std::numeric_limits<std::int64_t>::max();
  for (std::size_t row = 0; row < targets.size(); ++row) {
    if (targets[row] >= 0 && targets[row] <= most) continue;
    reject(fmt::format("target[{}] is {}; it needs {}", row, targets[row],
                       classes ? fmt::format("to lie in 0..{} ({} classes)", most, *classes)
                               : "a class, 0 or more"));
  }
  return targets;
}

}  // namespace attn::detail
