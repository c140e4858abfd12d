// The softmax family, losses, draws, norms, activations and rotary positions by the C interface:
// the bits of the C++ library.
#include <attn/attn.h>
#include <attn/attn.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/c_calls.hpp"
#include "support/random.hpp"
#include "support/strided_tensor.hpp"

using namespace attn;
using namespace attn::test;

namespace {

/// Normal numbers, or positive ones.
StridedTensor numbers(std::uint64_t seed, const Dims& shape, DType dtype = DType::f32,
                      bool positive = false) {
  Random random(seed);
  StridedTensor tensor(dtype, shape, Layout::padded);
  std::vector<double> values(static_cast<std::size_t>(shape.product()));
  for (double& value : values) value = positive ? random.uniform() : random.normal();
  tensor.assign(values);
  return tensor;
}

StridedTensor classes(std::uint64_t seed, const Dims& shape, std::int64_t count) {
  Random random(seed);
  StridedTensor tensor(DType::i64, shape);
  for_each_index(shape, [&](const Dims& at) {
    tensor.set(at, static_cast<double>(random.integer(0, count - 1)));
  });
  return tensor;
}

/// An output, filled by the C++ library and by the C interface.
class Twice {
 public:
  explicit Twice(const Dims& shape, DType dtype = DType::f32)
      : wanted_(dtype, shape), got_(dtype, shape), tensor_(c_tensor(got_.view())) {}
  ~Twice() { CHECK(got_.bits() == wanted_.bits()); }
  Twice(const Twice&) = delete;
  Twice& operator=(const Twice&) = delete;

  MutableTensorView wanted() { return wanted_.view(); }
  const attn_tensor* c() const { return &tensor_; }

 private:
  StridedTensor wanted_, got_;
  attn_tensor tensor_;
};

const Dims shape{3, 5, 7};
const Dims without_last{3, 5};

}  // namespace

TEST_CASE("Tensors are made and copied") {
  const float values[6] = {1, 2, 3, 4, 5, 6};
  attn_tensor tensor;
  const std::int64_t extents[2] = {2, 3};
  REQUIRE_OK(attn_dense_tensor(&tensor, values, ATTN_F32, 2, extents));
  CHECK(tensor.data == values);
  CHECK(tensor.dtype == ATTN_F32);
  CHECK(tensor.rank == 2);
  CHECK(tensor.shape[1] == 3);
  CHECK(tensor.strides[0] == 3);
  CHECK(tensor.strides[1] == 1);
  Twice copy({2, 3}, DType::bf16);
  copy_into({values, Dims{2, 3}}, copy.wanted());
  REQUIRE_OK(attn_copy(&tensor, copy.c()));
  REQUIRE_OK(attn_dense_tensor(&tensor, values, ATTN_F32, 0, nullptr));
  CHECK(tensor.rank == 0);
}

TEST_CASE("softmax, log_softmax and logsumexp, and their gradients") {
  StridedTensor x = numbers(1, shape, DType::f16), dy = numbers(2, shape);
  StridedTensor dout = numbers(3, {3, 7});
  const attn_tensor cx = c_tensor(x.view()), cdy = c_tensor(dy.view());
  const attn_tensor cdout = c_tensor(dout.view());
  Twice y(shape), log_y(shape), out({3, 7}), dx(shape), log_dx(shape), sum_dx(shape);
  softmax(x.view(), y.wanted(), 1, 0.7f);
  REQUIRE_OK(attn_softmax(&cx, y.c(), 1, 0.7f, NULL));
  log_softmax(x.view(), log_y.wanted(), 1, 0.7f);
  REQUIRE_OK(attn_log_softmax(&cx, log_y.c(), 1, 0.7f, NULL));
  logsumexp(x.view(), out.wanted(), 1, 0.7f);
  REQUIRE_OK(attn_logsumexp(&cx, out.c(), 1, 0.7f, NULL));
  softmax_backward(dy.view(), y.wanted(), dx.wanted(), 1, 0.7f);
  REQUIRE_OK(attn_softmax_backward(&cdy, y.c(), dx.c(), 1, 0.7f, NULL));
  log_softmax_backward(dy.view(), log_y.wanted(), log_dx.wanted(), 1, 0.7f);
  REQUIRE_OK(attn_log_softmax_backward(&cdy, log_y.c(), log_dx.c(), 1, 0.7f, NULL));
  logsumexp_backward(dout.view(), x.view(), out.wanted(), sum_dx.wanted(), 1, 0.7f);
  REQUIRE_OK(attn_logsumexp_backward(&cdout, &cx, out.c(), sum_dx.c(), 1, 0.7f, NULL));
}

TEST_CASE("sparsemax and entmax, and their gradients") {
  StridedTensor x = numbers(4, shape), dy = numbers(5, shape);
  const attn_tensor cx = c_tensor(x.view()), cdy = c_tensor(dy.view());
  Twice y(shape), y15(shape), y13(shape), tau(without_last), support(without_last, DType::i64);
  Twice tau15(without_last), support13(without_last, DType::i64);
  Twice dx(shape), dx13(shape), dalpha(without_last);
  sparsemax(x.view(), y.wanted(), -1, {tau.wanted(), support.wanted()});
  REQUIRE_OK(attn_sparsemax(&cx, y.c(), -1, tau.c(), support.c(), NULL));
  entmax15(x.view(), y15.wanted(), -1, {.tau = tau15.wanted()});
  REQUIRE_OK(attn_entmax15(&cx, y15.c(), -1, tau15.c(), NULL, NULL));
  entmax(x.view(), y13.wanted(), 1.3f, -1, {.support = support13.wanted()});
  REQUIRE_OK(attn_entmax(&cx, y13.c(), 1.3f, -1, NULL, support13.c(), NULL));
  sparsemax_backward(dy.view(), y.wanted(), dx.wanted());
  REQUIRE_OK(attn_sparsemax_backward(&cdy, y.c(), dx.c(), -1, NULL));
  entmax_backward(dy.view(), y13.wanted(), dx13.wanted(), 1.3f);
  REQUIRE_OK(attn_entmax_backward(&cdy, y13.c(), dx13.c(), 1.3f, -1, NULL));
  entmax_backward_alpha(dy.view(), y13.wanted(), dalpha.wanted(), 1.3f);
  REQUIRE_OK(attn_entmax_backward_alpha(&cdy, y13.c(), dalpha.c(), 1.3f, -1, NULL));
}

TEST_CASE("Losses and their gradients") {
  StridedTensor x = numbers(6, {6, 5}), weight = numbers(7, {5}, DType::f32, true);
  StridedTensor target = classes(8, {6}, 5);
  const attn_tensor cx = c_tensor(x.view()), cweight = c_tensor(weight.view());
  const attn_tensor ctarget = c_tensor(target.view());
  for (const attn_reduction reduction :
       {ATTN_REDUCTION_NONE, ATTN_REDUCTION_SUM, ATTN_REDUCTION_MEAN}) {
    const LossOptions options{.weight = weight.view(),
                              .ignore_index = 3,
                              .label_smoothing = 0.1f,
                              .reduction = static_cast<Reduction>(reduction)};
    CLossOptions in_c;
    REQUIRE_OK(attn_loss_options_create(in_c.out()));
    REQUIRE_OK(attn_loss_options_set_weight(in_c, &cweight));
    REQUIRE_OK(attn_loss_options_set_ignore_index(in_c, 3));
    REQUIRE_OK(attn_loss_options_set_label_smoothing(in_c, 0.1f));
    REQUIRE_OK(attn_loss_options_set_reduction(in_c, reduction));

    const Dims loss_shape = reduction == ATTN_REDUCTION_NONE ? Dims{6} : Dims{};
    StridedTensor dloss = numbers(9, loss_shape);
    const attn_tensor cdloss = c_tensor(dloss.view());
    Twice nll(loss_shape), cross(loss_shape), fenchel(loss_shape);
    Twice dnll({6, 5}), dcross({6, 5}), dfenchel({6, 5});
    nll_loss(x.view(), target.view(), nll.wanted(), options);
    REQUIRE_OK(attn_nll_loss(&cx, &ctarget, nll.c(), in_c, NULL));
    cross_entropy(x.view(), target.view(), cross.wanted(), options);
    REQUIRE_OK(attn_cross_entropy(&cx, &ctarget, cross.c(), in_c, NULL));
    sparsemax_loss(x.view(), target.view(), fenchel.wanted(), options);
    REQUIRE_OK(attn_entmax_loss(&cx, &ctarget, fenchel.c(), 2, in_c, NULL));
    nll_loss_backward(dloss.view(), target.view(), dnll.wanted(), options);
    REQUIRE_OK(attn_nll_loss_backward(&cdloss, &ctarget, dnll.c(), in_c, NULL));
    cross_entropy_backward(dloss.view(), x.view(), target.view(), dcross.wanted(), options);
    REQUIRE_OK(attn_cross_entropy_backward(&cdloss, &cx, &ctarget, dcross.c(), in_c, NULL));
    entmax_loss_backward(dloss.view(), x.view(), target.view(), dfenchel.wanted(), 1.5f, options);
    REQUIRE_OK(attn_entmax_loss_backward(&cdloss, &cx, &ctarget, dfenchel.c(), 1.5f, in_c, NULL));
  }
  Twice mean(Dims{});
  cross_entropy(x.view(), target.view(), mean.wanted());
  REQUIRE_OK(attn_cross_entropy(&cx, &ctarget, mean.c(), NULL, NULL));
}

TEST_CASE("Draws") {
  StridedTensor logits = numbers(10, {4, 30});
  const attn_tensor clogits = c_tensor(logits.view());
  CSampleOptions options;
  REQUIRE_OK(attn_sample_options_create(options.out()));
  REQUIRE_OK(attn_sample_options_set_temperature(options, 0.8f));
  REQUIRE_OK(attn_sample_options_set_top_k(options, 20));
  REQUIRE_OK(attn_sample_options_set_top_p(options, 0.95f));
  REQUIRE_OK(attn_sample_options_set_min_p(options, 0.01f));
  REQUIRE_OK(attn_sample_options_set_seed(options, 17, 5));
  Twice filtered({4, 50}, DType::i64), plain({4, 50}, DType::i64);
  sample(logits.view(), filtered.wanted(),
         {.temperature = 0.8f,
          .top_k = 20,
          .top_p = 0.95f,
          .min_p = 0.01f,
          .seed = 17,
          .first_draw = 5});
  REQUIRE_OK(attn_sample(&clogits, filtered.c(), options, NULL));
  sample(logits.view(), plain.wanted());
  REQUIRE_OK(attn_sample(&clogits, plain.c(), NULL, NULL));
}

TEST_CASE("Norms and activations") {
  StridedTensor x = numbers(11, shape, DType::bf16), up = numbers(12, shape, DType::bf16);
  StridedTensor scale = numbers(13, {7}), bias = numbers(14, {7});
  const attn_tensor cx = c_tensor(x.view()), cup = c_tensor(up.view());
  const attn_tensor cscale = c_tensor(scale.view()), cbias = c_tensor(bias.view());
  Twice rms(shape), plain(shape), layer(shape), erf(shape), tanh(shape), silus(shape), glu(shape);
  rms_norm(x.view(), scale.view(), rms.wanted(), {.dim = -1, .epsilon = 0.1f});
  REQUIRE_OK(attn_rms_norm(&cx, &cscale, rms.c(), -1, 0.1f, NULL));
  rms_norm(x.view(), {}, plain.wanted(), {.dim = 1, .epsilon = 0});
  REQUIRE_OK(attn_rms_norm(&cx, NULL, plain.c(), 1, 0, NULL));
  layer_norm(x.view(), scale.view(), bias.view(), layer.wanted(), {.dim = 2, .epsilon = 0.2f});
  REQUIRE_OK(attn_layer_norm(&cx, &cscale, &cbias, layer.c(), 2, 0.2f, NULL));
  gelu(x.view(), erf.wanted());
  REQUIRE_OK(attn_gelu(&cx, erf.c(), ATTN_GELU_ERF, NULL));
  gelu(x.view(), tanh.wanted(), GeluForm::tanh);
  REQUIRE_OK(attn_gelu(&cx, tanh.c(), ATTN_GELU_TANH, NULL));
  silu(x.view(), silus.wanted());
  REQUIRE_OK(attn_silu(&cx, silus.c(), NULL));
  swiglu(x.view(), up.view(), glu.wanted());
  REQUIRE_OK(attn_swiglu(&cx, &cup, glu.c(), NULL));
}

TEST_CASE("Rotary positions, and an execution in any function") {
  StridedTensor x = numbers(15, {2, 3, 4, 8}), position_ids = classes(16, {2, 4}, 20);
  const RopeTables tables({}, 8, 20);
  const Rope of_cpp{.cos = tables.rope().cos, .sin = tables.rope().sin, .interleaved = true};
  const attn_tensor cx = c_tensor(x.view()), ids = c_tensor(position_ids.view());
  const attn_tensor cos = c_tensor(of_cpp.cos), sin = c_tensor(of_cpp.sin);
  const attn_rope_tables interleaved{&cos, &sin, 1}, halves{&cos, &sin, 0};
  CExecution execution;
  REQUIRE_OK(attn_execution_create(execution.out()));
  REQUIRE_OK(attn_execution_set_isa(execution, ATTN_ISA_BASELINE));
  REQUIRE_OK(attn_execution_set_num_threads(execution, 2));
  Twice by_ids({2, 3, 4, 8}), in_order({2, 3, 4, 8});
  rope(x.view(), of_cpp, position_ids.view(), by_ids.wanted(), {.isa = Isa::baseline});
  REQUIRE_OK(attn_rope(&cx, &interleaved, &ids, by_ids.c(), execution));
  rope(x.view(), tables.rope(), {}, in_order.wanted());
  REQUIRE_OK(attn_rope(&cx, &halves, NULL, in_order.c(), NULL));

  REQUIRE_OK(attn_execution_set_num_threads(execution, 0));
  Twice unwritten({2, 3, 4, 8});
  CHECK(attn_silu(&cx, unwritten.c(), execution) == ATTN_INVALID_ARGUMENT);
  CHECK(std::string(attn_last_error()).find("num_threads is 0") != std::string::npos);
}
