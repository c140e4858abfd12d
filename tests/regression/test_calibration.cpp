// Calibration: bins and their error by hand, temperatures against a scan, and where none is best.
#include <attn/regression.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

using Values = std::vector<double>;
using Classes = std::vector<std::int64_t>;

struct Logits {
  std::int64_t rows, classes;
  Values z;
  Classes target;

  TensorView view() const { return {z.data(), {rows, classes}}; }
  TensorView targets() const { return {target.data(), {rows}}; }
  TemperatureCalibration calibrate(const Execution& execution = {}) const {
    return calibrate_temperature(view(), targets(), execution);
  }
};

/// Logits whose best temperature is near `temperature`: targets are drawn from softmax(z / T).
Logits drawn(std::int64_t rows, std::int64_t classes, double temperature, std::uint64_t seed) {
  Random random(seed);
  Logits logits{rows, classes, {}, {}};
  for (std::int64_t row = 0; row < rows; ++row) {
    Values noisy;
    for (std::int64_t c = 0; c < classes; ++c) {
      const double z = 3 * random.normal();
      logits.z.push_back(z);
      noisy.push_back(z / temperature - std::log(-std::log(1 - random.uniform())));
    }
    logits.target.push_back(std::max_element(noisy.begin(), noisy.end()) - noisy.begin());
  }
  return logits;
}

double likelihood(const Logits& logits, double temperature) {
  double sum = 0;
  for (std::int64_t row = 0; row < logits.rows; ++row) {
    const double* const z = logits.z.data() + row * logits.classes;
    const double most = *std::max_element(z, z + logits.classes);
    double exponentials = 0;
    for (std::int64_t c = 0; c < logits.classes; ++c)
      exponentials += std::exp((z[c] - most) / temperature);
    sum += std::log(exponentials) -
           (z[logits.target[static_cast<std::size_t>(row)]] - most) / temperature;
  }
  return sum / static_cast<double>(logits.rows);
}

double error_of(const Values& p, const Classes& target, std::int64_t classes,
                std::int64_t bins = 15) {
  const auto rows = static_cast<std::int64_t>(target.size());
  return expected_calibration_error({p.data(), {rows, classes}}, {target.data(), {rows}}, bins);
}

}  // namespace

TEST_CASE("bins and their error by hand") {
  // Confidences 0.9, 0.9, 0.6, 1, 0.5 (a tie: class 0 counts).
  const Values p = {0.9, 0.1, 0.1, 0.9, 0.6, 0.4, 0, 1, 0.5, 0.5};
  const Classes target = {0, 0, 0, 1, 1};
  const std::vector<CalibrationBin> bins =
      calibration_bins({p.data(), {5, 2}}, {target.data(), {5}}, 10);
  REQUIRE(bins.size() == 10);
  // 0.9, 0.9 and 1 share the last bin: [0.9, 1].
  CHECK(bins[9].rows == 3);
  CHECK(bins[9].confidence == doctest::Approx(2.8 / 3));
  CHECK(bins[9].accuracy == doctest::Approx(2. / 3));
  CHECK(bins[6].rows == 1);
  CHECK(bins[6].confidence == 0.6);
  CHECK(bins[6].accuracy == 1);
  CHECK(bins[5].rows == 1);
  CHECK(bins[5].accuracy == 0);
  CHECK(bins[0].rows == 0);
  CHECK(bins[0].confidence == 0);
  const double wanted = (std::abs(2 - 2.8) + std::abs(1 - 0.6) + std::abs(0 - 0.5)) / 5;
  CHECK(expected_calibration_error(bins) == doctest::Approx(wanted));
  CHECK(error_of(p, target, 2, 10) == doctest::Approx(wanted));
  // One bin compares the means.
  CHECK(error_of(p, target, 2, 1) == doctest::Approx(std::abs(3. - 3.9) / 5));
}

TEST_CASE("ends of bins") {
  // A bin has its lower end: 1 / 3 = 5 / 15 and 0.2 = 3 / 15 begin bins; 1 is in the last.
  const Values p = {1. / 3, 1. / 3, 1. / 3, 0, 0, 1};
  const Classes target = {0, 2};
  const auto bins = calibration_bins({p.data(), {2, 3}}, {target.data(), {2}});
  CHECK(bins[5].rows == 1);
  CHECK(bins[14].rows == 1);
  const Values fifths(5, 0.2);
  const std::int64_t zero = 0;
  CHECK(calibration_bins({fifths.data(), {1, 5}}, {&zero, {1}})[3].rows == 1);
  CHECK(expected_calibration_error(std::vector<CalibrationBin>{}) == 0);
  CHECK(expected_calibration_error({p.data(), {0, 3}}, {target.data(), {0}}) == 0);
}

TEST_CASE("the temperature is the best of a scan, for any scale of logits") {
  for (const double temperature : {0.2, 1., 5.}) {
    for (const double scale : {1., 1e-30, 1e30, 1e-300, 1e300}) {
      CAPTURE(temperature);
      CAPTURE(scale);
      Logits logits = drawn(700, 4, temperature, 5);
      for (double& z : logits.z) z *= scale;
      const TemperatureCalibration found = logits.calibrate();
      CHECK(found.status == CalibrationStatus::best);
      CHECK(found.temperature / scale == doctest::Approx(temperature).epsilon(0.3));
      CHECK(found.nll_after <= found.nll_before);
      CHECK(found.nll_after ==
            doctest::Approx(likelihood(logits, found.temperature)).epsilon(1e-12));
      for (double factor = 0.5; factor < 2; factor *= 1.01)
        CHECK(likelihood(logits, found.temperature * factor) >= found.nll_after - 1e-14);
      // The loss is flat to its rounding within 1e-7, so the slope has to tell that it is the best.
      const double step = 1e-4 * found.temperature;
      CHECK(likelihood(logits, found.temperature + step) > found.nll_after);
      CHECK(likelihood(logits, found.temperature - step) > found.nll_after);
    }
  }
}

TEST_CASE("a temperature that is known") {
  // Two of three rows right by the same distance d: sigmoid(d / T) = 2 / 3.
  const Logits logits{3, 2, {1, 0, 1, 0, 1, 0}, {0, 0, 1}};
  const TemperatureCalibration found = logits.calibrate();
  CHECK(std::abs(found.temperature - 1 / std::log(2)) < 1e-14);
  CHECK(found.nll_before == doctest::Approx(likelihood(logits, 1)).epsilon(1e-14));
  CHECK(expected_calibration_error(found.bins_after) < 1e-14);
  const double confidence = 1 / (1 + std::exp(-1));
  CHECK(expected_calibration_error(found.bins_before) == doctest::Approx(confidence - 2. / 3));
}

TEST_CASE("the bits are the same for any number of threads and any layout") {
  const Logits logits = drawn(20000, 5, 2, 8);
  const TemperatureCalibration once = logits.calibrate({.num_threads = 1});
  const auto same = [&](const TemperatureCalibration& other) {
    return std::memcmp(&other.temperature, &once.temperature, sizeof(double)) == 0 &&
           other.nll_before == once.nll_before && other.nll_after == once.nll_after &&
           expected_calibration_error(other.bins_after) ==
               expected_calibration_error(once.bins_after);
  };
  for (const int threads : {2, 5, 16}) CHECK(same(logits.calibrate({.num_threads = threads})));
  for (const Isa isa : available_isas()) CHECK(same(logits.calibrate({.isa = isa})));
  StridedTensor strided(DType::f64, {logits.rows, logits.classes}, Layout::padded);
  strided.assign(logits.z);
  CHECK(same(calibrate_temperature(std::as_const(strided).view(), logits.targets())));
}

TEST_CASE("all rows right: less is always better") {
  for (const double scale : {1e-300, 1., 1e300}) {
    CAPTURE(scale);
    const Logits logits{2, 3, {2 * scale, scale, 0, -scale, 0, -scale}, {0, 1}};
    const TemperatureCalibration found = logits.calibrate();
    CHECK(found.status == CalibrationStatus::all_right);
    CHECK(std::isfinite(found.temperature));
    CHECK(found.temperature > 0);
    CHECK(found.nll_after <= found.nll_before);
    CHECK(found.nll_after < 1e-6);
  }
  // A tie counts as right, but leaves log 2.
  const Logits tie{2, 2, {1, 1, 1, 0}, {1, 0}};
  CHECK(tie.calibrate().status == CalibrationStatus::all_right);
  CHECK(tie.calibrate().nll_after == doctest::Approx(std::log(2) / 2));
}

TEST_CASE("no better than chance: more is always better, or nothing matters") {
  for (const double scale : {1e-300, 1., 1e300}) {
    CAPTURE(scale);
    const Logits wrong{2, 2, {scale, 0, 0, scale}, {1, 0}};
    const TemperatureCalibration found = wrong.calibrate();
    CHECK(found.status == CalibrationStatus::none_is_better);
    CHECK(std::isfinite(found.temperature));
    CHECK(found.nll_after <= found.nll_before);
    CHECK(found.nll_after == doctest::Approx(std::log(2)).epsilon(1e-5));
  }
  // As many right as wrong, by logits that have no exact sum.
  const Logits even{3, 3, {0.1, 0, 0.3, 0.1, 0, 0.3, 0.1, 0, 0.3}, {0, 1, 2}};
  CHECK(even.calibrate().status == CalibrationStatus::none_is_better);
  const Logits equal{2, 3, {4, 4, 4, -1, -1, -1}, {0, 2}};
  const TemperatureCalibration found = equal.calibrate();
  CHECK(found.status == CalibrationStatus::none_is_better);
  CHECK(found.temperature == 1);
  CHECK(found.nll_before == doctest::Approx(std::log(3)));
  CHECK(found.nll_after == found.nll_before);
}

TEST_CASE("logits at the ends of the range, and of very different sizes") {
  constexpr double most = std::numeric_limits<double>::max(), least = 5e-324;
  for (const Logits& logits :
       {Logits{3, 2, {most, -most, most, -most, most, -most}, {0, 0, 1}},
        Logits{3, 2, {least, 0, least, 0, least, 0}, {0, 0, 1}}, Logits{1, 2, {most, -most}, {1}},
        Logits{1, 2, {most, -most}, {0}}, Logits{4, 2, {1e300, 0, 1, 0, 1, 0, 1, 0}, {0, 0, 0, 1}},
        Logits{3, 2, {1, 0, 1e-200, 0, 1, 0}, {0, 1, 0}},
        Logits{3, 2, {1e150, 0, 0, 1e-150, 1, 0}, {0, 0, 0}}}) {
    CAPTURE(logits.z[0]);
    const TemperatureCalibration found = logits.calibrate();
    CHECK(std::isfinite(found.temperature));
    CHECK(found.temperature > 0);
    CHECK(std::isfinite(found.nll_before));
    CHECK(found.nll_after <= found.nll_before);
    std::int64_t rows = 0;
    for (const CalibrationBin& bin : found.bins_after) rows += bin.rows;
    CHECK(rows == logits.rows);
  }
}
