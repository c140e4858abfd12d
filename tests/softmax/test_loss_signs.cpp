// Losses of probabilities near 1, where rounding could lead below 0.
#include <attn/isa.hpp>
#include <attn/loss.hpp>
#include <attn/softmax.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

using namespace attn;

TEST_CASE("No loss is below 0, and none is -0") {
  const std::int64_t slices = 600, classes = 3;
  std::vector<float> x, one, loss(slices), log_p(slices * classes);
  std::vector<std::int64_t> target, first(slices);
  for (std::int64_t n = 0; n < slices; ++n) {
    const float greatest = static_cast<float>(n - slices / 2) * 0.37f;
    one.push_back(greatest);
    target.push_back(n % classes);
    for (std::int64_t c = 0; c < classes; ++c)
      x.push_back(c == n % classes ? greatest : greatest - 90);
  }
  const TensorView logits(x.data(), {slices, classes}), alone(one.data(), {slices, 1}),
      targets(target.data(), {slices}), only(first.data(), {slices});
  const auto check = [&](const char* name) {
    CAPTURE(name);
    CHECK(std::count_if(loss.begin(), loss.end(),
                        [](float value) { return std::signbit(value) || std::isnan(value); }) == 0);
  };
  const MutableTensorView losses(loss.data(), {slices});
  for (const Isa isa : available_isas()) {
    const Execution execution{.isa = isa};
    for (const float smoothing : {0.f, 0.1f, 1.f}) {
      const LossOptions options{.label_smoothing = smoothing, .reduction = Reduction::none};
      cross_entropy(logits, targets, losses, options, execution);
      check("cross_entropy");
      cross_entropy(alone, only, losses, options, execution);
      check("cross_entropy of one class");
      entmax_loss(logits, targets, losses, 1, options, execution);
      check("entmax_loss, alpha 1");
      log_softmax(logits, {log_p.data(), {slices, classes}}, 1, 1, execution);
      nll_loss(TensorView(log_p.data(), {slices, classes}), targets, losses, options, execution);
      check("nll_loss");
      log_softmax(alone, {log_p.data(), {slices, 1}}, 1, 1, execution);
      nll_loss(TensorView(log_p.data(), {slices, 1}), only, losses, options, execution);
      check("nll_loss of one class");
      CHECK(std::count(loss.begin(), loss.end(), 0.f) == slices);
    }
  }
}
