#include <attn/loss.hpp>
#include <attn/regression.hpp>
#include <attn/sample.hpp>
#include <attn/softmax.hpp>

#include "support/entries.hpp"

namespace attn::test {
namespace {

const Dims shape{3, 4, 5}, reduced{3, 4};

Argument in(const char* name) { return {name, DType::f32, shape}; }
Argument out(const char* name) { return {name, DType::f32, shape, true}; }
Argument reduced_in(const char* name) { return {name, DType::f32, reduced}; }
Argument reduced_out(const char* name, DType dtype = DType::f32) {
  return {name, dtype, reduced, true};
}

std::vector<Entry> loss_entries() {
  const Dims x_shape{4, 6, 3}, slices{4, 3};
  const Argument logits{"x", DType::f32, x_shape}, target{"target", DType::i64, slices},
      distributions{"target", DType::f16, x_shape}, weight{"weight", DType::f32, {6}},
      loss{"loss", DType::f32, slices, true}, dloss{"dloss", DType::f32, slices},
      dx{"dx", DType::f32, x_shape, true};
  const auto options = [](const TensorView& weights) {
    return LossOptions{.weight = weights, .reduction = Reduction::none};
  };
  const std::vector<Argument> forward{logits, target, loss, weight},
      backward{dloss, logits, target, dx, weight};
  return {{"nll_loss", forward, [=](const Views& t) { nll_loss(t[0], t[1], t[2], options(t[3])); }},
          {"cross_entropy", forward,
           [=](const Views& t) { cross_entropy(t[0], t[1], t[2], options(t[3])); }},
          {"cross_entropy, one number",
           {logits, distributions, {"loss", DType::f32, {}, true}},
           [](const Views& t) { cross_entropy(t[0], t[1], t[2]); }},
          {"entmax_loss", forward,
           [=](const Views& t) { entmax_loss(t[0], t[1], t[2], 1.5f, options(t[3])); }},
          {"nll_loss_backward",
           {dloss, target, dx, weight},
           [=](const Views& t) { nll_loss_backward(t[0], t[1], t[2], options(t[3])); }},
          {"cross_entropy_backward", backward,
           [=](const Views& t) { cross_entropy_backward(t[0], t[1], t[2], t[3], options(t[4])); }},
          {"cross_entropy_backward, one number",
           {{"dloss", DType::f32, {}}, logits, distributions, dx},
           [](const Views& t) { cross_entropy_backward(t[0], t[1], t[2], t[3]); }},
          {"entmax_loss_backward", backward, [=](const Views& t) {
             entmax_loss_backward(t[0], t[1], t[2], t[3], 1.5f, options(t[4]));
           }}};
}

}  // namespace

std::vector<Entry> softmax_entries() {
  std::vector<Entry> entries = loss_entries();
  const std::vector<Entry> others = {
      {"softmax", {in("x"), out("y")}, [](const Views& t) { softmax(t[0], t[1]); }},
      {"log_softmax", {in("x"), out("y")}, [](const Views& t) { log_softmax(t[0], t[1], 0); }},
      {"logsumexp", {in("x"), reduced_out("out")}, [](const Views& t) { logsumexp(t[0], t[1]); }},
      {"softmax_backward",
       {in("dy"), in("y"), out("dx")},
       [](const Views& t) { softmax_backward(t[0], t[1], t[2]); }},
      {"log_softmax_backward",
       {in("dy"), in("y"), out("dx")},
       [](const Views& t) { log_softmax_backward(t[0], t[1], t[2]); }},
      {"logsumexp_backward",
       {reduced_in("dout"), in("x"), reduced_in("out"), out("dx")},
       [](const Views& t) { logsumexp_backward(t[0], t[1], t[2], t[3]); }},
      {"sparsemax",
       {in("x"), out("y"), reduced_out("tau"), reduced_out("support", DType::i64)},
       [](const Views& t) { sparsemax(t[0], t[1], -1, {.tau = t[2], .support = t[3]}); }},
      {"entmax_backward",
       {in("dy"), in("y"), out("dx")},
       [](const Views& t) { entmax_backward(t[0], t[1], t[2], 1.5f); }},
      {"entmax_backward_alpha",
       {in("dy"), in("y"), reduced_out("dalpha")},
       [](const Views& t) { entmax_backward_alpha(t[0], t[1], t[2], 1.5f); }},
      {"SoftmaxRegression",
       {{"weight", DType::f32, {2, 5}}, {"bias", DType::f32, {2}}},
       [](const Views& t) { SoftmaxRegression(t[0], t[1]); }},
      {"SoftmaxRegression::fit",
       {{"input", DType::f64, {4, 5}}, {"target", DType::i64, {4}, false, {0, 1, 1, 0}}},
       [](const Views& t) { SoftmaxRegression::fit(t[0], t[1]); }},
      {"SoftmaxRegression::predict",
       {{"input", DType::f32, {4, 5}}, {"out", DType::f32, {4, 2}, true}},
       [](const Views& t) {
         const std::vector<float> zeros(10);
         SoftmaxRegression({zeros.data(), {2, 5}}, {zeros.data(), {2}}).predict(t[0], t[1]);
       }},
      {"calibrate_temperature",
       {{"logits", DType::f32, {4, 5}}, {"target", DType::i64, {4}}},
       [](const Views& t) { calibrate_temperature(t[0], t[1]); }},
      {"calibration_bins",
       {{"probabilities", DType::f32, {4, 5}}, {"target", DType::i64, {4}}},
       [](const Views& t) { calibration_bins(t[0], t[1]); }},
      {"sample", {in("logits"), {"indices", DType::i64, {3, 4, 2}, true}}, [](const Views& t) {
         sample(t[0], t[1]);
       }}};
  entries.insert(entries.end(), others.begin(), others.end());
  return entries;
}

}  // namespace attn::test
