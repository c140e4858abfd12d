#include <attn/normalizer.hpp>

#include <fmt/format.h>

namespace attn {

std::string Normalizer::to_string() const {
  switch (kind_) {
    case Kind::softmax: return "softmax";
    case Kind::sigmoid: return bias_ ? fmt::format("sigmoid with bias {}", *bias_) : "sigmoid";
    case Kind::entmax: return *this == sparsemax() ? "sparsemax" : fmt::format("entmax {}", alpha_);
  }
  return "";
}

}  // namespace attn
