// The functions of this folder in a build without oneDNN. Callers ask available() or
// PackedMatmul::fast() first, so none that throws is called.
#include <attn/error.hpp>

#include "onednn/isa.hpp"
#include "onednn/matmul.hpp"
#include "onednn/packed_matmul.hpp"
#include "onednn/softmax.hpp"

namespace attn::onednn {
namespace {

[[noreturn]] void refuse() {
  throw Error(ErrorCode::unsupported,
              "this build of attn has no oneDNN: it was configured with ATTN_WITH_ONEDNN=OFF");
}

}  // namespace

bool available() noexcept { return false; }
bool may_use(Isa) { return true; }
bool has_amx() { return false; }
std::string version() { return {}; }

struct Matmul::Primitive {};
Matmul::Matmul(const MatmulShape&) { refuse(); }
Matmul::~Matmul() = default;
std::shared_ptr<const Matmul> Matmul::shared(const MatmulShape&) { refuse(); }
bool Matmul::reads_panels(DType) { return false; }

struct MatmulCall::Arguments {};
MatmulCall::MatmulCall(std::shared_ptr<const Matmul>) { refuse(); }
MatmulCall::MatmulCall(MatmulCall&&) noexcept = default;
MatmulCall& MatmulCall::operator=(MatmulCall&&) noexcept = default;
MatmulCall::~MatmulCall() = default;
void MatmulCall::execute(const void*, const void*, float*) { refuse(); }

void multiply(const MatmulShape&, const float*, const float*, float*) { refuse(); }

struct PackedMatmul::Primitive {};
PackedMatmul::PackedMatmul(const PackedMatmulShape&) { refuse(); }
PackedMatmul::PackedMatmul(PackedMatmul&&) noexcept = default;
PackedMatmul::~PackedMatmul() = default;
bool PackedMatmul::fast(const PackedMatmulShape&) { return false; }
void PackedMatmul::execute(const void*, const float*, const float*, void*) { refuse(); }

void softmax_rows(const Matrix&, float*, int) { refuse(); }
void tanh_elements(const Matrix&, int) { refuse(); }

}  // namespace attn::onednn
