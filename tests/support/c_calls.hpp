// Calls of the C interface from the values that tests of the C++ library have.
#pragma once

#include <attn/attn.h>
#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

namespace attn::test {

/// Owns a handle of the C interface.
template <class Handle, attn_status (*destroy)(Handle*)>
class Owned {
 public:
  Owned() = default;
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { destroy(handle_); }

  /// For create functions.
  Handle** out() { return &handle_; }
  operator Handle*() const { return handle_; }  // NOLINT(google-explicit-constructor)

 private:
  Handle* handle_ = nullptr;
};

using COptions = Owned<attn_options, attn_options_destroy>;
using CExecution = Owned<attn_execution, attn_execution_destroy>;
using CPlan = Owned<attn_plan, attn_plan_destroy>;
using CBackwardPlan = Owned<attn_backward_plan, attn_backward_plan_destroy>;
using CBlockMask = Owned<attn_block_mask, attn_block_mask_destroy>;
using CCacheOptions = Owned<attn_cache_options, attn_cache_options_destroy>;
using CKvCache = Owned<attn_kv_cache, attn_kv_cache_destroy>;
using CPagedKvCache = Owned<attn_paged_kv_cache, attn_paged_kv_cache_destroy>;
using CLossOptions = Owned<attn_loss_options, attn_loss_options_destroy>;
using CSampleOptions = Owned<attn_sample_options, attn_sample_options_destroy>;

/// Fails the test case with the message if a call failed.
#define REQUIRE_OK(call) REQUIRE_MESSAGE((call) == ATTN_OK, #call << ": " << attn_last_error())

attn_tensor c_tensor(const TensorView& view);

/// The arguments of a call, with their tensors. Absent views are not listed.
class CArguments {
 public:
  CArguments() = default;
  explicit CArguments(const AttentionTensors& tensors);
  CArguments(const AttentionTensors& tensors, const AttentionGradients& gradients);

  void add(attn_role role, const TensorView& view);
  attn_tensor& operator[](attn_role role);
  const attn_argument* data() const { return arguments_.data(); }
  std::int64_t size() const { return static_cast<std::int64_t>(arguments_.size()); }

 private:
  std::deque<attn_tensor> tensors_;  // its elements stay where they are
  std::vector<attn_argument> arguments_;
};

/// Sets what differs from the defaults, except a block mask. The functions of `from` have to live
/// as long as the options.
void set_options(attn_options* options, const AttentionOptions& from);
void set_execution(attn_execution* execution, const Execution& from);

/// A call by the C interface with the same tensors, options and execution.
struct CCall {
  CCall(const AttentionTensors& tensors, const AttentionOptions& from, const Execution& how)
      : CCall(CArguments(tensors), tensors.ragged, from, how) {}
  CCall(const AttentionTensors& tensors, const AttentionGradients& gradients,
        const AttentionOptions& from, const Execution& how)
      : CCall(CArguments(tensors, gradients), tensors.ragged, from, how) {}

  CArguments arguments;
  COptions options;
  CExecution execution;

 private:
  CCall(CArguments list, const Ragged& ragged, const AttentionOptions& from, const Execution& how);
};

}  // namespace attn::test
