#include "onednn/softmax.hpp"

#include "onednn/compat.hpp"
#include "onednn/runtime.hpp"

namespace attn::onednn {
namespace {

/// Makes a primitive for the matrix and runs it in place. make(engine, matrix descriptor) gives the primitive.
template <class Make>
void run_in_place(const char* name, const Matrix& matrix, int num_threads, Make&& make) {
  const auto describe = [&] { return fmt::format("{} over {} rows of {}", name, matrix.rows, matrix.columns); };
  translating_errors(describe, [&] {
    const ThreadCount threads(num_threads);
    const dnnl::engine& engine = cpu_engine();
    const dnnl::memory::desc layout({matrix.rows, matrix.columns}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
    const dnnl::memory data(layout, engine, matrix.data);
    dnnl::stream stream(engine);
    make(engine, layout).execute(stream, {{DNNL_ARG_SRC, data}, {DNNL_ARG_DST, data}});
    stream.wait();
  });
}

}  // namespace

void softmax_rows(const Matrix& matrix, int num_threads) {
  run_in_place("softmax", matrix, num_threads, [](const dnnl::engine& engine, const dnnl::memory::desc& layout) {
    return dnnl::softmax_forward(softmax_descriptor(engine, layout, 1));
  });
}

void tanh_elements(const Matrix& matrix, int num_threads) {
  run_in_place("tanh", matrix, num_threads, [](const dnnl::engine& engine, const dnnl::memory::desc& layout) {
    return dnnl::eltwise_forward(elementwise_descriptor(engine, layout, dnnl::algorithm::eltwise_tanh));
  });
}

}  // namespace attn::onednn
