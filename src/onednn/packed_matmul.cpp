#include "onednn/packed_matmul.hpp"

#include <string_view>
#include <vector>

#include "onednn/compat.hpp"
#include "onednn/runtime.hpp"
#include "threads/team_size.hpp"

namespace attn::onednn {
namespace {

using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

dnnl::memory::desc bias_descriptor(const PackedMatmulShape& shape) {
  return shape.bias ? dnnl::memory::desc({1, shape.n}, Type::f32, Tag::ab) : dnnl::memory::desc();
}

/// oneDNN divides the work by the number of threads of a TeamSize that exists meanwhile.
dnnl::matmul::primitive_desc descriptor_of(const PackedMatmulShape& shape) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (shape.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    attributes.set_post_ops(sum);
  }
  const Type operands = type_of(shape.operands);
  return packed_matmul_descriptor(cpu_engine(), attributes, {{shape.m, shape.k}, operands, Tag::ab},
                                  {{shape.k, shape.n}, operands, panel_tag(shape.operands)},
                                  bias_descriptor(shape),
                                  {{shape.m, shape.n}, type_of(shape.result), Tag::ab});
}

int granted_threads_for(const PackedMatmulShape& shape) {
  return detail::granted_threads(
      detail::threads_for(shape.m * shape.n * shape.k, {shape.num_threads}).count);
}

template <class F>
void translating_errors_of(const PackedMatmulShape& shape, F&& f) {
  const auto describe = [&] {
    return fmt::format("matmul with m {}, n {}, k {} and packed weights", shape.m, shape.n,
                       shape.k);
  };
  translating_errors(describe, std::forward<F>(f));
}

}  // namespace

struct PackedMatmul::Primitive {
  explicit Primitive(const dnnl::matmul::primitive_desc& descriptor, bool with_bias)
      : operation(descriptor),
        stream(cpu_engine()),
        x(descriptor.src_desc(), cpu_engine(), nullptr),
        w(descriptor.weights_desc(), cpu_engine(), nullptr),
        y(descriptor.dst_desc(), cpu_engine(), nullptr),
        scratchpad(descriptor.scratchpad_desc(), cpu_engine()),
        arguments{{DNNL_ARG_SRC, x.get()},
                  {DNNL_ARG_WEIGHTS, w.get()},
                  {DNNL_ARG_DST, y.get()},
                  {DNNL_ARG_SCRATCHPAD, scratchpad.get()}} {
    if (!with_bias) return;
    bias = dnnl::memory(descriptor.query_md(dnnl::query::weights_md, 1), cpu_engine(), nullptr);
    arguments.push_back({DNNL_ARG_BIAS, bias.get()});
  }

  dnnl::matmul operation;
  dnnl::stream stream;
  dnnl::memory x, w, y, scratchpad, bias;
  std::vector<dnnl_exec_arg_t> arguments;
};

PackedMatmul::PackedMatmul(const PackedMatmulShape& shape) : shape_(shape) {
  compile(granted_threads_for(shape));
}

void PackedMatmul::compile(int num_threads) {
  translating_errors_of(shape_, [&] {
    const detail::TeamSize team(num_threads);
    require_memory_for_kernels();
    primitive_ = std::make_unique<Primitive>(descriptor_of(shape_), shape_.bias);
    num_threads_ = num_threads;
  });
}

PackedMatmul::PackedMatmul(PackedMatmul&&) noexcept = default;
PackedMatmul::~PackedMatmul() = default;

bool PackedMatmul::fast(const PackedMatmulShape& shape) {
  try {
    const detail::TeamSize team(shape.num_threads);
    return std::string_view(descriptor_of(shape).impl_info_str()).starts_with("brg");
  } catch (const dnnl::error&) {
    return false;
  }
}

void PackedMatmul::execute(const void* x, const float* w, const float* bias, void* y) {
  const int threads = granted_threads_for(shape_);
  if (threads != num_threads_) compile(threads);
  translating_errors_of(shape_, [&] {
    const detail::TeamSize team(threads);
    // oneDNN's interface takes pointers to non-const, but X, W and the bias are only read.
    primitive_->x.set_data_handle(const_cast<void*>(x));
    primitive_->w.set_data_handle(const_cast<float*>(w));
    primitive_->y.set_data_handle(y);
    if (shape_.bias) primitive_->bias.set_data_handle(const_cast<float*>(bias));
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(primitive_->operation.get(), primitive_->stream.get(),
                               static_cast<int>(primitive_->arguments.size()),
                               primitive_->arguments.data()),
        "execution failed");
    primitive_->stream.wait();
  });
}

}  // namespace attn::onednn
