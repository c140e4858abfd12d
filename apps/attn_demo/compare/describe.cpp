#include "describe.hpp"

#include <fmt/format.h>

namespace attn::apps::demo {
namespace {

std::string describe_masks(const Call& call) {
  std::string text;
  const auto add = [&text](const std::string& mask) { text += (text.empty() ? "" : ", ") + mask; };
  const auto limit = [](const std::optional<std::int64_t>& side) {
    return side ? std::to_string(*side) : "unlimited";
  };
  const AttentionOptions& options = call.options;
  if (options.normalizer != Normalizer::softmax()) add(options.normalizer.to_string());
  if (options.softcap) add(fmt::format("softcap {}", *options.softcap));
  const QueryPosition position = options.query_position();
  if (options.causal)
    add(position.offset ? fmt::format("causal with offset {}", *position.offset)
                        : "causal, bottom-right");
  if (options.window)
    add(fmt::format("window left {}, right {}", limit(options.window->left),
                    limit(options.window->right)));
  const auto add_tensor = [&](const char* name, const TensorView& tensor) {
    if (!tensor.absent())
      add(fmt::format("{} {} {}", name, name_of(tensor.dtype), tensor.shape.to_string()));
  };
  add_tensor("mask", call.tensors.mask);
  add_tensor("alibi", call.tensors.alibi_slopes);
  add_tensor("sinks", call.tensors.sinks);
  add_tensor("kv-lens", call.tensors.kv_lens);
  return text;
}

std::string describe_cache(const Call& call) {
  const std::string pages =
      call.page_size > 0 ? fmt::format(" in pages of {} keys", call.page_size) : "";
  return fmt::format(
      "K and V cached in {}{}; naive has them as given: errors include what the cache costs, and "
      "so does e",
      name_of(*call.kv_dtype), pages);
}

}  // namespace

std::string describe_call(const Call& call) {
  const AttentionTensors& t = call.tensors;
  std::string text = fmt::format("Q {}, K {}, V {}, {}\n", t.q.shape.to_string(),
                                 t.k.shape.to_string(), t.v.shape.to_string(), name_of(call.dtype));
  if (const std::string masks = describe_masks(call); !masks.empty()) text += masks + '\n';
  if (call.kv_dtype) text += describe_cache(call) + '\n';
  return text;
}

std::vector<std::int64_t> sizes_of(const Call& call) {
  const Dims &q = call.tensors.q.shape, &k = call.tensors.k.shape;
  return {q[0], q[1], k[1], q[2], k[2], q[3], call.tensors.v.shape[3]};
}

}  // namespace attn::apps::demo
