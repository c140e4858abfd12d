// The call, its gradients, plans of both, and the merge of states.
#include <attn/attention.hpp>
#include <attn/attention_backward.hpp>
#include <attn/reference.hpp>
#include <attn/state.hpp>

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "capi/handles.hpp"
#include "capi/status.hpp"
#include "capi/tensors.hpp"

using namespace attn;
using namespace attn::capi;

struct attn_plan {
  AttentionPlan plan;
  std::string description;
  std::shared_ptr<Executor> executor;  // to which the plan keeps a pointer
  RaggedLimits limits;
};

struct attn_backward_plan {
  AttentionBackwardPlan plan;
  std::string description;
  std::shared_ptr<Executor> executor;
  RaggedLimits limits;
};

namespace {

/// A handle for a plan that was made for this call.
template <class Handle, class Plan>
Handle* handle_of(Plan plan, const attn_options* options, const attn_execution* execution) {
  std::string description = plan.description();
  return new Handle{std::move(plan), std::move(description),
                    execution == nullptr ? nullptr : execution->executor, limits_of(options)};
}

template <class Plan>
attn_status workspace_size(const Plan* plan, std::int64_t* bytes) noexcept {
  return guarded([&] {
    required(bytes, "bytes") =
        static_cast<std::int64_t>(required(plan, "plan").plan.workspace_size());
  });
}

template <class Plan>
attn_status num_threads(const Plan* plan, std::int32_t* number) noexcept {
  return guarded(
      [&] { required(number, "num_threads") = required(plan, "plan").plan.num_threads(); });
}

template <class Plan>
attn_status isa(const Plan* plan, attn_isa* number) noexcept {
  return guarded([&] { required(number, "isa") = number_of(required(plan, "plan").plan.isa()); });
}

template <class Plan>
attn_status description(const Plan* plan, const char** text) noexcept {
  return guarded(
      [&] { required(text, "description") = required(plan, "plan").description.c_str(); });
}

Workspace workspace_of(void* memory, std::int64_t bytes) {
  if (bytes < 0) reject("workspace_size is " + std::to_string(bytes) + "; it needs 0 or more");
  return {memory, static_cast<std::size_t>(bytes)};
}

AttentionState state_of(const attn_state* state, const char* name) {
  const attn_state& parts = required(state, name);
  return {view(parts.out, (std::string(name) + "->out").c_str()),
          view(parts.lse, (std::string(name) + "->lse").c_str())};
}

}  // namespace

attn_status attn_attention(const attn_argument* arguments, std::int64_t num_arguments,
                           const attn_options* options, const attn_execution* execution) {
  return guarded([&] {
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::forward, limits_of(options));
    attention(call.tensors, options_of(options), execution_of(execution));
  });
}

attn_status attn_attention_backward(const attn_argument* arguments, std::int64_t num_arguments,
                                    const attn_options* options, const attn_execution* execution) {
  return guarded([&] {
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::backward, limits_of(options));
    attention_backward(call.tensors, call.gradients, options_of(options), execution_of(execution));
  });
}

attn_status attn_attention_reference(const attn_argument* arguments, std::int64_t num_arguments,
                                     const attn_options* options, const attn_execution* execution) {
  return guarded([&] {
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::forward, limits_of(options));
    attention_reference(call.tensors, options_of(options), execution_of(execution));
  });
}

attn_status attn_attention_backward_reference(const attn_argument* arguments,
                                              std::int64_t num_arguments,
                                              const attn_options* options,
                                              const attn_execution* execution) {
  return guarded([&] {
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::backward, limits_of(options));
    attention_backward_reference(call.tensors, call.gradients, options_of(options),
                                 execution_of(execution));
  });
}

attn_status attn_plan_create(attn_plan** plan, const attn_argument* arguments,
                             std::int64_t num_arguments, const attn_options* options,
                             const attn_execution* execution) {
  return create(plan, "plan", [&] {
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::forward, limits_of(options));
    return handle_of<attn_plan>(
        AttentionPlan(call.tensors, options_of(options), execution_of(execution)), options,
        execution);
  });
}

attn_status attn_plan_destroy(attn_plan* plan) { return destroy(plan); }

attn_status attn_plan_workspace_size(const attn_plan* plan, std::int64_t* bytes) {
  return workspace_size(plan, bytes);
}
attn_status attn_plan_num_threads(const attn_plan* plan, std::int32_t* number) {
  return num_threads(plan, number);
}
attn_status attn_plan_isa(const attn_plan* plan, attn_isa* number) { return isa(plan, number); }
attn_status attn_plan_description(const attn_plan* plan, const char** text) {
  return description(plan, text);
}

attn_status attn_plan_run(const attn_plan* plan, const attn_argument* arguments,
                          std::int64_t num_arguments, void* workspace,
                          std::int64_t workspace_size) {
  return guarded([&] {
    const attn_plan& prepared = required(plan, "plan");
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::forward, prepared.limits);
    Workspace memory = workspace_of(workspace, workspace_size);
    prepared.plan.run(call.tensors, memory);
  });
}

attn_status attn_backward_plan_create(attn_backward_plan** plan, const attn_argument* arguments,
                                      std::int64_t num_arguments, const attn_options* options,
                                      const attn_execution* execution) {
  return create(plan, "plan", [&] {
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::backward, limits_of(options));
    return handle_of<attn_backward_plan>(
        AttentionBackwardPlan(call.tensors, call.gradients, options_of(options),
                              execution_of(execution)),
        options, execution);
  });
}

attn_status attn_backward_plan_destroy(attn_backward_plan* plan) { return destroy(plan); }

attn_status attn_backward_plan_workspace_size(const attn_backward_plan* plan, std::int64_t* bytes) {
  return workspace_size(plan, bytes);
}
attn_status attn_backward_plan_num_threads(const attn_backward_plan* plan, std::int32_t* number) {
  return num_threads(plan, number);
}
attn_status attn_backward_plan_isa(const attn_backward_plan* plan, attn_isa* number) {
  return isa(plan, number);
}
attn_status attn_backward_plan_description(const attn_backward_plan* plan, const char** text) {
  return description(plan, text);
}

attn_status attn_backward_plan_run(const attn_backward_plan* plan, const attn_argument* arguments,
                                   std::int64_t num_arguments, void* workspace,
                                   std::int64_t workspace_size) {
  return guarded([&] {
    const attn_backward_plan& prepared = required(plan, "plan");
    const Arguments call =
        read_arguments(arguments, num_arguments, CallKind::backward, prepared.limits);
    Workspace memory = workspace_of(workspace, workspace_size);
    prepared.plan.run(call.tensors, call.gradients, memory);
  });
}

attn_status attn_clear(const attn_state* state) {
  return guarded([&] { clear(state_of(state, "state")); });
}

attn_status attn_merge(const attn_state* a, const attn_state* b, const attn_state* into) {
  return guarded([&] { merge(state_of(a, "a"), state_of(b, "b"), state_of(into, "into")); });
}
