// What a backward call refuses. Each call has one fault; the message names it, and nothing is
// written.
#include <attn/attention_backward.hpp>
#include <attn/error.hpp>
#include <attn/reference.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "support/backward_check.hpp"

using namespace attn;
using namespace attn::test;

namespace {

BackwardCase right() {
  return {.call = {.batch = 2,
                   .num_q_heads = 4,
                   .num_kv_heads = 2,
                   .q_len = 3,
                   .kv_len = 5,
                   .head_dim = 8,
                   .v_head_dim = 6,
                   .mask = DenseMask{.dtype = DType::f32, .shape = {2, 4, 3, 5}},
                   .alibi = true,
                   .sinks = true,
                   .kv_lens = {5, 2}}};
}

struct Call {
  AttentionTensors tensors;
  AttentionGradients gradients;
  AttentionOptions options;
  Execution execution{};
};
using Change = std::function<void(Call&)>;
using Run = std::function<void(const Call&)>;

void run_engine(const Call& call) {
  attention_backward(call.tensors, call.gradients, call.options, call.execution);
}
void run_reference(const Call& call) {
  attention_backward_reference(call.tensors, call.gradients, call.options, call.execution);
}
void make_plan(const Call& call) {
  AttentionBackwardPlan(call.tensors, call.gradients, call.options, call.execution);
}

/// Runs the right call with one change.
void check_error(const std::string& name, const Run& run, const Change& change,
                 const std::vector<std::string>& fragments,
                 ErrorCode code = ErrorCode::invalid_argument) {
  const BackwardCase c = right();
  const Inputs inputs = make_inputs(c.call);
  Outputs forward = run_forward(c, inputs);
  const GradientInputs gradients = make_gradient_inputs(c);
  GradientOutputs outputs = make_gradient_outputs(c);
  Call call{bind(inputs, forward), bind(gradients, outputs), c.call.options};
  change(call);
  Error error(ErrorCode::io, "no error");
  try {
    run(call);
  } catch (const Error& thrown) {
    error = thrown;
  }
  INFO(name, ": ", error.what());
  CHECK(error.code() == code);
  for (const std::string& fragment : fragments) {
    CAPTURE(fragment);
    CHECK(std::string(error.what()).find(fragment) != std::string::npos);
  }
  for (const Gradient gradient : all_gradients) CHECK(outputs[gradient].untouched());
}

/// What only the data can tell, which a plan does not read.
void check_rejected_run(const Change& change, const std::vector<std::string>& fragments,
                        ErrorCode code = ErrorCode::invalid_argument) {
  check_error("attention_backward", run_engine, change, fragments, code);
  check_error("attention_backward_reference", run_reference, change, fragments, code);
}
void check_rejected(const Change& change, const std::vector<std::string>& fragments,
                    ErrorCode code = ErrorCode::invalid_argument) {
  check_rejected_run(change, fragments, code);
  check_error("AttentionBackwardPlan", make_plan, change, fragments, code);
}
/// The reference computes O and lse again, and takes f64.
void check_rejected_by_engine(const Change& change, const std::vector<std::string>& fragments) {
  check_error("attention_backward", run_engine, change, fragments);
  check_error("AttentionBackwardPlan", make_plan, change, fragments);
}

template <class View>
View retyped(View view, DType dtype) {
  view.dtype = dtype;
  return view;
}

}  // namespace

TEST_CASE("The call is right before it is changed") {
  const BackwardCase c = right();
  const Inputs inputs = make_inputs(c.call);
  const GradientOutputs outputs =
      run_backward(c, inputs, make_gradient_inputs(c), run_forward(c, inputs));
  for (const Gradient gradient : all_gradients) CHECK_FALSE(outputs[gradient].untouched());
}

TEST_CASE("What the forward refuses") {
  check_rejected([](Call& c) { c.tensors.q = {}; }, {"q"});
  check_rejected([](Call& c) { c.tensors.v = c.tensors.v.sliced(2, 0, 4); },
                 {"v", "dim 2", "4", "5", "kv_len"});
  check_rejected([](Call& c) { c.options.softcap = 0.f; }, {"softcap"});
  check_rejected([](Call& c) { c.options.softmax_scale = NAN; }, {"softmax_scale"});
  check_rejected([](Call& c) { c.execution.num_threads = 0; }, {"num_threads", "0"});
  const std::int64_t too_long[] = {5, 6};
  check_rejected_run([&](Call& c) { c.tensors.kv_lens.data = too_long; }, {"kv_lens[1]", "6", "5"});
}

TEST_CASE("O and lse of the forward: softmax needs both") {
  check_rejected_by_engine([](Call& c) { c.tensors.out = {}; }, {"out", "missing"});
  check_rejected_by_engine([](Call& c) { c.tensors.lse = {}; }, {"lse", "missing"});
  check_rejected([](Call& c) { c.tensors.out = c.tensors.out.sliced(3, 0, 5); },
                 {"out", "dim 3", "5", "6"});
  check_rejected([](Call& c) { c.tensors.lse = c.tensors.lse.sliced(2, 0, 2); },
                 {"lse", "dim 2", "2", "3"});
  check_rejected([](Call& c) { c.tensors.lse = retyped(c.tensors.lse, DType::f16); },
                 {"lse", "f16", "f32"});
}

TEST_CASE("dout is missing, of another shape or no float") {
  check_rejected([](Call& c) { c.gradients.dout = {}; }, {"dout", "missing"});
  check_rejected([](Call& c) { c.gradients.dout = c.gradients.dout.sliced(3, 0, 5); },
                 {"dout", "[2, 4, 3, 5]", "[2, 4, 3, 6]"});
  check_rejected([](Call& c) { c.gradients.dout.dtype = DType::i32; }, {"dout", "i32", "f32"});
  check_rejected_by_engine([](Call& c) { c.gradients.dout.dtype = DType::f64; },
                           {"dout", "f64", "f32"});
}

TEST_CASE("dlse of another shape or type, or of what has no lse") {
  check_rejected([](Call& c) { c.gradients.dlse = c.gradients.dlse.sliced(1, 0, 2); },
                 {"dlse", "[2, 2, 3]", "[2, 4, 3]"});
  check_rejected([](Call& c) { c.gradients.dlse.dtype = DType::bf16; }, {"dlse", "bf16", "f32"});
  for (const Normalizer& normalizer : {Normalizer::sparsemax(), Normalizer::entmax(1.5f)}) {
    check_rejected(
        [&](Call& c) {
          c.options.normalizer = normalizer;
          c.tensors.lse = {};
        },
        {"dlse", normalizer.to_string(), "softmax"});
  }
}

TEST_CASE("Gradients of another shape than their tensor") {
  check_rejected([](Call& c) { c.gradients.dq = c.gradients.dq.sliced(2, 0, 2); },
                 {"dq", "[2, 4, 2, 8]", "[2, 4, 3, 8]"});
  check_rejected([](Call& c) { c.gradients.dk = c.gradients.dk.sliced(1, 0, 1); },
                 {"dk", "[2, 1, 5, 8]", "[2, 2, 5, 8]"});
  check_rejected([](Call& c) { c.gradients.dv = c.gradients.dv.sliced(3, 0, 5); },
                 {"dv", "[2, 2, 5, 5]", "[2, 2, 5, 6]"});
  check_rejected([](Call& c) { c.gradients.dmask = c.gradients.dmask.sliced(0, 0, 1); },
                 {"dmask", "[1, 4, 3, 5]", "[2, 4, 3, 5]"});
  check_rejected([](Call& c) { c.gradients.dalibi = c.gradients.dalibi.sliced(0, 0, 3); },
                 {"dalibi", "[3]", "[4]"});
  check_rejected([](Call& c) { c.gradients.dsinks = c.gradients.dsinks.sliced(0, 0, 3); },
                 {"dsinks", "[3]", "[4]"});
}

TEST_CASE("Gradients of another type") {
  for (MutableTensorView AttentionGradients::*member :
       {&AttentionGradients::dq, &AttentionGradients::dk, &AttentionGradients::dv}) {
    check_rejected([&](Call& c) { (c.gradients.*member).dtype = DType::i32; }, {"i32", "f32"});
    check_rejected_by_engine([&](Call& c) { (c.gradients.*member).dtype = DType::f64; },
                             {"f64", "f32"});
  }
  for (MutableTensorView AttentionGradients::*member :
       {&AttentionGradients::dmask, &AttentionGradients::dalibi, &AttentionGradients::dsinks}) {
    check_rejected([&](Call& c) { (c.gradients.*member).dtype = DType::bf16; }, {"bf16", "f32"});
    check_rejected_by_engine([&](Call& c) { (c.gradients.*member).dtype = DType::f64; },
                             {"f64", "f32"});
  }
}

TEST_CASE("Gradients of what the call does not have") {
  check_rejected([](Call& c) { c.tensors.mask = {}; }, {"dmask", "mask"});
  check_rejected(
      [](Call& c) {
        c.tensors.mask = {c.tensors.mask.data, DType::boolean, c.tensors.mask.shape};
      },
      {"dmask", "additive mask"});
  check_rejected([](Call& c) { c.tensors.alibi_slopes = {}; }, {"dalibi", "alibi_slopes"});
  check_rejected([](Call& c) { c.tensors.sinks = {}; }, {"dsinks", "sinks"});
}

TEST_CASE("score_mod without its derivative, and a derivative without it") {
  check_rejected([](Call& c) { c.options.score_mod = [](const KeyRun&, float*) {}; },
                 {"score_mod", "score_mod_gradient"});
  check_rejected(
      [](Call& c) { c.options.score_mod_gradient = [](const KeyRun&, const float*, float*) {}; },
      {"score_mod_gradient", "without score_mod"});
}

TEST_CASE("Keys that have no gradients: in pages, in rings, of i8") {
  const std::int32_t pages[] = {0, 1};
  const std::int64_t starts[] = {0, 0};
  check_rejected(
      [&](Call& c) {
        c.tensors.storage.layout = Paged{TensorView(pages, {2, 1})};
      },
      {"pages"}, ErrorCode::unsupported);
  check_rejected([&](Call& c) { c.tensors.storage.layout = Ring{TensorView(starts, {2})}; },
                 {"rings"}, ErrorCode::unsupported);
  const std::vector<float> scales(20, 1.f);
  check_rejected(
      [&](Call& c) {
        c.tensors.k.dtype = c.tensors.v.dtype = DType::i8;
        c.tensors.storage.k_scales = c.tensors.storage.v_scales = {scales.data(), {2, 2, 5}};
      },
      {"i8"}, ErrorCode::unsupported);
}

TEST_CASE("Null data where there are elements") {
  check_rejected_run([](Call& c) { c.gradients.dout.data = nullptr; }, {"dout", "null"});
  check_rejected_run([](Call& c) { c.gradients.dlse.data = nullptr; }, {"dlse", "null"});
  check_rejected_run([](Call& c) { c.gradients.dq.data = nullptr; }, {"dq", "null"});
  check_rejected_run([](Call& c) { c.gradients.dk.data = nullptr; }, {"dk", "null"});
  check_rejected_run([](Call& c) { c.gradients.dv.data = nullptr; }, {"dv", "null"});
  check_rejected_run([](Call& c) { c.gradients.dmask.data = nullptr; }, {"dmask", "null"});
  check_rejected_run([](Call& c) { c.gradients.dalibi.data = nullptr; }, {"dalibi", "null"});
  check_rejected_run([](Call& c) { c.gradients.dsinks.data = nullptr; }, {"dsinks", "null"});
}

TEST_CASE("Outputs with two elements in one place") {
  check_rejected_run([](Call& c) { c.gradients.dq.strides[2] = 0; }, {"dq"});
  check_rejected_run([](Call& c) { c.gradients.dk.strides[3] = 0; }, {"dk"});
  check_rejected_run([](Call& c) { c.gradients.dv.strides[1] = 1; }, {"dv"});
  check_rejected_run([](Call& c) { c.gradients.dmask.strides[0] = 0; }, {"dmask"});
  check_rejected_run([](Call& c) { c.gradients.dalibi.strides[0] = 0; }, {"dalibi"});
  check_rejected_run([](Call& c) { c.gradients.dsinks.strides[0] = 0; }, {"dsinks"});
}

TEST_CASE("A plan refuses other tensors than it was made for, and small workspaces") {
  const auto run_plan = [](const Change& change) {
    return [change](const Call& call) {
      const AttentionBackwardPlan plan(call.tensors, call.gradients, call.options);
      Workspace workspace(plan.workspace_size());
      Call other = call;
      change(other);
      plan.run(other.tensors, other.gradients, workspace);
    };
  };
  const Change nothing = [](Call&) {};
  check_error("plan", run_plan([](Call& c) { c.gradients.dq = {}; }), nothing, {"dq", "plan"});
  check_error("plan", run_plan([](Call& c) { c.gradients.dlse = {}; }), nothing, {"dlse", "plan"});
  check_error("plan", run_plan([](Call& c) { c.gradients.dv.dtype = DType::bf16; }), nothing,
              {"dv", "bf16", "f32"});
  check_error("plan", run_plan([](Call& c) { c.tensors.q = c.tensors.q.sliced(2, 0, 2); }), nothing,
              {"q", "plan"});
  check_error("workspace",
              [](const Call& call) {
                const AttentionBackwardPlan plan(call.tensors, call.gradients, call.options);
                Workspace workspace(plan.workspace_size() - 1);
                plan.run(call.tensors, call.gradients, workspace);
              },
              nothing, {"workspace"});
}
