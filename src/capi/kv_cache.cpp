#include <attn/attention.hpp>
#include <attn/kv_cache.hpp>

#include <cstddef>
#include <optional>
#include <span>

#include "capi/handles.hpp"
#include "capi/status.hpp"
#include "capi/tensors.hpp"

using namespace attn;
using namespace attn::capi;

struct attn_cache_options {
  std::optional<std::int64_t> v_head_dim;
  DType dtype = DType::f32;
  CacheLayout layout = CacheLayout::bhsd;
  bool rolling = false;
};

struct attn_kv_cache {
  KvCache cache;
};

struct attn_paged_kv_cache {
  PagedKvCache cache;
  std::optional<AttentionTensors> bound;  // empty when the views are no longer valid
};

namespace {

attn_cache_options settings_of(const attn_cache_options* options) {
  return options == nullptr ? attn_cache_options{} : *options;
}

template <class Set>
attn_status set_option(attn_cache_options* options, const Set& set) noexcept {
  return guarded([&] { set(required(options, "options")); });
}

/// Calls a function of a cache's C++ object.
template <class Handle, class Body>
attn_status with_cache(Handle* handle, const Body& body) noexcept {
  return guarded([&] { body(required(handle, "cache").cache); });
}

/// Changes a paged cache, after which the views of the last bind are not valid.
template <class Body>
attn_status change(attn_paged_kv_cache* handle, const Body& body) noexcept {
  return guarded([&] {
    attn_paged_kv_cache& paged = required(handle, "cache");
    body(paged.cache);
    paged.bound.reset();
  });
}

std::span<const PagedKvCache::Sequence> sequences_of(const std::int64_t* sequences,
                                                     std::int64_t num_sequences) {
  require_array(sequences, num_sequences, "sequences");
  return {sequences, static_cast<std::size_t>(num_sequences)};
}

}  // namespace

attn_status attn_cache_options_create(attn_cache_options** options) {
  return create(options, "options", [] { return new attn_cache_options{}; });
}
attn_status attn_cache_options_destroy(attn_cache_options* options) { return destroy(options); }

attn_status attn_cache_options_set_v_head_dim(attn_cache_options* options,
                                              std::int64_t v_head_dim) {
  return set_option(options, [&](attn_cache_options& to) { to.v_head_dim = v_head_dim; });
}

attn_status attn_cache_options_set_dtype(attn_cache_options* options, attn_dtype dtype) {
  return set_option(options, [&](attn_cache_options& to) { to.dtype = dtype_of(dtype, "cache"); });
}

attn_status attn_cache_options_set_layout(attn_cache_options* options, attn_cache_layout layout) {
  return set_option(options, [&](attn_cache_options& to) {
    switch (layout) {
      case ATTN_CACHE_BHSD: to.layout = CacheLayout::bhsd; break;
      case ATTN_CACHE_BSHD: to.layout = CacheLayout::bshd; break;
      default: reject_enumerator("layout", layout);
    }
  });
}

attn_status attn_cache_options_set_rolling(attn_cache_options* options, std::int32_t rolling) {
  return set_option(options, [&](attn_cache_options& to) { to.rolling = rolling != 0; });
}

attn_status attn_kv_cache_create(attn_kv_cache** cache, std::int64_t batch,
                                 std::int64_t num_kv_heads, std::int64_t capacity,
                                 std::int64_t head_dim, const attn_cache_options* options) {
  return create(cache, "cache", [&] {
    const attn_cache_options settings = settings_of(options);
    return new attn_kv_cache{KvCache({.batch = batch,
                                      .num_kv_heads = num_kv_heads,
                                      .capacity = capacity,
                                      .head_dim = head_dim,
                                      .v_head_dim = settings.v_head_dim,
                                      .dtype = settings.dtype,
                                      .layout = settings.layout,
                                      .rolling = settings.rolling})};
  });
}
attn_status attn_kv_cache_destroy(attn_kv_cache* cache) { return destroy(cache); }

attn_status attn_kv_cache_append(attn_kv_cache* cache, const attn_tensor* k, const attn_tensor* v,
                                 const attn_rope_tables* rope) {
  return with_cache(
      cache, [&](KvCache& to) { to.append(view(k, "k"), view(v, "v"), optional_rope(rope)); });
}

attn_status attn_kv_cache_append_to(attn_kv_cache* cache, std::int64_t sequence,
                                    const attn_tensor* k, const attn_tensor* v,
                                    const attn_rope_tables* rope) {
  return with_cache(cache, [&](KvCache& to) {
    to.append_to(sequence, view(k, "k"), view(v, "v"), optional_rope(rope));
  });
}

attn_status attn_kv_cache_length(const attn_kv_cache* cache, std::int64_t sequence,
                                 std::int64_t* length) {
  return with_cache(
      cache, [&](const KvCache& from) { required(length, "length") = from.length(sequence); });
}

attn_status attn_kv_cache_position(const attn_kv_cache* cache, std::int64_t sequence,
                                   std::int64_t* position) {
  return with_cache(cache, [&](const KvCache& from) {
    required(position, "position") = from.position(sequence);
  });
}

attn_status attn_kv_cache_truncate(attn_kv_cache* cache, std::int64_t sequence,
                                   std::int64_t position) {
  return with_cache(cache, [&](KvCache& to) { to.truncate(sequence, position); });
}

attn_status attn_kv_cache_clear(attn_kv_cache* cache) {
  return with_cache(cache, [](KvCache& to) { to.clear(); });
}

attn_status attn_kv_cache_size(const attn_kv_cache* cache, std::int64_t* bytes) {
  return with_cache(cache, [&](const KvCache& from) {
    required(bytes, "bytes") = static_cast<std::int64_t>(from.size_in_bytes());
  });
}

attn_status attn_kv_cache_tensor(const attn_kv_cache* cache, attn_role role, attn_tensor* tensor) {
  return with_cache(cache, [&](const KvCache& from) {
    required(tensor, "tensor") = cache_tensor(from.bind({}), role);
  });
}

attn_status attn_kv_cache_attention(const attn_kv_cache* cache, const attn_argument* arguments,
                                    std::int64_t num_arguments, const attn_options* options,
                                    const attn_execution* execution) {
  return with_cache(cache, [&](const KvCache& from) {
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::forward_on_cache, limits_of(options));
    attention(from.bind(call.tensors), options_of(options), execution_of(execution));
  });
}

attn_status attn_paged_kv_cache_create(attn_paged_kv_cache** cache, std::int64_t num_pages,
                                       std::int64_t page_size, std::int64_t num_kv_heads,
                                       std::int64_t head_dim, const attn_cache_options* options) {
  return create(cache, "cache", [&] {
    const attn_cache_options settings = settings_of(options);
    if (settings.rolling) reject("rolling is set, but a paged cache does not overwrite keys");
    return new attn_paged_kv_cache{PagedKvCache({.num_pages = num_pages,
                                                 .page_size = page_size,
                                                 .num_kv_heads = num_kv_heads,
                                                 .head_dim = head_dim,
                                                 .v_head_dim = settings.v_head_dim,
                                                 .dtype = settings.dtype,
                                                 .layout = settings.layout}),
                                   {}};
  });
}
attn_status attn_paged_kv_cache_destroy(attn_paged_kv_cache* cache) { return destroy(cache); }

attn_status attn_paged_kv_cache_create_sequence(attn_paged_kv_cache* cache,
                                                std::int64_t* sequence) {
  return change(cache, [&](PagedKvCache& to) {
    required(sequence, "sequence");
    *sequence = to.create();
  });
}

attn_status attn_paged_kv_cache_fork(attn_paged_kv_cache* cache, std::int64_t parent,
                                     std::int64_t* sequence) {
  return change(cache, [&](PagedKvCache& to) {
    required(sequence, "sequence");
    *sequence = to.fork(parent);
  });
}

attn_status attn_paged_kv_cache_remove(attn_paged_kv_cache* cache, std::int64_t sequence) {
  return change(cache, [&](PagedKvCache& to) { to.remove(sequence); });
}

attn_status attn_paged_kv_cache_append(attn_paged_kv_cache* cache, std::int64_t sequence,
                                       const attn_tensor* k, const attn_tensor* v,
                                       const attn_rope_tables* rope) {
  return change(cache, [&](PagedKvCache& to) {
    to.append(sequence, view(k, "k"), view(v, "v"), optional_rope(rope));
  });
}

attn_status attn_paged_kv_cache_truncate(attn_paged_kv_cache* cache, std::int64_t sequence,
                                         std::int64_t length) {
  return change(cache, [&](PagedKvCache& to) { to.truncate(sequence, length); });
}

attn_status attn_paged_kv_cache_length(const attn_paged_kv_cache* cache, std::int64_t sequence,
                                       std::int64_t* length) {
  return with_cache(
      cache, [&](const PagedKvCache& from) { required(length, "length") = from.length(sequence); });
}

attn_status attn_paged_kv_cache_free_pages(const attn_paged_kv_cache* cache, std::int64_t* pages) {
  return with_cache(
      cache, [&](const PagedKvCache& from) { required(pages, "pages") = from.free_pages(); });
}

attn_status attn_paged_kv_cache_size(const attn_paged_kv_cache* cache, std::int64_t* bytes) {
  return with_cache(cache, [&](const PagedKvCache& from) {
    required(bytes, "bytes") = static_cast<std::int64_t>(from.size_in_bytes());
  });
}

attn_status attn_paged_kv_cache_bind(attn_paged_kv_cache* cache, const std::int64_t* sequences,
                                     std::int64_t num_sequences) {
  return guarded([&] {
    attn_paged_kv_cache& paged = required(cache, "cache");
    const auto batch = sequences_of(sequences, num_sequences);
    paged.bound.reset();
    paged.bound = paged.cache.bind({}, batch);
  });
}

attn_status attn_paged_kv_cache_tensor(const attn_paged_kv_cache* cache, attn_role role,
                                       attn_tensor* tensor) {
  return guarded([&] {
    const attn_paged_kv_cache& paged = required(cache, "cache");
    required(tensor, "tensor");
    if (!paged.bound) reject("no sequences are bound since the cache's last change");
    *tensor = cache_tensor(*paged.bound, role);
  });
}

attn_status attn_paged_kv_cache_attention(attn_paged_kv_cache* cache, const std::int64_t* sequences,
                                          std::int64_t num_sequences,
                                          const attn_argument* arguments,
                                          std::int64_t num_arguments, const attn_options* options,
                                          const attn_execution* execution) {
  return guarded([&] {
    attn_paged_kv_cache& paged = required(cache, "cache");
    const auto batch = sequences_of(sequences, num_sequences);
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::forward_on_cache, limits_of(options));
    paged.bound.reset();
    attention(paged.cache.bind(call.tensors, batch), options_of(options), execution_of(execution));
  });
}
