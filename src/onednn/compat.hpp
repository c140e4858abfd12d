// The differences between the interfaces of oneDNN 2.x and 3.x.
#pragma once

#include <oneapi/dnnl/dnnl.hpp>

namespace attn::onednn {

/// A matmul without a bias.
inline dnnl::matmul::primitive_desc matmul_descriptor(const dnnl::engine& engine,
                                                      const dnnl::primitive_attr& attributes,
                                                      const dnnl::memory::desc& a,
                                                      const dnnl::memory::desc& b,
                                                      const dnnl::memory::desc& c) {
#if DNNL_VERSION_MAJOR < 3
  return {dnnl::matmul::desc(a, b, c), attributes, engine};
#else
  return {engine, a, b, c, attributes};
#endif
}

/// A matmul with a bias, or without one if the bias descriptor is empty.
inline dnnl::matmul::primitive_desc packed_matmul_descriptor(
    const dnnl::engine& engine, const dnnl::primitive_attr& attributes, const dnnl::memory::desc& a,
    const dnnl::memory::desc& b, const dnnl::memory::desc& bias, const dnnl::memory::desc& c) {
#if DNNL_VERSION_MAJOR < 3
  return {dnnl::matmul::desc(a, b, bias, c), attributes, engine};
#else
  return {engine, a, b, bias, c, attributes};
#endif
}

/// A softmax over one axis. Source and destination have the same layout.
inline dnnl::softmax_forward::primitive_desc softmax_descriptor(const dnnl::engine& engine,
                                                                const dnnl::memory::desc& data,
                                                                int axis) {
  constexpr auto inference = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR < 3
  return {dnnl::softmax_forward::desc(inference, data, axis), engine};
#else
  return {engine, inference, dnnl::algorithm::softmax_accurate, data, data, axis};
#endif
}

/// A function that is applied to each element. Source and destination have the same layout.
inline dnnl::eltwise_forward::primitive_desc elementwise_descriptor(const dnnl::engine& engine,
                                                                    const dnnl::memory::desc& data,
                                                                    dnnl::algorithm function) {
  constexpr auto inference = dnnl::prop_kind::forward_inference;
#if DNNL_VERSION_MAJOR < 3
  return {dnnl::eltwise_forward::desc(inference, function, data), engine};
#else
  return {engine, inference, function, data, data};
#endif
}

}  // namespace attn::onednn
