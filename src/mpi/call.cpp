#include "mpi/call.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "tensor/checks.hpp"

namespace attn::mpi {
namespace {

using detail::reject;

[[noreturn]] void refuse(const std::string& what) { throw Error(ErrorCode::unsupported, what); }

void refuse_unsupported(const AttentionTensors& tensors, const AttentionOptions& options,
                        KeyTypes key_types) {
  if (options.normalizer != Normalizer::softmax()) {
    refuse(fmt::format("normalizer is {}; over a cut sequence only the results of softmax merge",
                       options.normalizer.to_string()));
  }
  if (!tensors.ragged.q_offsets.absent() || !tensors.ragged.kv_offsets.absent())
    refuse(
        "q_offsets or kv_offsets are given; a cut sequence has no ragged form (mask_mod can keep "
        "sequences apart)");
  if (options.block_mask)
    refuse("block_mask is given; a cut sequence takes mask_mod, or each rank's rows of a mask");
  if (!std::holds_alternative<Contiguous>(tensors.storage.layout))
    refuse("storage is a ring or paged; the keys of a cut sequence are contiguous on each rank");
  if (key_types == KeyTypes::floats && tensors.k.dtype == DType::i8)
    refuse("k has type i8; keys and values travel as f32, bf16 or f16");
}

/// The tensor with another number of rows, so that the whole call can be checked.
template <class Void>
BasicTensorView<Void> with_rows(BasicTensorView<Void> tensor, int dim, std::int64_t rows) {
  if (dim < tensor.rank()) tensor.shape[dim] = rows;
  return tensor;
}

int row_dim_of_mask(const TensorView& mask) { return mask.rank() - 2; }

/// The call of the whole, of which only shapes and types count.
AttentionTensors whole_of(AttentionTensors tensors, const RingCut& cut) {
  const std::int64_t q_len = cut.queries.length(), kv_len = cut.keys.length();
  tensors.q = with_rows(tensors.q, 2, q_len);
  tensors.out = with_rows(tensors.out, 2, q_len);
  tensors.lse = with_rows(tensors.lse, 2, q_len);
  tensors.k = with_rows(tensors.k, 2, kv_len);
  tensors.v = with_rows(tensors.v, 2, kv_len);
  tensors.storage.k_scales = with_rows(tensors.storage.k_scales, 2, kv_len);
  tensors.storage.v_scales = with_rows(tensors.storage.v_scales, 2, kv_len);
  const int dim = row_dim_of_mask(tensors.mask);
  if (dim >= 0 && tensors.mask.shape[dim] != 1) tensors.mask = with_rows(tensors.mask, dim, q_len);
  return tensors;
}

void require_rows(const char* name, const TensorView& tensor, std::int64_t rows, const char* of) {
  if (tensor.absent() || tensor.rank() < 3) return;  // wrong ranks are found in the whole
  detail::require_extent(name, tensor, 2, rows, of);
}

void require_own_rows(const AttentionTensors& tensors, std::int64_t queries, std::int64_t keys) {
  const char *of_queries = "this rank's queries", *of_keys = "this rank's keys";
  require_rows("q", tensors.q, queries, of_queries);
  require_rows("out", tensors.out, queries, of_queries);
  require_rows("lse", tensors.lse, queries, of_queries);
  require_rows("k", tensors.k, keys, of_keys);
  require_rows("v", tensors.v, keys, of_keys);
  require_rows("k_scales", tensors.storage.k_scales, keys, of_keys);
  require_rows("v_scales", tensors.storage.v_scales, keys, of_keys);
  const int dim = row_dim_of_mask(tensors.mask);
  if (dim >= 0 && tensors.mask.shape[dim] != 1)
    detail::require_extent("mask", tensors.mask, dim, queries, "this rank's queries, or 1");
}

/// Positions are sums of a few values of this size, so they do not overflow.
Window bounded(Window window) {
  constexpr std::int64_t no_further = std::int64_t{1} << 50;
  for (auto* const side : {&window.left, &window.right})
    if (*side && **side > no_further) side->reset();
  return window;
}

CallGeometry geometry_of(const AttentionTensors& tensors, const AttentionOptions& options,
                         const RingCut& cut) {
  CallGeometry geometry{.batch = tensors.q.shape[0],
                        .q_len = cut.queries.length(),
                        .kv_len = cut.keys.length(),
                        .position = options.query_position(),
                        .causal = options.causal.has_value(),
                        .window = bounded(options.window.value_or(Window{}))};
  geometry.scores_have_positions =
      !tensors.alibi_slopes.absent() || options.score_mod || options.mask_mod;
  if (!tensors.mask.absent()) {
    const std::int64_t columns = tensors.mask.shape[tensors.mask.rank() - 1];
    geometry.mask = MaskColumns{columns, options.mask_keys,
                                columns == 1 && options.mask_keys == MaskKeys::first};
  }
  return geometry;
}

template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : "none";
}

/// All ranges, or what tells them apart where they are many.
std::string text_of(const SequenceCut& cut) {
  constexpr std::size_t shown = 32;
  std::string text;
  std::size_t count = 0;
  std::uint64_t hash = 0;
  for (int rank = 0; rank < cut.num_ranks(); ++rank) {
    for (const TokenRange& range : cut.ranges(rank)) {
      ++count;
      for (const std::int64_t number : {std::int64_t{rank}, range.begin, range.end})
        hash = (hash ^ static_cast<std::uint64_t>(number)) * 0x9e3779b97f4a7c15;
    }
  }
  if (count > shown) return fmt::format("{} ranges of {} tokens ({:x})", count, cut.length(), hash);
  for (int rank = 0; rank < cut.num_ranks(); ++rank) {
    text += rank == 0 ? "" : " | ";
    for (const TokenRange& range : cut.ranges(rank))
      text += fmt::format("{}..{} ", range.begin, range.end);
  }
  return text;
}

std::string text_of(const Dims& shape, int without) {
  std::string text;
  for (int dim = 0; dim < shape.rank(); ++dim) {
    text += dim == 0 ? "[" : ", ";
    text += dim == without ? "rows" : fmt::format("{}", shape[dim]);
  }
  return text + "]";
}

std::string presence(const TensorView& tensor) {
  return tensor.absent() ? "absent"
                         : fmt::format("{} {}", name_of(tensor.dtype), tensor.shape.to_string());
}

std::string mask_text(const TensorView& mask) {
  if (mask.absent()) return "absent";
  return fmt::format("{} {}", name_of(mask.dtype), text_of(mask.shape, row_dim_of_mask(mask)));
}

/// The overlap of outputs that is easily seen. Others are found where outputs are written.
void require_no_broadcast(const char* name, const TensorView& output) {
  for (int dim = 0; dim < output.rank(); ++dim) {
    if (output.strides[dim] != 0 || output.shape[dim] < 2 || output.size() == 0) continue;
    reject(fmt::format("{} has strides {} for shape {}; each element needs memory of its own", name,
                       output.strides.to_string(), output.shape.to_string()));
  }
}

}  // namespace

CutCall checked_call(const AttentionTensors& tensors, const AttentionOptions& options,
                     const Execution& execution, const PartOfCut& part, KeyTypes key_types) {
  refuse_unsupported(tensors, options, key_types);
  const AttentionPlan whole(whole_of(tensors, part.cut), options, execution);
  require_own_rows(tensors, part.queries(), part.keys());
  CutCall call{.tensors = tensors, .options = options, .execution = execution};
  call.execution.num_threads = whole.num_threads();
  call.num_q_heads = tensors.q.shape[1];
  const std::int64_t kv_heads = tensors.k.shape[1];
  call.heads = {.num_kv_heads = kv_heads,
                .group_size = kv_heads == 0 ? 1 : call.num_q_heads / kv_heads,
                .head_dim = tensors.q.shape[3],
                .v_head_dim = tensors.v.shape[3]};
  call.geometry = geometry_of(tensors, options, part.cut);
  return call;
}

void check_gradients(const CutCall& call, const AttentionGradients& gradients,
                     const PartOfCut& part) {
  const std::int64_t queries = part.queries(), keys = part.keys();
  const std::int64_t q_len = part.cut.queries.length(), kv_len = part.cut.keys.length();
  AttentionGradients whole = gradients;
  whole.dout = with_rows(whole.dout, 2, q_len);
  whole.dlse = with_rows(whole.dlse, 2, q_len);
  whole.dq = with_rows(whole.dq, 2, q_len);
  whole.dk = with_rows(whole.dk, 2, kv_len);
  whole.dv = with_rows(whole.dv, 2, kv_len);
  const AttentionTensors tensors = whole_of(call.tensors, part.cut);
  if (!whole.dmask.absent() && whole.dmask.shape == call.tensors.mask.shape)
    whole.dmask.shape = tensors.mask.shape;
  const AttentionBackwardPlan checks_the_whole(tensors, whole, call.options, call.execution);
  const char *of_queries = "this rank's queries", *of_keys = "this rank's keys";
  for (const auto& [name, tensor, rows, of] :
       {std::tuple{"dout", TensorView(gradients.dout), queries, of_queries},
        std::tuple{"dlse", TensorView(gradients.dlse), queries, of_queries},
        std::tuple{"dq", TensorView(gradients.dq), queries, of_queries},
        std::tuple{"dk", TensorView(gradients.dk), keys, of_keys},
        std::tuple{"dv", TensorView(gradients.dv), keys, of_keys}})
    require_rows(name, tensor, rows, of);
}

Terms terms_of(const char* function, const CutCall& call, const PartOfCut& part) {
  const auto& [tensors, options, execution, heads, num_q_heads, geometry] = call;
  Terms terms;
  terms.add("the function", function);
  terms.add("the cut of queries", text_of(part.cut.queries));
  terms.add("the cut of keys", text_of(part.cut.keys));
  terms.add("the shape of q", text_of(tensors.q.shape, 2));
  terms.add("the shape of k", text_of(tensors.k.shape, 2));
  terms.add("the shape of v", text_of(tensors.v.shape, 2));
  terms.add("the type of k and v", std::string(name_of(tensors.k.dtype)));
  terms.add("mask", mask_text(tensors.mask));
  terms.add("alibi_slopes", presence(tensors.alibi_slopes));
  terms.add("sinks", presence(tensors.sinks));
  terms.add("kv_lens", presence(tensors.kv_lens));
  terms.add("softmax_scale", text_of(options.softmax_scale));
  terms.add("softcap", text_of(options.softcap));
  terms.add("causal", options.causal ? "given" : "absent");
  terms.add("q_position",
            geometry.position.offset ? text_of(geometry.position.offset) : "bottom-right");
  terms.add("window left", text_of(geometry.window.left));
  terms.add("window right", text_of(geometry.window.right));
  terms.add("mask_keys", options.mask_keys == MaskKeys::first ? "first" : "last");
  terms.add("score_mod", options.score_mod ? "given" : "absent");
  terms.add("mask_mod", options.mask_mod ? "given" : "absent");
  const int dim = row_dim_of_mask(tensors.mask);
  if (dim >= 0 && tensors.mask.shape[dim] != 1) terms.add_facts(mask_has_own_rows);
  if (dim >= 0 && tensors.mask.shape[dim] == 1 && part.queries() != 1)
    terms.add_facts(mask_has_one_row);
  return terms;
}

void check_data(const CutCall& call, const AttentionTensors& tensors) {
  const AttentionTensors& planned = call.tensors;
  for (const auto& [name, given, of_plan] :
       {std::tuple{"q", TensorView(tensors.q), TensorView(planned.q)},
        std::tuple{"k", TensorView(tensors.k), TensorView(planned.k)},
        std::tuple{"v", TensorView(tensors.v), TensorView(planned.v)},
        std::tuple{"out", TensorView(tensors.out), TensorView(planned.out)},
        std::tuple{"lse", TensorView(tensors.lse), TensorView(planned.lse)},
        std::tuple{"mask", TensorView(tensors.mask), TensorView(planned.mask)},
        std::tuple{"alibi_slopes", TensorView(tensors.alibi_slopes),
                   TensorView(planned.alibi_slopes)},
        std::tuple{"sinks", TensorView(tensors.sinks), TensorView(planned.sinks)},
        std::tuple{"kv_lens", TensorView(tensors.kv_lens), TensorView(planned.kv_lens)}}) {
    if (given.dtype != of_plan.dtype || given.shape != of_plan.shape) {
      reject(fmt::format("{} is {}; the plan was made for {}", name, presence(given),
                         presence(of_plan)));
    }
    if (!given.absent()) detail::require_data(name, given);
  }
  require_no_broadcast("out", tensors.out);
  require_no_broadcast("lse", tensors.lse);
}

void check_data(const AttentionGradients& gradients) {
  for (const auto& [name, tensor] :
       {std::pair{"dout", TensorView(gradients.dout)},
        std::pair{"dlse", TensorView(gradients.dlse)}, std::pair{"dq", TensorView(gradients.dq)},
        std::pair{"dk", TensorView(gradients.dk)}, std::pair{"dv", TensorView(gradients.dv)},
        std::pair{"dmask", TensorView(gradients.dmask)},
        std::pair{"dalibi", TensorView(gradients.dalibi)},
        std::pair{"dsinks", TensorView(gradients.dsinks)}}) {
    if (!tensor.absent()) detail::require_data(name, tensor);
  }
  for (const auto& [name, tensor] :
       {std::pair{"dq", TensorView(gradients.dq)}, std::pair{"dk", TensorView(gradients.dk)},
        std::pair{"dv", TensorView(gradients.dv)}})
    require_no_broadcast(name, tensor);
}

std::vector<std::int64_t> lengths_of(const CutCall& call, const AttentionTensors& tensors) {
  if (tensors.kv_lens.absent()) return {};
  const Tensor copy = copy_as(tensors.kv_lens, DType::i64);
  std::vector<std::int64_t> lengths(copy.data<std::int64_t>(),
                                    copy.data<std::int64_t>() + copy.size());
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] < 0 || lengths[b] > call.geometry.kv_len) {
      reject(fmt::format("kv_lens[{}] is {}; it needs to lie in 0..kv_len = {}", b, lengths[b],
                         call.geometry.kv_len));
    }
  }
  return lengths;
}

void add_data_terms(const AttentionTensors& tensors, Terms& terms) {
  for (const auto& [name, tensor] :
       {std::pair{"kv_lens", &tensors.kv_lens}, std::pair{"alibi_slopes", &tensors.alibi_slopes},
        std::pair{"sinks", &tensors.sinks}}) {
    if (tensor->absent()) {
      terms.add(name, "absent");
      continue;
    }
    const Tensor copy = copy_as(*tensor, DType::f64);
    const double* const values = copy.data<double>();
    terms.add(name, fmt::format("{}", fmt::join(values, values + copy.size(), ", ")));
  }
}

}  // namespace attn::mpi
