#include "onednn/matmul.hpp"

#include <array>
#include <map>
#include <mutex>
#include <utility>

#include "onednn/compat.hpp"
#include "onednn/runtime.hpp"

namespace attn::onednn {
namespace {

using Tag = dnnl::memory::format_tag;

/// Two-dimensional where that is enough: oneDNN has more ways to run it.
dnnl::memory::desc matrix(const MatmulShape& shape, std::int64_t rows, std::int64_t columns,
                          bool transposed = false) {
  constexpr auto f32 = dnnl::memory::data_type::f32;
  if (shape.batch == 1) return {{rows, columns}, f32, transposed ? Tag::ba : Tag::ab};
  return {{shape.batch, rows, columns}, f32, transposed ? Tag::acb : Tag::abc};
}

template <class F>
void translating_errors_of(const MatmulShape& shape, F&& f) {
  const auto describe = [&] {
    return fmt::format("matmul with m {}, n {}, k {}, batch {}{}", shape.m, shape.n, shape.k,
                       shape.batch, shape.b_transposed ? ", b transposed" : "");
  };
  translating_errors(describe, std::forward<F>(f));
}

}  // namespace

struct Matmul::Primitive {
  dnnl::matmul::primitive_desc descriptor;
  dnnl::matmul operation;
};

Matmul::Matmul(const MatmulShape& shape) : shape_(shape) {
  translating_errors_of(shape, [&] {
    const ThreadCount threads(shape.num_threads);
    dnnl::primitive_attr attributes;
    // oneDNN's own scratch memory belongs to the thread that creates the primitive.
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto descriptor = matmul_descriptor(
        cpu_engine(), attributes, matrix(shape, shape.m, shape.k),
        matrix(shape, shape.k, shape.n, shape.b_transposed), matrix(shape, shape.m, shape.n));
    implementation_ = descriptor.impl_info_str();
    primitive_ = std::make_unique<const Primitive>(Primitive{descriptor, dnnl::matmul(descriptor)});
  });
}

Matmul::~Matmul() = default;

std::shared_ptr<const Matmul> Matmul::shared(const MatmulShape& shape) {
  static std::mutex mutex;
  static std::map<MatmulShape, std::weak_ptr<const Matmul>> known;
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(shape); found != known.end()) {
    if (auto matmul = found->second.lock()) return matmul;
  }
  auto matmul = std::make_shared<const Matmul>(shape);
  std::erase_if(known, [](const auto& entry) { return entry.second.expired(); });
  known[shape] = matmul;
  return matmul;
}

struct MatmulCall::Handles {
  explicit Handles(const dnnl::matmul::primitive_desc& descriptor)
      : stream(cpu_engine()),
        a(descriptor.src_desc(), cpu_engine(), nullptr),
        b(descriptor.weights_desc(), cpu_engine(), nullptr),
        c(descriptor.dst_desc(), cpu_engine(), nullptr),
        scratchpad(descriptor.scratchpad_desc(), cpu_engine()),
        arguments{{{DNNL_ARG_SRC, a.get()},
                   {DNNL_ARG_WEIGHTS, b.get()},
                   {DNNL_ARG_DST, c.get()},
                   {DNNL_ARG_SCRATCHPAD, scratchpad.get()}}} {}

  dnnl::stream stream;
  dnnl::memory a, b, c, scratchpad;
  std::array<dnnl_exec_arg_t, 4> arguments;
};

MatmulCall::MatmulCall(std::shared_ptr<const Matmul> matmul) : matmul_(std::move(matmul)) {
  translating_errors_of(matmul_->shape(), [&] {
    handles_ = std::make_unique<Handles>(matmul_->primitive_->descriptor);
  });
}

MatmulCall::MatmulCall(MatmulCall&&) noexcept = default;
MatmulCall& MatmulCall::operator=(MatmulCall&&) noexcept = default;
MatmulCall::~MatmulCall() = default;

void MatmulCall::execute(const float* a, const float* b, float* c) {
  const auto run = [&] {
    const ThreadCount threads(matmul_->shape().num_threads);
    // The interface knows no const; A and B are only read.
    handles_->a.set_data_handle(const_cast<float*>(a));
    handles_->b.set_data_handle(const_cast<float*>(b));
    handles_->c.set_data_handle(c);
    // The C interface: its C++ dress builds a map of the arguments in every call.
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(matmul_->primitive_->operation.get(), handles_->stream.get(),
                               static_cast<int>(handles_->arguments.size()),
                               handles_->arguments.data()),
        "execution failed");
    handles_->stream.wait();
  };
  translating_errors_of(matmul_->shape(), run);
}

}  // namespace attn::onednn
