#include "onednn/matmul.hpp"

#include <array>
#include <cstddef>
#include <map>
#include <mutex>
#include <utility>

#include "onednn/compat.hpp"
#include "onednn/packed_matmul.hpp"
#include "onednn/runtime.hpp"
#include "onednn/ukernel.hpp"
#include "tensor/memory.hpp"
#include "threads/parallel.hpp"

namespace attn::onednn {
namespace {

using Tag = dnnl::memory::format_tag;
using Type = dnnl::memory::data_type;

/// Without a batch, the descriptor has two dims, because oneDNN has more implementations for them.
dnnl::memory::desc matrix(const MatmulShape& shape, std::int64_t rows, std::int64_t columns,
                          Type type, bool transposed = false) {
  if (shape.batch == 1) return {{rows, columns}, type, transposed ? Tag::ba : Tag::ab};
  return {{shape.batch, rows, columns}, type, transposed ? Tag::acb : Tag::abc};
}

dnnl::memory::desc b_descriptor(const MatmulShape& shape) {
  const Type type = type_of(shape.operands);
  if (shape.b_in_panels) return {{shape.k, shape.n}, type, panel_tag(shape.operands)};
  if (shape.b_stride > 0) return {{shape.k, shape.n}, type, {shape.b_stride, 1}};
  return matrix(shape, shape.k, shape.n, type, shape.b_transposed);
}

dnnl::primitive_attr attributes_of(const MatmulShape& shape) {
  dnnl::primitive_attr attributes;
  // Each MatmulCall brings its own scratch memory. The scratch memory that oneDNN would allocate
  // belongs to the thread that creates the primitive.
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (shape.accumulate) {
    dnnl::post_ops sum;
    sum.append_sum(1.f);
    attributes.set_post_ops(sum);
  }
  return attributes;
}

template <class F>
void translating_errors_of(const MatmulShape& shape, F&& f) {
  const auto describe = [&] {
    return fmt::format("{} matmul with m {}, n {}, k {}, batch {}{}{}", name_of(shape.operands),
                       shape.m, shape.n, shape.k, shape.batch,
                       shape.b_transposed ? ", b transposed" : "",
                       shape.b_in_panels ? ", b in panels" : "");
  };
  translating_errors(describe, std::forward<F>(f));
}

}  // namespace

/// The micro-kernel where this version of oneDNN offers one, else the primitive.
struct Matmul::Primitive {
  dnnl::matmul::primitive_desc descriptor;
  dnnl::matmul operation;
  Ukernel ukernel;
};

Matmul::Matmul(const MatmulShape& shape) : shape_(shape) {
  translating_errors_of(shape, [&] {
    const detail::TeamSize team(shape.num_threads);
    require_memory_for_kernels();
    auto primitive = std::make_unique<Primitive>();
    primitive->ukernel = Ukernel(shape);
    if (primitive->ukernel) {
      implementation_ = Ukernel::name;
      primitive_ = std::move(primitive);
      return;
    }
    const auto descriptor =
        matmul_descriptor(cpu_engine(), attributes_of(shape),
                          matrix(shape, shape.m, shape.k, type_of(shape.operands)),
                          b_descriptor(shape), matrix(shape, shape.m, shape.n, Type::f32));
    implementation_ = descriptor.impl_info_str();
    primitive->descriptor = descriptor;
    primitive->operation = dnnl::matmul(descriptor);
    primitive_ = std::move(primitive);
  });
}

Matmul::~Matmul() = default;

bool Matmul::reads_panels(DType operands) {
  const auto ask = [](DType type) {
    return PackedMatmul::fast({.m = 96, .n = 64, .k = 64, .operands = type, .accumulate = true});
  };
  static const bool reads_f32 = ask(DType::f32), reads_bf16 = ask(DType::bf16);
  return operands == DType::bf16 ? reads_bf16 : reads_f32;
}

std::shared_ptr<const Matmul> Matmul::shared(const MatmulShape& shape) {
  constexpr std::size_t kept = 512;
  static std::mutex mutex;
  static std::map<MatmulShape, std::shared_ptr<const Matmul>> known;
  const std::lock_guard lock(mutex);
  if (const auto found = known.find(shape); found != known.end()) return found->second;
  auto matmul = std::make_shared<const Matmul>(shape);
  if (known.size() >= kept)
    std::erase_if(known, [](const auto& entry) { return entry.second.use_count() == 1; });
  return known[shape] = std::move(matmul);
}

struct MatmulCall::Arguments {
  struct Release {
    void operator()(std::byte* memory) const noexcept { detail::release(memory); }
  };
  using Memory = std::unique_ptr<std::byte[], Release>;

  explicit Arguments(const Ukernel& ukernel)
      : ukernel_scratch(static_cast<std::byte*>(detail::allocate(ukernel.scratch_size()))) {}

  explicit Arguments(const dnnl::matmul::primitive_desc& descriptor)
      : stream(cpu_engine()),
        a(descriptor.src_desc(), cpu_engine(), nullptr),
        b(descriptor.weights_desc(), cpu_engine(), nullptr),
        c(descriptor.dst_desc(), cpu_engine(), nullptr),
        scratchpad(descriptor.scratchpad_desc(), cpu_engine()),
        list{{{DNNL_ARG_SRC, a.get()},
              {DNNL_ARG_WEIGHTS, b.get()},
              {DNNL_ARG_DST, c.get()},
              {DNNL_ARG_SCRATCHPAD, scratchpad.get()}}} {}

  dnnl::stream stream;
  dnnl::memory a, b, c, scratchpad;
  std::array<dnnl_exec_arg_t, 4> list{};
  Memory ukernel_scratch;
};

MatmulCall::MatmulCall(std::shared_ptr<const Matmul> matmul) : matmul_(std::move(matmul)) {
  translating_errors_of(matmul_->shape(), [&] {
    const Matmul::Primitive& primitive = *matmul_->primitive_;
    arguments_ = primitive.ukernel ? std::make_unique<Arguments>(primitive.ukernel)
                                   : std::make_unique<Arguments>(primitive.descriptor);
  });
}

MatmulCall::MatmulCall(MatmulCall&&) noexcept = default;
MatmulCall& MatmulCall::operator=(MatmulCall&&) noexcept = default;
MatmulCall::~MatmulCall() = default;

void MatmulCall::execute(const void* a, const void* b, float* c) {
  const auto run = [&] {
    if (const Ukernel& ukernel = matmul_->primitive_->ukernel)
      return ukernel.execute(a, b, c, arguments_->ukernel_scratch.get());
    const detail::TeamSize team(matmul_->shape().num_threads);
    // oneDNN's interface takes pointers to non-const, but A and B are only read.
    arguments_->a.set_data_handle(const_cast<void*>(a));
    arguments_->b.set_data_handle(const_cast<void*>(b));
    arguments_->c.set_data_handle(c);
    // The C function is called because its C++ wrapper builds a std::unordered_map in each call.
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(matmul_->primitive_->operation.get(), arguments_->stream.get(),
                               static_cast<int>(arguments_->list.size()), arguments_->list.data()),
        "execution failed");
    arguments_->stream.wait();
  };
  translating_errors_of(matmul_->shape(), run);
}

void multiply(const MatmulShape& shape, const float* a, const float* b, float* c) {
  MatmulShape granted = shape;
  granted.num_threads = detail::granted_threads(
      detail::threads_for(shape.m * shape.n * shape.k * shape.batch, {shape.num_threads}).count);
  const auto matmul = Matmul::shared(granted);
  if (granted.num_threads == 1 || matmul->fast()) return MatmulCall(matmul).execute(a, b, c);
  // A general matrix product divides its sums by the number of threads. So each is given a thread.
  MatmulShape one = shape;
  one.batch = one.num_threads = 1;
  const auto product = Matmul::shared(one);
  detail::parallel_for({granted.num_threads}, shape.batch, [&](std::int64_t n) {
    MatmulCall(product).execute(a + n * shape.m * shape.k, b + n * shape.k * shape.n,
                                c + n * shape.m * shape.n);
  });
}

}  // namespace attn::onednn
