#include "attention/describe.hpp"

#include <fmt/format.h>

#include "attention/whole_tiles.hpp"

namespace attn::detail {

std::string describe_threads(int num_threads) {
  return fmt::format("{} thread{}", num_threads, num_threads == 1 ? "" : "s");
}

std::string describe(const PreparedCall& call, const AttentionTensors& tensors) {
  const CallPlan& plan = call.plan;
  const Path path = plan.path_of(plan.sizes.q_len);
  const bool bf16 = plan.packed.vnni_factor == 2 && path != Path::unpacked;
  const bool packed_widens = !bf16 && (tensors.q.dtype != DType::f32 || plan.kv_type != DType::f32);
  const bool widens =
      path == Path::unpacked ? size_of(plan.kv_type) < sizeof(float) : packed_widens;
  const std::string widened =
      widens ? fmt::format(" ({}-bit operands widened)", 8 * size_of(plan.kv_type)) : "";
  const std::string start = fmt::format("tiled, {} kernels, {} multiplied{}, ", name_of(call.isa),
                                        bf16 ? "bf16" : "f32", widened);
  if (is_split(path)) {
    return fmt::format("{}{} read in place, {}", start,
                       path == Path::unpacked ? "keys and values" : "keys",
                       describe_threads(plan.num_threads));
  }
  const std::string normalizer = plan.needs_full_rows ? ", probabilities of full rows by " +
                                                            call.problem.normalizer.to_string()
                                                      : "";
  return fmt::format(
      "{}{}{}, blocks of {} rows x {} keys, {}", start,
      call.tile_matmuls == nullptr
          ? "scores by the built-in micro-kernel"
          : fmt::format("whole tiles by oneDNN {}", call.tile_matmuls->implementation()),
      normalizer, plan.packed.q_block, plan.packed.kv_block, describe_threads(plan.num_threads));
}

}  // namespace attn::detail
