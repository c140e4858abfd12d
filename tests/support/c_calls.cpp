#include "support/c_calls.hpp"

namespace attn::test {
namespace {

attn_dtype c_dtype(DType dtype) {
  switch (dtype) {
    case DType::f32: return ATTN_F32;
    case DType::bf16: return ATTN_BF16;
    case DType::f16: return ATTN_F16;
    case DType::f64: return ATTN_F64;
    case DType::i8: return ATTN_I8;
    case DType::i32: return ATTN_I32;
    case DType::i64: return ATTN_I64;
    case DType::boolean: return ATTN_BOOLEAN;
  }
  return 0;
}

KeyRun key_run(const attn_key_run& run) {
  return {run.batch,      run.q_head,    run.kv_head, run.q_index,
          run.q_position, run.key_begin, run.count};
}

/// A function of the C++ options, called through a pointer to it.
template <class Function>
void* user_of(const Function& function) {
  return const_cast<Function*>(&function);
}

void set_functions(attn_options* options, const AttentionOptions& from) {
  if (from.score_mod) {
    const attn_score_mod call = [](void* user, const attn_key_run* run, float* scores) {
      (*static_cast<const ScoreMod*>(user))(key_run(*run), scores);
      return std::int32_t{0};
    };
    REQUIRE_OK(attn_options_set_score_mod(options, call, user_of(from.score_mod)));
  }
  if (from.score_mod_gradient) {
    const attn_score_mod_gradient call = [](void* user, const attn_key_run* run,
                                            const float* scores, float* gradient) {
      (*static_cast<const ScoreModGradient*>(user))(key_run(*run), scores, gradient);
      return std::int32_t{0};
    };
    REQUIRE_OK(
        attn_options_set_score_mod_gradient(options, call, user_of(from.score_mod_gradient)));
  }
  if (from.mask_mod) {
    const attn_mask_mod call = [](void* user, const attn_key_run* run, std::uint8_t* visible) {
      (*static_cast<const MaskMod*>(user))(key_run(*run), reinterpret_cast<bool*>(visible));
      for (std::int64_t n = 0; n < run->count; ++n) visible[n] *= 200;  // any byte but 0 is true
      return std::int32_t{0};
    };
    REQUIRE_OK(attn_options_set_mask_mod(options, call, user_of(from.mask_mod)));
  }
}

void set_normalizer(attn_options* options, const Normalizer& normalizer) {
  if (normalizer.kind() == Normalizer::Kind::entmax)
    REQUIRE_OK(attn_options_set_entmax(options, normalizer.alpha()));
  if (normalizer.kind() == Normalizer::Kind::sigmoid) {
    const float bias = normalizer.bias().value_or(0);
    REQUIRE_OK(attn_options_set_sigmoid(options, normalizer.bias() ? &bias : nullptr));
  }
}

}  // namespace

attn_tensor c_tensor(const TensorView& view) {
  attn_tensor tensor{};
  tensor.data = const_cast<void*>(view.data);
  tensor.dtype = c_dtype(view.dtype);
  tensor.rank = view.rank();
  for (int dim = 0; dim < view.rank(); ++dim) {
    tensor.shape[dim] = view.shape[dim];
    tensor.strides[dim] = view.strides[dim];
  }
  return tensor;
}

CArguments::CArguments(const AttentionTensors& tensors) {
  add(ATTN_ARG_OUT, tensors.out);
  add(ATTN_ARG_LSE, tensors.lse);
  add(ATTN_ARG_Q, tensors.q);
  add(ATTN_ARG_K, tensors.k);
  add(ATTN_ARG_V, tensors.v);
  add(ATTN_ARG_MASK, tensors.mask);
  add(ATTN_ARG_ALIBI_SLOPES, tensors.alibi_slopes);
  add(ATTN_ARG_SINKS, tensors.sinks);
  add(ATTN_ARG_KV_LENS, tensors.kv_lens);
  add(ATTN_ARG_Q_OFFSETS, tensors.ragged.q_offsets);
  add(ATTN_ARG_KV_OFFSETS, tensors.ragged.kv_offsets);
  add(ATTN_ARG_RING_STARTS, tensors.storage.starts());
  add(ATTN_ARG_PAGE_TABLE, tensors.storage.page_table());
  add(ATTN_ARG_K_SCALES, tensors.storage.k_scales);
  add(ATTN_ARG_V_SCALES, tensors.storage.v_scales);
}

CArguments::CArguments(const AttentionTensors& tensors, const AttentionGradients& gradients)
    : CArguments(tensors) {
  add(ATTN_ARG_DOUT, gradients.dout);
  add(ATTN_ARG_DLSE, gradients.dlse);
  add(ATTN_ARG_DQ, gradients.dq);
  add(ATTN_ARG_DK, gradients.dk);
  add(ATTN_ARG_DV, gradients.dv);
  add(ATTN_ARG_DMASK, gradients.dmask);
  add(ATTN_ARG_DALIBI, gradients.dalibi);
  add(ATTN_ARG_DSINKS, gradients.dsinks);
}

void CArguments::add(attn_role role, const TensorView& view) {
  if (view.absent()) return;
  tensors_.push_back(c_tensor(view));
  arguments_.push_back({role, &tensors_.back()});
}

attn_tensor& CArguments::operator[](attn_role role) {
  std::size_t n = 0;
  while (arguments_.at(n).role != role) ++n;
  return tensors_[n];
}

void set_options(attn_options* options, const AttentionOptions& from) {
  if (from.softmax_scale) REQUIRE_OK(attn_options_set_softmax_scale(options, *from.softmax_scale));
  if (from.softcap) REQUIRE_OK(attn_options_set_softcap(options, *from.softcap));
  if (from.causal) REQUIRE_OK(attn_options_set_causal(options, 1));
  if (const auto position = from.query_position().offset)
    REQUIRE_OK(attn_options_set_q_position(options, *position));
  if (from.window) {
    REQUIRE_OK(attn_options_set_window(options, from.window->left.value_or(ATTN_UNLIMITED),
                                       from.window->right.value_or(ATTN_UNLIMITED)));
  }
  set_normalizer(options, from.normalizer);
  if (from.mask_keys == MaskKeys::last)
    REQUIRE_OK(attn_options_set_mask_keys(options, ATTN_MASK_KEYS_LAST));
  set_functions(options, from);
}

void set_execution(attn_execution* execution, const Execution& from) {
  if (from.num_threads) REQUIRE_OK(attn_execution_set_num_threads(execution, *from.num_threads));
  for (attn_isa isa = ATTN_ISA_BASELINE; isa <= ATTN_ISA_AVX512_BF16; ++isa) {
    const char* name = nullptr;
    REQUIRE_OK(attn_isa_name(isa, &name));
    if (from.isa && name_of(*from.isa) == name) REQUIRE_OK(attn_execution_set_isa(execution, isa));
  }
}

CCall::CCall(CArguments list, const Ragged& ragged, const AttentionOptions& from,
             const Execution& how)
    : arguments(std::move(list)) {
  REQUIRE_OK(attn_options_create(options.out()));
  set_options(options, from);
  if (ragged.max_q_len) REQUIRE_OK(attn_options_set_max_q_len(options, *ragged.max_q_len));
  if (ragged.max_kv_len) REQUIRE_OK(attn_options_set_max_kv_len(options, *ragged.max_kv_len));
  REQUIRE_OK(attn_execution_create(execution.out()));
  set_execution(execution, how);
}

}  // namespace attn::test
