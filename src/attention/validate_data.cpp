// Checks what only the data of a call can tell: null pointers, lengths, offsets, rings and pages.
#include <attn/error.hpp>

#include <fmt/format.h>

#include <utility>

#include "attention/call_tensors.hpp"
#include "attention/problem.hpp"
#include "tensor/arguments.hpp"
#include "tensor/checks.hpp"
#include "tensor/indexing.hpp"

namespace attn::detail {
namespace {

void check_lengths(const Problem& problem, const AttentionTensors& tensors) {
  if (tensors.kv_lens.absent()) return;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const std::int64_t length = kv_length(tensors, problem.sizes, batch);
    if (length < 0 || length > problem.sizes.kv_len) {
      reject(fmt::format("kv_lens[{}] is {}; it needs to lie in 0..kv_len = {}", batch, length,
                         problem.sizes.kv_len));
    }
  }
}

/// Offsets go from 0 to the number of tokens and never decrease, and no sequence is longer than the
/// plan allows.
void check_offsets(const char* name, const TensorView& offsets, std::int64_t tokens,
                   std::int64_t most) {
  if (offsets.absent()) return;
  const std::int64_t sequences = offsets.shape[0] - 1;
  if (integer_at(offsets, 0) != 0)
    reject(fmt::format("{}[0] is {}; it needs 0", name, integer_at(offsets, 0)));
  for (std::int64_t b = 0; b < sequences; ++b) {
    const std::int64_t begin = integer_at(offsets, b), end = integer_at(offsets, b + 1);
    if (end < begin)
      reject(fmt::format("{}[{}] is {}, below {}[{}] = {}: offsets never decrease", name, b + 1,
                         end, name, b, begin));
    if (end - begin > most) {
      reject(fmt::format("{} gives sequence {} a length of {}; the plan was made for {} at most",
                         name, b, end - begin, most));
    }
  }
  if (integer_at(offsets, sequences) != tokens) {
    reject(fmt::format("{}[{}] is {}; it needs {}, the number of tokens", name, sequences,
                       integer_at(offsets, sequences), tokens));
  }
}

void check_starts(const Problem& problem, const AttentionTensors& tensors) {
  const TensorView starts = tensors.storage.starts();
  if (starts.absent()) return;
  const std::int64_t capacity = problem.sizes.kv_len;
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const std::int64_t start = integer_at(starts, batch);
    const bool empty = capacity == 0 && start == 0;
    if (!empty && (start < 0 || start >= capacity)) {
      if (capacity == 0)
        reject(fmt::format("starts[{}] is {}; it needs 0 (capacity is 0)", batch, start));
      reject(fmt::format("starts[{}] is {}; it needs to lie in 0..{} (capacity - 1)", batch, start,
                         capacity - 1));
    }
  }
}

/// Checks the pages that hold keys.
void check_pages(const Problem& problem, const AttentionTensors& tensors) {
  if (tensors.storage.page_table().absent()) return;
  const std::int64_t num_pages = tensors.k.shape[0], page_size = tensors.k.shape[2];
  const TensorView table = tensors.storage.page_table();
  for (std::int64_t batch = 0; batch < problem.sizes.batch; ++batch) {
    const std::int64_t used =
        (kv_length(tensors, problem.sizes, batch) + page_size - 1) / page_size;
    for (std::int64_t n = 0; n < used; ++n) {
      const std::int32_t page = static_cast<const std::int32_t*>(
          table.data)[batch * table.strides[0] + n * table.strides[1]];
      if (num_pages == 0)
        reject(fmt::format("page_table[{}, {}] is {}, but k has no pages", batch, n, page));
      if (page < 0 || page >= num_pages) {
        reject(fmt::format("page_table[{}, {}] is {}; it needs to lie in 0..{} (num_pages - 1)",
                           batch, n, page, num_pages - 1));
      }
    }
  }
}

}  // namespace

void validate_lengths(const Problem& problem, const AttentionTensors& tensors) {
  const TensorView &q_offsets = tensors.ragged.q_offsets, &kv_offsets = tensors.ragged.kv_offsets;
  for (const auto& [name, tensor] :
       {std::pair{"q_offsets", &q_offsets}, std::pair{"kv_offsets", &kv_offsets},
        std::pair{"kv_lens", &tensors.kv_lens}}) {
    if (!tensor->absent()) require_memory(name, *tensor);
  }
  check_offsets("q_offsets", q_offsets, tensors.q.shape[0], problem.sizes.q_len);
  check_offsets("kv_offsets", kv_offsets, tensors.k.shape[0], problem.sizes.kv_len);
  check_lengths(problem, tensors);
}

void validate_data(const Problem& problem, const AttentionTensors& tensors) {
  for_each_tensor(
      [](const char* name, const auto& tensor) {
        if (!tensor.absent()) require_memory(name, tensor);
      },
      tensors);
  if (!tensors.out.absent()) require_elements_apart("out", tensors.out);
  if (!tensors.lse.absent()) require_elements_apart("lse", tensors.lse);
  validate_lengths(problem, tensors);
  check_starts(problem, tensors);
  check_pages(problem, tensors);
}

}  // namespace attn::detail
