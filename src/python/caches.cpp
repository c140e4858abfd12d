// The KV caches. A lock for each keeps threads of Python apart, since calls run without the GIL; it
// is taken without the GIL, so that nobody waits for one while holding the other.
#include <fmt/format.h>
#include <attn/kv_cache.hpp>

#include <array>
#include <iterator>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "call.hpp"

namespace attn::python {
namespace {

DType cache_type(nb::handle value) {
  const std::string text = required_text("dtype", value);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::i8}) {
    if (text == name_of(dtype)) return dtype;
  }
  reject(fmt::format("dtype is \"{}\"; it needs f32, bf16, f16 or i8", text));
}

/// Runs f without the GIL and with the lock.
template <class Lock, class Mutex, class F>
auto locked(Mutex& mutex, const F& f) {
  const nb::gil_scoped_release without_gil;
  const Lock lock(mutex);
  return f();
}

/// The call of some queries on a cache, whose fields bind() fills in.
class CacheCall {
 public:
  CacheCall(nb::handle q, const nb::tuple& options, nb::handle out, std::int64_t v_head_dim,
            bool return_lse)
      : q_(Array::required("q", q)), options_(options, q_.kind()), out_("out", out) {
    if (options_.kv_lens) reject("kv_lens is given; the cache knows the lengths of its sequences");
    require_rank_4(q_, "[batch, num_q_heads, q_len, head_dim]");
    Dims shape = q_.view().shape;
    tensors_ = {.q = q_.view()};
    options_.add_to(tensors_);
    if (return_lse) tensors_.lse = {nullptr, DType::f32, Dims(shape.begin(), 3)};
    shape[3] = v_head_dim;
    tensors_.out = out_ ? out_.writable() : MutableTensorView(nullptr, q_.view().dtype, shape);
    for (const Array* const input : {&q_, &options_.mask, &options_.alibi_slopes, &options_.sinks})
      require_apart(out_, *input);
  }

  std::int64_t batch() const { return tensors_.q.shape[0]; }

  /// `bind` completes the call, and is called with the lock.
  template <class Lock, class Mutex, class Bind>
  nb::object run(Mutex& mutex, const Bind& bind) const {
    locked<Lock>(mutex, [&] { return plan(bind(tensors_)); });  // before anything is allocated
    return with_outputs(q_, tensors_, out_, [&](const AttentionTensors& outputs) {
      const Lock lock(mutex);
      const AttentionTensors all = bind(outputs);
      const AttentionPlan planned = plan(all);
      Workspace workspace(planned.workspace_size());
      planned.run(all, workspace);
    });
  }

 private:
  AttentionPlan plan(const AttentionTensors& tensors) const {
    return AttentionPlan(tensors, options_.options, options_.execution);
  }

  Array q_;
  CallOptions options_;
  Array out_;
  AttentionTensors tensors_;
};

class ContiguousCache {
 public:
  using Exclusive = std::unique_lock<std::shared_mutex>;
  using Shared = std::shared_lock<std::shared_mutex>;

  explicit ContiguousCache(const KvCache::Settings& settings) : cache_(settings) {}

  void append(nb::handle k_object, nb::handle v_object) {
    const Array k = Array::required("k", k_object), v = Array::required("v", v_object);
    locked<Exclusive>(mutex_, [&] { cache_.append(k.view(), v.view()); });
  }
  std::int64_t length(nb::handle sequence) const {
    const std::int64_t number = required_integer("sequence", sequence);
    return locked<Shared>(mutex_, [&] { return cache_.length(number); });
  }
  void truncate(nb::handle sequence, nb::handle position) {
    const std::int64_t number = required_integer("sequence", sequence);
    const std::int64_t first = required_integer("position", position);
    locked<Exclusive>(mutex_, [&] { cache_.truncate(number, first); });
  }
  void clear() {
    locked<Exclusive>(mutex_, [&] { cache_.clear(); });
  }
  nb::object attention(nb::handle q, const nb::tuple& options, nb::handle out,
                       nb::handle return_lse) const {
    const KvCache::Settings& settings = cache_.settings();
    const CacheCall call(q, options, out, settings.v_head_dim.value_or(settings.head_dim),
                         required_bool("return_lse", return_lse));
    return call.run<Shared>(mutex_,
                            [&](const AttentionTensors& tensors) { return cache_.bind(tensors); });
  }

 private:
  KvCache cache_;
  mutable std::shared_mutex mutex_;
};

class PagedCache {
 public:
  using Lock = std::unique_lock<std::mutex>;

  explicit PagedCache(const PagedKvCache::Settings& settings) : cache_(settings) {}

  std::int64_t create() {
    return locked<Lock>(mutex_, [&] { return cache_.create(); });
  }
  std::int64_t fork(nb::handle parent) {
    const std::int64_t number = required_integer("sequence", parent);
    return locked<Lock>(mutex_, [&] { return cache_.fork(number); });
  }
  void remove(nb::handle sequence) {
    const std::int64_t number = required_integer("sequence", sequence);
    locked<Lock>(mutex_, [&] { cache_.remove(number); });
  }
  void append(nb::handle sequence, nb::handle k_object, nb::handle v_object) {
    const std::int64_t number = required_integer("sequence", sequence);
    const Array k = Array::required("k", k_object), v = Array::required("v", v_object);
    locked<Lock>(mutex_, [&] { cache_.append(number, k.view(), v.view()); });
  }
  std::int64_t length(nb::handle sequence) const {
    const std::int64_t number = required_integer("sequence", sequence);
    return locked<Lock>(mutex_, [&] { return cache_.length(number); });
  }
  void truncate(nb::handle sequence, nb::handle length) {
    const std::int64_t number = required_integer("sequence", sequence);
    const std::int64_t rest = required_integer("length", length);
    locked<Lock>(mutex_, [&] { cache_.truncate(number, rest); });
  }
  std::int64_t free_pages() const {
    return locked<Lock>(mutex_, [&] { return cache_.free_pages(); });
  }
  nb::object attention(nb::handle q, nb::handle sequences, const nb::tuple& options, nb::handle out,
                       nb::handle return_lse) {
    const PagedKvCache::Settings& settings = cache_.settings();
    const std::vector<std::int64_t> numbers = sequence_numbers(sequences);
    const CacheCall call(q, options, out, settings.v_head_dim.value_or(settings.head_dim),
                         required_bool("return_lse", return_lse));
    if (std::ssize(numbers) != call.batch())
      reject(fmt::format("sequences has {} entries, but q has batch {}", numbers.size(),
                         call.batch()));
    return call.run<Lock>(
        mutex_, [&](const AttentionTensors& tensors) { return cache_.bind(tensors, numbers); });
  }

 private:
  static std::vector<std::int64_t> sequence_numbers(nb::handle sequences) {
    if (nb::isinstance<nb::str>(sequences) || !PySequence_Check(sequences.ptr())) {
      reject_type(fmt::format("sequences is of type {}; it needs a sequence of integers",
                              class_name(sequences)));
    }
    std::vector<std::int64_t> numbers;
    for (const nb::handle item : nb::borrow(sequences))
      numbers.push_back(required_integer("sequences", item));
    return numbers;
  }

  PagedKvCache cache_;
  mutable std::mutex mutex_;
};

/// Constructs in place: a lock cannot be moved.
void construct(ContiguousCache* self, nb::handle batch, nb::handle num_kv_heads,
               nb::handle capacity, nb::handle head_dim, nb::handle v_head_dim, nb::handle dtype,
               nb::handle rolling) {
  const KvCache::Settings settings{.batch = required_integer("batch", batch),
                                   .num_kv_heads = required_integer("num_kv_heads", num_kv_heads),
                                   .capacity = required_integer("capacity", capacity),
                                   .head_dim = required_integer("head_dim", head_dim),
                                   .v_head_dim = optional_integer("v_head_dim", v_head_dim),
                                   .dtype = cache_type(dtype),
                                   .rolling = required_bool("rolling", rolling)};
  new (self) ContiguousCache(settings);
}
void construct_paged(PagedCache* self, nb::handle num_pages, nb::handle page_size,
                     nb::handle num_kv_heads, nb::handle head_dim, nb::handle v_head_dim,
                     nb::handle dtype) {
  const PagedKvCache::Settings settings{
      .num_pages = required_integer("num_pages", num_pages),
      .page_size = required_integer("page_size", page_size),
      .num_kv_heads = required_integer("num_kv_heads", num_kv_heads),
      .head_dim = required_integer("head_dim", head_dim),
      .v_head_dim = optional_integer("v_head_dim", v_head_dim),
      .dtype = cache_type(dtype)};
  new (self) PagedCache(settings);
}

}  // namespace

void bind_caches(nb::module_& module) {
  nb::class_<ContiguousCache>(module, "KVCache")
      .def("__init__", &construct, nb::arg("batch").none(), nb::arg("num_kv_heads").none(),
           nb::arg("capacity").none(), nb::arg("head_dim").none(), nb::arg("v_head_dim").none(),
           nb::arg("dtype").none(), nb::arg("rolling").none())
      .def("append", &ContiguousCache::append, nb::arg("k").none(), nb::arg("v").none())
      .def("length", &ContiguousCache::length, nb::arg("sequence").none())
      .def("truncate", &ContiguousCache::truncate, nb::arg("sequence").none(),
           nb::arg("position").none())
      .def("clear", &ContiguousCache::clear)
      .def("attention", &ContiguousCache::attention, nb::arg("q").none(), nb::arg("options"),
           nb::arg("out").none(), nb::arg("return_lse").none());
  nb::class_<PagedCache>(module, "PagedKVCache")
      .def("__init__", &construct_paged, nb::arg("num_pages").none(), nb::arg("page_size").none(),
           nb::arg("num_kv_heads").none(), nb::arg("head_dim").none(), nb::arg("v_head_dim").none(),
           nb::arg("dtype").none())
      .def("create", &PagedCache::create)
      .def("fork", &PagedCache::fork, nb::arg("sequence").none())
      .def("remove", &PagedCache::remove, nb::arg("sequence").none())
      .def("append", &PagedCache::append, nb::arg("sequence").none(), nb::arg("k").none(),
           nb::arg("v").none())
      .def("length", &PagedCache::length, nb::arg("sequence").none())
      .def("truncate", &PagedCache::truncate, nb::arg("sequence").none(), nb::arg("length").none())
      .def_prop_ro("free_pages", &PagedCache::free_pages)
      .def("attention", &PagedCache::attention, nb::arg("q").none(), nb::arg("sequences").none(),
           nb::arg("options"), nb::arg("out").none(), nb::arg("return_lse").none());
}

}  // namespace attn::python
