#include "attention/describe.hpp"

#include <fmt/format.h>

namespace attn::detail {

std::string describe(const PreparedCall& call, const AttentionTensors& tensors) {
  const CallPlan& plan = call.plan;
  const bool unpacked = plan.path_of(plan.sizes.q_len) == Path::unpacked;
  const bool bf16 = plan.packed.vnni_factor == 2;
  const bool packed_widens = !bf16 && (tensors.q.dtype != DType::f32 || plan.kv_type != DType::f32);
  const bool widens = packed_widens || (unpacked && size_of(plan.kv_type) < sizeof(float));
  const std::string widened =
      widens ? fmt::format(" ({}-bit operands widened)", 8 * size_of(plan.kv_type)) : "";
  const std::string start = fmt::format("tiled, {} kernels, ", name_of(call.isa));
  if (unpacked) {
    return fmt::format("{}f32 multiplied{}, keys and values read in place, {} threads", start,
                       widened, plan.num_threads);
  }
  const std::string normalizer = plan.needs_full_rows ? ", probabilities of full rows by " +
                                                            call.problem.normalizer.to_string()
                                                      : "";
  return fmt::format("{}{} multiplied{}, scores by {}{}, blocks of {} rows x {} keys, {} threads",
                     start, bf16 ? "bf16" : "f32", widened,
                     call.score_matmul ? "oneDNN " + call.score_matmul->implementation()
                                       : std::string("the built-in micro-kernel"),
                     normalizer, plan.packed.q_block, plan.packed.kv_block, plan.num_threads);
}

}  // namespace attn::detail
