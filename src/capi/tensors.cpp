#include "capi/tensors.hpp"

#include <array>
#include <cstddef>
#include <string>

#include "capi/status.hpp"

namespace attn::capi {
namespace {

constexpr std::array dtypes{DType::f32, DType::bf16, DType::f16, DType::f64,
                            DType::i8,  DType::i32,  DType::i64, DType::boolean};
static_assert(ATTN_F32 == 1 && ATTN_BOOLEAN == dtypes.size());

constexpr std::array role_names{"",
                                "q",
                                "k",
                                "v",
                                "out",
                                "lse",
                                "mask",
                                "alibi_slopes",
                                "sinks",
                                "kv_lens",
                                "q_offsets",
                                "kv_offsets",
                                "ring_starts",
                                "page_table",
                                "k_scales",
                                "v_scales",
                                "dout",
                                "dlse",
                                "dq",
                                "dk",
                                "dv",
                                "dmask",
                                "dalibi",
                                "dsinks"};
constexpr std::int64_t num_roles = role_names.size();
static_assert(num_roles == ATTN_ARG_DSINKS + 1 && ATTN_MAX_RANK == Dims::max_rank);

bool is_gradient(attn_role role) { return role >= ATTN_ARG_DOUT; }

/// Whether a cache says where its keys and values lie by this argument.
bool is_of_cache(attn_role role) {
  switch (role) {
    case ATTN_ARG_K:
    case ATTN_ARG_V:
    case ATTN_ARG_KV_LENS:
    case ATTN_ARG_KV_OFFSETS:
    case ATTN_ARG_RING_STARTS:
    case ATTN_ARG_PAGE_TABLE:
    case ATTN_ARG_K_SCALES:
    case ATTN_ARG_V_SCALES: return true;
    default: return false;
  }
}

void require_role(attn_role role) {
  if (role < ATTN_ARG_Q || role >= num_roles) reject_enumerator("role", role);
}

const char* name_of_role(attn_role role) { return role_names[static_cast<std::size_t>(role)]; }

/// The tensors of a call by their roles.
class Given {
 public:
  void add(const attn_argument& argument, CallKind kind) {
    require_role(argument.role);
    const char* name = name_of_role(argument.role);
    const MutableTensorView view = optional_view(argument.tensor, name);
    if (view.absent()) return;
    if (is_gradient(argument.role) && kind != CallKind::backward)
      reject(std::string(name) + " is no argument of a forward call");
    if (is_of_cache(argument.role) && kind == CallKind::forward_on_cache)
      reject(std::string(name) + " is given, but the cache has its own");
    MutableTensorView& place = views_[static_cast<std::size_t>(argument.role)];
    if (!place.absent()) reject(std::string(name) + " is given twice");
    place = view;
  }
  const MutableTensorView& operator[](attn_role role) const {
    return views_[static_cast<std::size_t>(role)];
  }

 private:
  std::array<MutableTensorView, num_roles> views_{};
};

KvStorage storage_of(const Given& given) {
  KvStorage storage{.k_scales = given[ATTN_ARG_K_SCALES], .v_scales = given[ATTN_ARG_V_SCALES]};
  const TensorView starts = given[ATTN_ARG_RING_STARTS], pages = given[ATTN_ARG_PAGE_TABLE];
  if (!starts.absent() && !pages.absent())
    reject("ring_starts and page_table are both given, but keys lie in rings or in pages");
  if (!starts.absent()) storage.layout = Ring{starts};
  if (!pages.absent()) storage.layout = Paged{pages};
  return storage;
}

}  // namespace

DType dtype_of(attn_dtype dtype, const char* name) {
  if (dtype < ATTN_F32 || dtype > ATTN_BOOLEAN)
    reject(std::string(name) + " has type " + std::to_string(dtype) +
           ", which is no value of attn_dtype");
  return dtypes[static_cast<std::size_t>(dtype - ATTN_F32)];
}

MutableTensorView optional_view(const attn_tensor* tensor, const char* name) {
  MutableTensorView view;
  if (tensor == nullptr || (tensor->data == nullptr && tensor->rank == 0)) return view;
  if (tensor->rank < 0 || tensor->rank > ATTN_MAX_RANK)
    reject(std::string(name) + " has rank " + std::to_string(tensor->rank) + "; it needs 0 to " +
           std::to_string(ATTN_MAX_RANK));
  view.data = tensor->data;
  view.dtype = dtype_of(tensor->dtype, name);
  view.shape = Dims(tensor->shape, tensor->rank);
  view.strides = Dims(tensor->strides, tensor->rank);
  return view;
}

MutableTensorView view(const attn_tensor* tensor, const char* name) {
  const MutableTensorView view = optional_view(&required(tensor, name), name);
  if (view.absent()) reject(std::string(name) + " is absent: its data is NULL and its rank is 0");
  return view;
}

attn_tensor tensor_of(const TensorView& view) noexcept {
  attn_tensor tensor{};
  tensor.data = const_cast<void*>(view.data);  // attn_tensor is for outputs, too
  for (std::size_t n = 0; n < dtypes.size(); ++n) {
    if (dtypes[n] == view.dtype) tensor.dtype = ATTN_F32 + static_cast<attn_dtype>(n);
  }
  tensor.rank = view.rank();
  for (int dim = 0; dim < view.rank(); ++dim) {
    tensor.shape[dim] = view.shape[dim];
    tensor.strides[dim] = view.strides[dim];
  }
  return tensor;
}

std::optional<Rope> optional_rope(const attn_rope_tables* tables) {
  if (tables == nullptr) return {};
  return Rope{.cos = view(tables->cos, "cos"),
              .sin = view(tables->sin, "sin"),
              .interleaved = tables->interleaved != 0};
}

Arguments read_arguments(const attn_argument* arguments, std::int64_t num_arguments, CallKind kind,
                         const RaggedLimits& limits) {
  require_array(arguments, num_arguments, "arguments");
  if (num_arguments > num_roles)  // A wrong number is found before it leads out of the array.
    reject("num_arguments is " + std::to_string(num_arguments) + ", but there are only " +
           std::to_string(num_roles - 1) + " roles");
  Given given;
  for (std::int64_t n = 0; n < num_arguments; ++n) given.add(arguments[n], kind);

  Arguments call;
  call.tensors = {.q = given[ATTN_ARG_Q],
                  .k = given[ATTN_ARG_K],
                  .v = given[ATTN_ARG_V],
                  .out = given[ATTN_ARG_OUT],
                  .mask = given[ATTN_ARG_MASK],
                  .alibi_slopes = given[ATTN_ARG_ALIBI_SLOPES],
                  .sinks = given[ATTN_ARG_SINKS],
                  .kv_lens = given[ATTN_ARG_KV_LENS],
                  .lse = given[ATTN_ARG_LSE],
                  .storage = storage_of(given),
                  .ragged = {.q_offsets = given[ATTN_ARG_Q_OFFSETS],
                             .kv_offsets = given[ATTN_ARG_KV_OFFSETS],
                             .max_q_len = limits.max_q_len,
                             .max_kv_len = limits.max_kv_len}};
  call.gradients = {.dout = given[ATTN_ARG_DOUT],
                    .dlse = given[ATTN_ARG_DLSE],
                    .dq = given[ATTN_ARG_DQ],
                    .dk = given[ATTN_ARG_DK],
                    .dv = given[ATTN_ARG_DV],
                    .dmask = given[ATTN_ARG_DMASK],
                    .dalibi = given[ATTN_ARG_DALIBI],
                    .dsinks = given[ATTN_ARG_DSINKS]};
  return call;
}

attn_tensor cache_tensor(const AttentionTensors& bound, attn_role role) {
  require_role(role);
  switch (role) {
    case ATTN_ARG_K: return tensor_of(bound.k);
    case ATTN_ARG_V: return tensor_of(bound.v);
    case ATTN_ARG_KV_LENS: return tensor_of(bound.kv_lens);
    case ATTN_ARG_RING_STARTS: return tensor_of(bound.storage.starts());
    case ATTN_ARG_PAGE_TABLE: return tensor_of(bound.storage.page_table());
    case ATTN_ARG_K_SCALES: return tensor_of(bound.storage.k_scales);
    case ATTN_ARG_V_SCALES: return tensor_of(bound.storage.v_scales);
    default: reject(std::string(name_of_role(role)) + " is no tensor of a cache");
  }
}

}  // namespace attn::capi

using namespace attn;
using namespace attn::capi;

attn_status attn_dense_tensor(attn_tensor* tensor, const void* data, attn_dtype dtype,
                              std::int32_t rank, const std::int64_t* shape) {
  return guarded([&] {
    required(tensor, "tensor");
    const DType type = dtype_of(dtype, "tensor");
    if (rank < 0 || rank > ATTN_MAX_RANK)
      reject("rank is " + std::to_string(rank) + "; it needs 0 to " +
             std::to_string(ATTN_MAX_RANK));
    require_array(shape, rank, "shape");
    *tensor = tensor_of(TensorView(data, type, Dims(shape, rank)));
  });
}

attn_status attn_copy(const attn_tensor* source, const attn_tensor* destination) {
  return guarded([&] { copy_into(view(source, "source"), view(destination, "destination")); });
}
