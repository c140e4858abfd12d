// One attention layer learns to copy: plain gradient descent through the public functions alone.
//
// Each sequence is a row of random tokens, and the target of every position is the token at the
// position opposite to it. Positions are told apart by fixed random vectors; the layer has to learn
// queries and keys that let each position find its opposite, and values from which the token
// follows:
//
//   q = positions Wq, k = positions Wk, v = tokens Wv        scores of the tokens = attention(q, k,
//   v)
//
// The keys are attended to in two halves, whose states are merged, as parts on two machines would
// be. The gradient of a half is that of attention_backward() with O and lse of the whole.
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "support/random.hpp"

using namespace attn;
using attn::test::Random;

namespace {

constexpr std::int64_t batch = 8, length = 16, dim = 16, classes = 6, half = length / 2;

/// A dense matrix.
struct Matrix {
  Matrix(std::int64_t number_of_rows, std::int64_t number_of_columns)
      : rows(number_of_rows),
        columns(number_of_columns),
        values(static_cast<std::size_t>(rows * columns)) {}
  float& operator()(std::int64_t r, std::int64_t c) {
    return values[static_cast<std::size_t>(r * columns + c)];
  }
  float operator()(std::int64_t r, std::int64_t c) const {
    return values[static_cast<std::size_t>(r * columns + c)];
  }
  /// As [entries, 1, rows / entries, columns].
  MutableTensorView view(std::int64_t entries) {
    return {values.data(), DType::f32, {entries, 1, rows / entries, columns}};
  }

  std::int64_t rows, columns;
  std::vector<float> values;
};

Matrix random_matrix(std::int64_t rows, std::int64_t columns, double deviation, Random& random) {
  Matrix matrix(rows, columns);
  for (float& value : matrix.values) value = static_cast<float>(deviation * random.normal());
  return matrix;
}

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.columns);
  for (std::int64_t r = 0; r < a.rows; ++r) {
    for (std::int64_t k = 0; k < a.columns; ++k) {
      for (std::int64_t n = 0; n < b.columns; ++n) c(r, n) += a(r, k) * b(k, n);
    }
  }
  return c;
}

/// w -= rate * x^T dy, the gradient of w in y = x w.
void descend(Matrix& w, const Matrix& x, const Matrix& dy, float rate) {
  for (std::int64_t k = 0; k < w.rows; ++k) {
    for (std::int64_t n = 0; n < w.columns; ++n) {
      float gradient = 0;
      for (std::int64_t r = 0; r < x.rows; ++r) gradient += x(r, k) * dy(r, n);
      w(k, n) -= rate * gradient;
    }
  }
}

class CopyTask {
 public:
  explicit CopyTask(std::uint64_t seed)
      : random_(seed),
        positions_(batch * length, length),
        tokens_(batch * length, classes),
        targets_(static_cast<std::size_t>(batch * length)),
        wq_(random_matrix(length, dim, 1, random_)),
        wk_(random_matrix(length, dim, 1, random_)),
        wv_(random_matrix(classes, classes, 1, random_)) {
    for (std::int64_t row = 0; row < batch * length; ++row) {
      positions_(row, row % length) = 1;
      const std::int64_t token = random_.integer(0, classes - 1);
      tokens_(row, token) = 1;
      const std::int64_t entry = row / length, opposite = length - 1 - row % length;
      targets_[static_cast<std::size_t>(entry * length + opposite)] = token;
    }
  }

  /// The loss, before one step of gradient descent.
  float step(float rate) {
    Matrix q = product(positions_, wq_), k = product(positions_, wk_), v = product(tokens_, wv_);
    Matrix out(batch * length, classes), lse(batch, length);
    attend(q, k, v, out, lse);
    Matrix dout(batch * length, classes);
    const float loss = loss_of(out, dout);
    Matrix dq(batch * length, dim), dk = dq, dv(batch * length, classes);
    differentiate(q, k, v, out, lse, dout, dq, dk, dv);
    descend(wq_, positions_, dq, rate);
    descend(wk_, positions_, dk, rate);
    descend(wv_, tokens_, dv, rate);
    return loss;
  }

 private:
  static AttentionTensors tensors_of(Matrix& q, Matrix& k, Matrix& v, Matrix& out, Matrix& lse,
                                     std::int64_t part) {
    const std::int64_t first = part * half;
    return {.q = q.view(batch),
            .k = k.view(batch).sliced(2, first, first + half),
            .v = v.view(batch).sliced(2, first, first + half),
            .out = out.view(batch),
            .lse = {lse.values.data(), DType::f32, {batch, 1, length}}};
  }

  static void attend(Matrix& q, Matrix& k, Matrix& v, Matrix& out, Matrix& lse) {
    const AttentionState whole{out.view(batch),
                               {lse.values.data(), DType::f32, {batch, 1, length}}};
    clear(whole);
    for (std::int64_t part = 0; part < 2; ++part) {
      Matrix part_out(batch * length, classes), part_lse(batch, length);
      const AttentionTensors tensors = tensors_of(q, k, v, part_out, part_lse, part);
      attention(tensors);
      merge(whole, AttentionState{tensors.out, tensors.lse});
    }
  }

  static void differentiate(Matrix& q, Matrix& k, Matrix& v, Matrix& out, Matrix& lse, Matrix& dout,
                            Matrix& dq, Matrix& dk, Matrix& dv) {
    for (std::int64_t part = 0; part < 2; ++part) {
      Matrix part_dq(batch * length, dim);
      const std::int64_t first = part * half;
      attention_backward(tensors_of(q, k, v, out, lse, part),
                         {.dout = dout.view(batch),
                          .dq = part_dq.view(batch),
                          .dk = dk.view(batch).sliced(2, first, first + half),
                          .dv = dv.view(batch).sliced(2, first, first + half)});
      for (std::size_t n = 0; n < dq.values.size(); ++n) dq.values[n] += part_dq.values[n];
    }
  }

  float loss_of(Matrix& out, Matrix& dout) {
    const TensorView x{out.values.data(), DType::f32, {batch * length, classes}};
    const TensorView target{targets_.data(), DType::i64, {batch * length}};
    float loss = 0, one = 1;
    cross_entropy(x, target, {&loss, DType::f32, Dims{}});
    cross_entropy_backward({&one, DType::f32, Dims{}}, x, target,
                           {dout.values.data(), DType::f32, {batch * length, classes}});
    return loss;
  }

  Random random_;
  Matrix positions_, tokens_;
  std::vector<std::int64_t> targets_;
  Matrix wq_, wk_, wv_;
};

}  // namespace

TEST_CASE("A layer learns to copy what stands opposite") {
  for (const std::uint64_t seed : {1, 2}) {
    CAPTURE(seed);
    constexpr float rate = 5;
    CopyTask task(seed);
    const float first = task.step(rate);
    float loss = first;
    for (int n = 0; n < 2000 && loss > 0.01f; ++n) loss = task.step(rate);
    CHECK(first > 1);
    CHECK(loss <= 0.01f);
  }
}
