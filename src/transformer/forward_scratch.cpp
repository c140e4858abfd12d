#include "transformer/forward_scratch.hpp"

#include "tensor/checks.hpp"
#include "tensor/rounding.hpp"

namespace attn::detail {

MutableTensorView Buffer::view(DType dtype, const Dims& shape) {
  require_shape("scratch memory of a forward", shape);
  const auto bytes = static_cast<std::size_t>(shape.product()) * size_of(dtype);
  if (bytes > memory_.size_in_bytes())
    memory_ = Tensor(DType::f32, {static_cast<std::int64_t>(divide_up(bytes, sizeof(float)))});
  return {memory_.data(), dtype, shape};
}

}  // namespace attn::detail

namespace attn {
using namespace detail;

Workspace& ForwardScratch::Memory::workspace_of(std::size_t size_in_bytes) {
  if (workspace.size() < size_in_bytes) workspace = Workspace(size_in_bytes);
  return workspace;
}

onednn::PackedMatmul& ForwardScratch::Memory::matmul(const onednn::PackedMatmulShape& shape) {
  const auto found = matmuls.find(shape);
  return found != matmuls.end() ? found->second
                                : matmuls.emplace(shape, onednn::PackedMatmul(shape)).first->second;
}

std::shared_ptr<const RopeTables> ForwardScratch::Memory::rope_tables(const RopeKey& key) {
  for (const auto& [known, tables] : ropes) {
    if (known == key) return tables;
  }
  return ropes
      .emplace_back(key,
                    std::make_shared<const RopeTables>(key.settings, key.head_dim, key.positions))
      .second;
}

ForwardScratch::ForwardScratch() : memory_(std::make_unique<Memory>()) {}
ForwardScratch::ForwardScratch(ForwardScratch&&) noexcept = default;
ForwardScratch& ForwardScratch::operator=(ForwardScratch&&) noexcept = default;
ForwardScratch::~ForwardScratch() = default;

/// What was moved from begins anew.
ForwardScratch::Memory& ForwardScratch::memory() {
  if (memory_ == nullptr) memory_ = std::make_unique<Memory>();
  return *memory_;
}

std::size_t ForwardScratch::size_in_bytes() const noexcept {
  if (memory_ == nullptr) return 0;
  const Memory& m = *memory_;
  std::size_t sum = m.workspace.size();
  for (const Buffer* buffer :
       {&m.input, &m.qkv, &m.attended, &m.projected, &m.normed, &m.branch, &m.mlp_hidden,
        &m.mlp_active, &m.residual, &m.last, &m.rotated.cos, &m.rotated.sin}) {
    sum += buffer->size_in_bytes();
  }
  return sum;
}

}  // namespace attn
