// OpenMP's threads, and where they are used without being asked for.
#pragma once

#include <attn/execution.hpp>

namespace attn::detail {

/// While it exists, calls of this thread that name no executor use OpenMP's threads. oneDNN's
/// products do, and these threads spin for milliseconds after a product, on the processors that the
/// library's own threads would need for what comes between two products.
class BetweenProducts {
 public:
  explicit BetweenProducts(bool multiplied_by_onednn) noexcept;
  ~BetweenProducts();
  BetweenProducts(const BetweenProducts&) = delete;
  BetweenProducts& operator=(const BetweenProducts&) = delete;

 private:
  bool before_;
};

/// Whether the calling thread is between products.
bool prefers_openmp() noexcept;

}  // namespace attn::detail
