#include "onednn/softmax.hpp"

#include "onednn/compat.hpp"
#include "onednn/runtime.hpp"
#include "threads/team_size.hpp"

namespace attn::onednn {
namespace {

/// Runs the primitive that make(engine, matrix descriptor) returns on the matrix.
template <class Make>
void run(const char* name, const Matrix& from, float* to, int num_threads, Make&& make) {
  const auto describe = [&] {
    return fmt::format("{} over {} rows of {}", name, from.rows, from.columns);
  };
  translating_errors(describe, [&] {
    const detail::TeamSize team(detail::granted_threads(
        detail::threads_for(from.rows * from.columns, {num_threads}).count));
    require_memory_for_kernels();
    const dnnl::engine& engine = cpu_engine();
    const dnnl::memory::desc layout({from.rows, from.columns}, dnnl::memory::data_type::f32,
                                    dnnl::memory::format_tag::ab);
    const dnnl::memory source(layout, engine, from.data), target(layout, engine, to);
    dnnl::stream stream(engine);
    make(engine, layout).execute(stream, {{DNNL_ARG_SRC, source}, {DNNL_ARG_DST, target}});
    stream.wait();
  });
}

}  // namespace

void softmax_rows(const Matrix& from, float* to, int num_threads) {
  run("softmax", from, to, num_threads,
      [](const dnnl::engine& engine, const dnnl::memory::desc& layout) {
        return dnnl::softmax_forward(softmax_descriptor(engine, layout, 1));
      });
}

void tanh_elements(const Matrix& matrix, int num_threads) {
  run("tanh", matrix, matrix.data, num_threads,
      [](const dnnl::engine& engine, const dnnl::memory::desc& layout) {
        return dnnl::eltwise_forward(
            elementwise_descriptor(engine, layout, dnnl::algorithm::eltwise_tanh));
      });
}

}  // namespace attn::onednn
