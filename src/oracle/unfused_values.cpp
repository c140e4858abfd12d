#include "oracle/unfused_values.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>

#include "oracle/query_rows.hpp"

namespace attn::detail {
namespace {

std::vector<std::int64_t> keys_with_non_finite_values(const UnfusedCall& call) {
  const std::int64_t width = call.problem.sizes.v_head_dim;
  const std::int64_t num_keys =
      call.problem.sizes.batch * call.problem.sizes.num_kv_heads * call.problem.sizes.kv_len;
  std::atomic<bool> finite = true;
  parallel_ranges(call.threads, num_keys, width, [&](std::int64_t begin, std::int64_t end) {
    if (!call.kernels.all_finite(call.v + begin * width, (end - begin) * width))
      finite.store(false, std::memory_order_relaxed);
  });
  std::vector<std::int64_t> keys;
  for (std::int64_t key = 0; !finite && key < num_keys; ++key) {
    if (!call.kernels.all_finite(call.v + key * width, width)) keys.push_back(key);
  }
  return keys;
}

}  // namespace

std::optional<SeparatedValues> separate_values(const UnfusedCall& call) {
  std::vector<std::int64_t> keys = keys_with_non_finite_values(call);
  if (keys.empty()) return std::nullopt;
  const std::int64_t out_size = num_rows(call.problem.sizes) * call.problem.sizes.v_head_dim;
  SeparatedValues separated{std::move(keys),
                            {call.v, call.v + call.tensors.v.size()},
                            std::vector<float>(static_cast<std::size_t>(out_size))};
  const auto not_finite = [](float value) { return !std::isfinite(value); };
  std::replace_if(separated.finite.begin(), separated.finite.end(), not_finite, 0.f);
  return separated;
}

void add_non_finite_values(const UnfusedCall& call, std::int64_t row, const float* scores,
                           const float* probabilities, SeparatedValues& separated) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const std::vector<std::int64_t>& keys = separated.keys;
  float* const sum = separated.non_finite_sums.data() + row * call.problem.sizes.v_head_dim;
  const Sizes& sizes = call.problem.sizes;
  const std::int64_t first = row / (sizes.q_len * sizes.group_size) * sizes.kv_len;
  for (auto key = std::lower_bound(keys.begin(), keys.end(), first);
       key != keys.end() && *key < first + sizes.kv_len; ++key) {
    if (scores[*key - first] == -infinity) continue;
    const float* values = call.v + *key * sizes.v_head_dim;
    const float probability = probabilities == nullptr ? 1 : probabilities[*key - first];
    for (std::int64_t d = 0; d < sizes.v_head_dim; ++d)
      sum[d] += std::isfinite(values[d]) ? 0 : probability * values[d];
  }
}

}  // namespace attn::detail
