#include "case.hpp"

#include <algorithm>

#include "apps/support/random.hpp"

namespace attn::apps::bench {
namespace {

constexpr std::int64_t chunk = 128;  // keys of one append

/// Random rows for a cache of any size. They are windows of a few million values, each with another
/// beginning.
class RandomRows {
 public:
  RandomRows(std::int64_t heads, std::int64_t dim, unsigned seed)
      : heads_(heads),
        dim_(dim),
        values_(normal_tensor({heads * chunk * dim + offsets}, DType::f32, seed)) {}

  /// [heads, count, dim]
  TensorView next(std::int64_t count) {
    offset_ = (offset_ + 7919) % offsets;
    return {values_.data<float>() + offset_, {heads_, count, dim_}};
  }

 private:
  static constexpr std::int64_t offsets = std::int64_t{1} << 20;
  std::int64_t heads_, dim_, offset_ = 0;
  Tensor values_;
};

void fill(AnyCache& cache, const Case& shape) {
  RandomRows k(shape.num_kv_heads, shape.head_dim, 2), v(shape.num_kv_heads, shape.v_head_dim, 3);
  for (std::int64_t sequence = 0; sequence < shape.batch; ++sequence) {
    const std::int64_t length = shape.length(sequence);
    for (std::int64_t begin = 0; begin < length; begin += chunk) {
      const std::int64_t count = std::min(chunk, length - begin);
      cache.append_to(sequence, k.next(count), v.next(count));
    }
  }
}

/// The document of a position, floor(position * documents / kv_len). It is below 0 for the queries
/// before the first key, which belong to no document.
std::int64_t document_of(const Case& shape, std::int64_t position) {
  return position < 0 ? -1 : position * *shape.documents / shape.kv_len;
}

std::vector<std::int64_t> documents_of(const Case& shape, std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> documents;
  for (std::int64_t n = 0; n < count; ++n) documents.push_back(document_of(shape, first + n));
  return documents;
}

TensorView numbers_of(const std::vector<std::int64_t>& numbers) {
  return {numbers.data(), {static_cast<std::int64_t>(numbers.size())}};
}

BlockMask block_mask_of(const std::vector<std::int64_t>& queries,
                        const std::vector<std::int64_t>& keys) {
  return BlockMask::from_documents(numbers_of(queries), numbers_of(keys));
}

/// The keys that k has room for; those of pages may be more than kv_len.
std::int64_t room_for_keys(const AttentionTensors& tensors) {
  const TensorView pages = tensors.storage.page_table();
  return (pages.absent() ? 1 : pages.shape[1]) * tensors.k.shape[2];
}

}  // namespace

AttentionOptions options_of(const Case& shape, const AttentionTensors& tensors) {
  AttentionOptions options;
  options.normalizer = shape.normalizer;
  options.score_matmul = shape.score_matmul;
  options.window = shape.window;
  if (shape.causal) options.causal = Causal::bottom_right();
  if (shape.documents) {
    options.block_mask = block_mask_of(documents_of(shape, shape.kv_len - shape.q_len, shape.q_len),
                                       documents_of(shape, 0, room_for_keys(tensors)));
  }
  return options;
}

AttentionOptions options_of_row(const Case& shape, std::int64_t sequence, std::int64_t row,
                                std::int64_t num_keys) {
  AttentionOptions options;
  options.normalizer = shape.normalizer;
  options.window = shape.window;
  options.q_position = QueryPosition::at(shape.position(sequence, row));
  if (shape.causal) options.causal.emplace();
  if (shape.documents) {
    options.block_mask = block_mask_of(documents_of(shape, row + shape.kv_len - shape.q_len, 1),
                                       documents_of(shape, 0, num_keys));
  }
  return options;
}

std::pair<std::int64_t, std::int64_t> Case::visible_keys(std::int64_t sequence,
                                                         std::int64_t row) const {
  const std::int64_t p = position(sequence, row), all = length(sequence);
  std::int64_t begin = 0, end = all;
  if (causal) end = std::min(end, p + 1);
  if (window && window->left && *window->left < p) begin = p - *window->left;
  if (window && window->right && *window->right < all - 1 - p)
    end = std::min(end, p + *window->right + 1);
  if (documents) {
    const std::int64_t document = document_of(*this, row + kv_len - q_len);
    const auto first = [&](std::int64_t n) { return (n * kv_len + *documents - 1) / *documents; };
    begin = std::max(begin, document < 0 ? all : first(document));
    end = std::min(end, document < 0 ? all : first(document + 1));
  }
  return {begin, std::max(begin, end)};
}

std::int64_t Case::total_length() const {
  std::int64_t total = 0;
  for (std::int64_t sequence = 0; sequence < batch; ++sequence) total += length(sequence);
  return total;
}

double Case::bytes_of_keys(std::int64_t keys) const {
  const std::size_t scales = kv_dtype() == DType::i8 ? 2 * sizeof(float) : 0;
  const std::size_t key =
      static_cast<std::size_t>(head_dim + v_head_dim) * size_of(kv_dtype()) + scales;
  return static_cast<double>(keys * num_kv_heads) * static_cast<double>(key);
}

KeysAndValues::KeysAndValues(const Case& shape) {
  if (!shape.cache) {
    k_ = normal_tensor({shape.batch, shape.num_kv_heads, shape.kv_len, shape.head_dim}, shape.dtype,
                       2);
    v_ = normal_tensor({shape.batch, shape.num_kv_heads, shape.kv_len, shape.v_head_dim},
                       shape.dtype, 3);
    return;
  }
  cache_ = std::make_unique<AnyCache>(CacheSettings{.batch = shape.batch,
                                                    .num_kv_heads = shape.num_kv_heads,
                                                    .capacity = shape.kv_len,
                                                    .head_dim = shape.head_dim,
                                                    .v_head_dim = shape.v_head_dim,
                                                    .dtype = shape.cache->dtype,
                                                    .layout = shape.cache->layout,
                                                    .page_size = shape.cache->page_size});
  fill(*cache_, shape);
}

AttentionTensors KeysAndValues::bind(AttentionTensors tensors) {
  if (cache_) return cache_->bind(tensors);
  tensors.k = k_.view();
  tensors.v = v_.view();
  return tensors;
}

}  // namespace attn::apps::bench
