#include "cache.hpp"

#include <algorithm>
#include <random>
#include <utility>

namespace attn::apps {
namespace {

std::variant<KvCache, PagedKvCache> make_cache(const CacheSettings& settings) {
  if (settings.page_size == 0) {
    return KvCache({.batch = settings.batch,
                    .num_kv_heads = settings.num_kv_heads,
                    .capacity = settings.capacity,
                    .head_dim = settings.head_dim,
                    .v_head_dim = settings.v_head_dim,
                    .dtype = settings.dtype,
                    .layout = settings.layout});
  }
  const std::int64_t pages = settings.capacity / settings.page_size +
                             (settings.capacity % settings.page_size != 0 ? 1 : 0);
  return PagedKvCache({.num_pages = settings.batch * pages,
                       .page_size = settings.page_size,
                       .num_kv_heads = settings.num_kv_heads,
                       .head_dim = settings.head_dim,
                       .v_head_dim = settings.v_head_dim,
                       .dtype = settings.dtype,
                       .layout = settings.layout});
}

/// Shuffles the free pages: sequences take them in random order and are then removed.
void scatter_free_pages(PagedKvCache& cache) {
  const PagedKvCache::Settings& settings = cache.settings();
  const std::int64_t v_head_dim = settings.v_head_dim.value_or(settings.head_dim);
  const Tensor zeros(DType::f32, {std::max(settings.head_dim, v_head_dim)});
  const auto page_of = [&](std::int64_t dim) {
    return TensorView(zeros.data(), DType::f32, {settings.num_kv_heads, settings.page_size, dim},
                      {0, 0, 1});
  };
  std::mt19937 generator(11);
  std::vector<PagedKvCache::Sequence> sequences(
      static_cast<std::size_t>(std::min<std::int64_t>(settings.num_pages, 1024)));
  for (PagedKvCache::Sequence& sequence : sequences) sequence = cache.create();
  while (cache.free_pages() > 0) {
    std::shuffle(sequences.begin(), sequences.end(), generator);
    for (const PagedKvCache::Sequence sequence : sequences) {
      if (cache.free_pages() > 0)
        cache.append(sequence, page_of(settings.head_dim), page_of(v_head_dim));
    }
  }
  for (const PagedKvCache::Sequence sequence : sequences) cache.remove(sequence);
}

TensorView batch_entry(const TensorView& tensor, std::int64_t batch) {
  const TensorView entry = tensor.sliced(0, batch, batch + 1);
  return {entry.data,
          entry.dtype,
          {entry.shape[1], entry.shape[2], entry.shape[3]},
          {entry.strides[1], entry.strides[2], entry.strides[3]}};
}

std::int64_t length_of(const AttentionTensors& bound, std::int64_t batch) {
  return bound.kv_lens.absent() ? bound.k.shape[2]
                                : static_cast<const std::int64_t*>(
                                      bound.kv_lens.data)[batch * bound.kv_lens.strides[0]];
}

void scale_rows(const TensorView& scales, const MutableTensorView& rows) {
  const Tensor factors = copy_as(scales, DType::f32);
  for (std::int64_t row = 0; row < rows.shape[2]; ++row) {
    float* const values = static_cast<float*>(rows.data) + row * rows.strides[2];
    for (std::int64_t n = 0; n < rows.shape[3]; ++n) values[n] *= factors.data<float>()[row];
  }
}

/// Dense keys are treated as one page for each batch entry.
Tensor plain_rows(const AttentionTensors& bound, const TensorView& rows, const TensorView& scales,
                  std::int64_t batch, std::int64_t kv_head) {
  const std::int64_t length = length_of(bound, batch), page_size = rows.shape[2];
  const TensorView table = bound.storage.page_table();
  Tensor result(DType::f32, {1, 1, length, rows.shape[3]});
  for (std::int64_t begin = 0; begin < length; begin += page_size) {
    const std::int64_t entry = batch * (table.absent() ? 0 : table.strides[0]) + begin / page_size;
    const std::int64_t page =
        table.absent() ? batch : static_cast<const std::int32_t*>(table.data)[entry];
    const std::int64_t count = std::min(page_size, length - begin);
    const auto in_page = [&](const TensorView& all) {
      return all.sliced(0, page, page + 1).sliced(1, kv_head, kv_head + 1).sliced(2, 0, count);
    };
    const MutableTensorView to = result.view().sliced(2, begin, begin + count);
    copy_into(in_page(rows), to);
    if (!scales.absent()) scale_rows(in_page(scales), to);
  }
  return result;
}

Tensor all_rows(const AttentionTensors& bound, const TensorView& rows, const TensorView& scales) {
  const std::int64_t batch = bound.kv_lens.absent() ? rows.shape[0] : bound.kv_lens.shape[0];
  Tensor result(DType::f32,
                {batch, rows.shape[1], batch > 0 ? length_of(bound, 0) : 0, rows.shape[3]});
  for (std::int64_t b = 0; b < batch; ++b) {
    for (std::int64_t head = 0; head < rows.shape[1]; ++head) {
      copy_into(plain_rows(bound, rows, scales, b, head).view(),
                result.view().sliced(0, b, b + 1).sliced(1, head, head + 1));
    }
  }
  return result;
}

}  // namespace

AnyCache::AnyCache(const CacheSettings& settings) : cache_(make_cache(settings)) {
  auto* const paged = std::get_if<PagedKvCache>(&cache_);
  if (paged == nullptr) return;
  scatter_free_pages(*paged);
  sequences_.resize(static_cast<std::size_t>(settings.batch));
  for (PagedKvCache::Sequence& sequence : sequences_) sequence = paged->create();
}

void AnyCache::append_to(std::int64_t sequence, const TensorView& k, const TensorView& v) {
  if (auto* const paged = std::get_if<PagedKvCache>(&cache_)) {
    paged->append(sequences_.at(static_cast<std::size_t>(sequence)), k, v);
  } else {
    std::get<KvCache>(cache_).append_to(sequence, k, v);
  }
}

void AnyCache::append(const TensorView& k, const TensorView& v) {
  auto* const contiguous = std::get_if<KvCache>(&cache_);
  if (contiguous != nullptr) return contiguous->append(k, v);
  for (std::int64_t sequence = 0; sequence < std::ssize(sequences_); ++sequence) {
    append_to(sequence, batch_entry(k, sequence), batch_entry(v, sequence));
  }
}

AttentionTensors AnyCache::bind(AttentionTensors tensors) {
  if (auto* const paged = std::get_if<PagedKvCache>(&cache_))
    return paged->bind(std::move(tensors), sequences_);
  return std::get<KvCache>(cache_).bind(std::move(tensors));
}

Tensor plain_keys(const AttentionTensors& bound, std::int64_t batch, std::int64_t kv_head) {
  return plain_rows(bound, bound.k, bound.storage.k_scales, batch, kv_head);
}
Tensor plain_values(const AttentionTensors& bound, std::int64_t batch, std::int64_t kv_head) {
  return plain_rows(bound, bound.v, bound.storage.v_scales, batch, kv_head);
}
Tensor plain_keys(const AttentionTensors& bound) {
  return all_rows(bound, bound.k, bound.storage.k_scales);
}
Tensor plain_values(const AttentionTensors& bound) {
  return all_rows(bound, bound.v, bound.storage.v_scales);
}

}  // namespace attn::apps
