#include "call.hpp"

#include <fmt/format.h>
#include <attn/attention_backward.hpp>
#include <attn/state.hpp>

#include <array>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace attn::python {

void require_rank_4(const Array& array, const char* layout) {
  if (array.view().rank() == 4) return;
  reject(fmt::format("{} has shape {} of rank {}; it needs rank 4: {}", array.name(),
                     array.view().shape.to_string(), array.view().rank(), layout));
}

Call::Call(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& options, nb::handle sequences)
    : q_(Array::required("q", q)),
      k_(Array::required("k", k)),
      v_(Array::required("v", v)),
      options_(options, q_.kind()) {
  if (!sequences.is_none()) {
    const nb::tuple entries{nb::borrow(sequences)};
    q_offsets_ = Array("q_offsets", entries[0]);
    kv_offsets_ = Array("kv_offsets", entries[1]);
    max_q_len_ = optional_integer("max_q_len", entries[2]);
    max_kv_len_ = optional_integer("max_kv_len", entries[3]);
    page_table_ = Array("page_table", entries[4]);
    starts_ = Array("starts", entries[5]);
  }
  if (!q_offsets_) require_rank_4(q_, "[batch, num_q_heads, q_len, head_dim]");
  if (!kv_offsets_) require_rank_4(v_, "[batch, num_kv_heads, kv_len, v_head_dim]");
}

AttentionTensors Call::shapes(DType out_type, bool with_lse) const {
  AttentionTensors tensors{.q = q_.view(), .k = k_.view(), .v = v_.view()};
  options_.add_to(tensors);
  tensors.ragged = {q_offsets_.view(), kv_offsets_.view(), max_q_len_, max_kv_len_};
  if (page_table_) tensors.storage.layout = Paged{page_table_.view()};
  if (starts_) tensors.storage.layout = Ring{starts_.view()};
  const Dims &q = q_.view().shape, &v = v_.view().shape;
  if (q.rank() == 0 || v.rank() == 0)
    reject(fmt::format("{} has rank 0; it needs 3 with offsets", q.rank() == 0 ? "q" : "v"));
  Dims out = q;
  out[out.rank() - 1] = v[v.rank() - 1];
  tensors.out = {nullptr, out_type, out};
  if (with_lse) tensors.lse = {nullptr, DType::f32, Dims(q.begin(), q.rank() - 1)};
  return tensors;
}

void Call::require_inputs_apart(const Array& output) const {
  for (const Array* const input :
       {&q_, &k_, &v_, &options_.mask, &options_.alibi_slopes, &options_.kv_lens, &options_.sinks,
        &q_offsets_, &kv_offsets_, &page_table_, &starts_}) {
    require_apart(output, *input);
  }
}

namespace {

/// The shape and strides of an `out` that is given, in place of those that a result would have.
AttentionTensors planned(const Call& call, const Array& out, bool with_lse) {
  AttentionTensors tensors = call.shapes(out ? out.view().dtype : call.q().view().dtype, with_lse);
  if (!out) return tensors;
  call.require_inputs_apart(out);
  tensors.out = out.writable();
  return tensors;
}

/// A plan that Python keeps: plans of the library, one for each type of out and with or without
/// lse, made when they are first run, and a workspace for one run at a time. Tensors of options are
/// read again in each run.
class Plan {
 public:
  Plan(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& options) : options_(options) {
    const Call call(q, k, v, options_, nb::none());
    plan_for(call, planned(call, Array(), false));
  }

  nb::object run(nb::handle q, nb::handle k, nb::handle v, nb::handle out_object,
                 nb::handle return_lse) {
    const Call call(q, k, v, options_, nb::none());
    const Array out("out", out_object);
    const AttentionTensors tensors = planned(call, out, required_bool("return_lse", return_lse));
    const AttentionPlan plan = plan_for(call, tensors);
    std::unique_ptr<Workspace> workspace = std::move(workspace_);
    if (workspace == nullptr || workspace->size() < plan.workspace_size())
      workspace = std::make_unique<Workspace>(plan.workspace_size());
    nb::object result = with_outputs(
        call.q(), tensors, out, [&](const AttentionTensors& all) { plan.run(all, *workspace); });
    workspace_ = std::move(workspace);
    return result;
  }

  const AttentionPlan& first() const { return plans_.begin()->second; }

 private:
  /// The plan for the outputs of a call. It is copied: other threads may add plans meanwhile.
  AttentionPlan plan_for(const Call& call, const AttentionTensors& tensors) {
    const std::pair key(tensors.lse.rank() > 0, tensors.out.dtype);
    const auto found = plans_.find(key);
    if (found != plans_.end()) return found->second;
    AttentionTensors shapes = tensors;
    if (!plans_.empty()) require_as_first(tensors);
    AttentionPlan plan(shapes, call.options().options, call.options().execution);
    if (plans_.empty()) first_shapes_ = tensors;
    plans_.emplace(key, plan);
    return plan;
  }

  /// Plans that are made later are for the shapes of the first.
  void require_as_first(const AttentionTensors& given) const {
    for (const auto& [name, planned, now] :
         {std::tuple{"q", first_shapes_.q, given.q}, std::tuple{"k", first_shapes_.k, given.k},
          std::tuple{"v", first_shapes_.v, given.v}}) {
      if (planned.dtype == now.dtype && planned.shape == now.shape) continue;
      reject(fmt::format("{} is {} {}; the plan was made for {} {}", name, name_of(now.dtype),
                         now.shape.to_string(), name_of(planned.dtype), planned.shape.to_string()));
    }
  }

  nb::tuple options_;
  std::map<std::pair<bool, DType>, AttentionPlan> plans_;
  AttentionTensors first_shapes_;  // their data does not count
  std::unique_ptr<Workspace> workspace_;
};

}  // namespace

nb::object attention(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& options,
                     nb::handle out_object, nb::handle return_lse, nb::handle sequences) {
  const Call call(q, k, v, options, sequences);
  const Array out("out", out_object);
  const AttentionTensors tensors = planned(call, out, required_bool("return_lse", return_lse));
  const AttentionPlan plan(tensors, call.options().options, call.options().execution);
  return with_outputs(call.q(), tensors, out, [&](const AttentionTensors& all) {
    Workspace workspace(plan.workspace_size());
    plan.run(all, workspace);
  });
}

void check_attention(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& options,
                     nb::handle sequences) {
  const Call call(q, k, v, options, sequences);
  const AttentionPlan plan(planned(call, Array(), true), call.options().options,
                           call.options().execution);
}

namespace {

/// A gradient that is wanted: a new array.
class Gradient {
 public:
  Gradient(const char* name, bool wanted, DType dtype, const Dims& shape)
      : name_(name),
        view_(wanted ? MutableTensorView(nullptr, dtype, shape) : MutableTensorView()) {}
  const MutableTensorView& shape() const noexcept { return view_; }
  void make(const Array& like, MutableTensorView& view) {
    if (view_.rank() == 0) return;
    array_ = make_result(name_, like, view_.dtype, view_.shape);
    view = array_.writable();
  }
  nb::object object() const { return array_ ? nb::borrow(array_.object()) : nb::none(); }

 private:
  const char* name_;
  MutableTensorView view_;
  Array array_;
};

}  // namespace

nb::object attention_backward(nb::handle dout_object, const nb::tuple& qkv, nb::handle out_object,
                              nb::handle lse_object, nb::handle dlse_object,
                              const nb::tuple& options, nb::handle sequences,
                              const nb::tuple& wanted) {
  const Call call(qkv[0], qkv[1], qkv[2], options, sequences);
  const Array dout = Array::required("dout", dout_object), out("out", out_object);
  const Array lse("lse", lse_object), dlse("dlse", dlse_object);
  // The engine takes what it only reads, O and lse, in the fields that the forward writes.
  const auto read = [](const Array& array) {
    const TensorView& view = array.view();
    return array ? MutableTensorView(const_cast<void*>(view.data), view.dtype, view.shape,
                                     view.strides)
                 : MutableTensorView();
  };
  AttentionTensors tensors = call.shapes(DType::f32, false);
  tensors.out = read(out);
  tensors.lse = read(lse);

  const auto is_wanted = [&](std::size_t n) { return wanted[n].is(Py_True); };
  const TensorView& mask = tensors.mask;
  const bool additive = !mask.absent() && mask.dtype != DType::boolean;
  const Dims& slopes = tensors.alibi_slopes.shape;
  const Dims& sinks = tensors.sinks.shape;
  std::array<Gradient, 6> made{
      Gradient("dq", is_wanted(0), tensors.q.dtype, tensors.q.shape),
      Gradient("dk", is_wanted(1), tensors.k.dtype, tensors.k.shape),
      Gradient("dv", is_wanted(2), tensors.v.dtype, tensors.v.shape),
      Gradient("dmask", additive && is_wanted(3), DType::f32, mask.shape),
      Gradient("dalibi", slopes.rank() == 1 && is_wanted(4), DType::f32, slopes),
      Gradient("dsinks", sinks.rank() == 1 && is_wanted(5), DType::f32, sinks)};
  AttentionGradients gradients{.dout = dout.view(), .dlse = dlse.view()};
  const std::array<MutableTensorView*, 6> views{&gradients.dq,     &gradients.dk,
                                                &gradients.dv,     &gradients.dmask,
                                                &gradients.dalibi, &gradients.dsinks};
  for (std::size_t n = 0; n < made.size(); ++n) *views[n] = made[n].shape();
  const AttentionBackwardPlan plan(tensors, gradients, call.options().options,
                                   call.options().execution);
  // dk and dv have types of their own, which arrays like k and v have.
  const auto like = [&](const Array& array) {
    return array.kind() == call.q().kind() ? &array : &call.q();
  };
  const std::array<const Array*, 6> likes{&call.q(), like(call.k()), like(call.v()),
                                          &call.q(), &call.q(),      &call.q()};
  for (std::size_t n = 0; n < made.size(); ++n) made[n].make(*likes[n], *views[n]);
  {
    const nb::gil_scoped_release without_gil;
    Workspace workspace(plan.workspace_size());
    plan.run(tensors, gradients, workspace);
  }
  return nb::make_tuple(made[0].object(), made[1].object(), made[2].object(), made[3].object(),
                        made[4].object(), made[5].object());
}

namespace {

std::vector<Array> arrays_of(const char* name, const nb::list& list) {
  std::vector<Array> arrays;
  for (const nb::handle item : list) arrays.push_back(Array::required(name, item));
  return arrays;
}

/// Adds up the states in f32 and rounds once.
nb::object merge_states(const nb::list& out_objects, const nb::list& lse_objects) {
  const std::vector<Array> outs = arrays_of("outs", out_objects);
  const std::vector<Array> lses = arrays_of("lses", lse_objects);
  if (outs.empty()) reject("outs is empty; a merge needs one state or more");
  if (outs.size() != lses.size())
    reject(fmt::format("outs has {} entries, but lses has {}", outs.size(), lses.size()));
  const Dims& shape = outs[0].view().shape;
  if (shape.rank() == 0) reject("outs[0] has rank 0; it needs [..., v_head_dim]");
  const Array out = make_result("out", outs[0], outs[0].view().dtype, shape);
  const Array lse = make_result("lse", outs[0], DType::f32, Dims(shape.begin(), shape.rank() - 1));
  const AttentionState result{out.writable(), lse.writable()};
  {
    const nb::gil_scoped_release without_gil;
    const bool rounded = out.view().dtype != DType::f32;
    Tensor sum(DType::f32, rounded ? shape : Dims{0});
    const AttentionState state{rounded ? sum.view() : result.out, result.lse};
    clear(state);
    for (std::size_t n = 0; n < outs.size(); ++n)
      merge(state, ConstAttentionState(outs[n].view(), lses[n].view()));
    if (rounded) copy_into(sum.view(), result.out);
  }
  return nb::make_tuple(nb::borrow(out.object()), nb::borrow(lse.object()));
}

}  // namespace

void bind_call(nb::module_& module) {
  module.def("attention", &attention, nb::arg("q").none(), nb::arg("k").none(), nb::arg("v").none(),
             nb::arg("options"), nb::arg("out").none(), nb::arg("return_lse").none(),
             nb::arg("sequences").none());
  module.def("check", &check_attention, nb::arg("q").none(), nb::arg("k").none(),
             nb::arg("v").none(), nb::arg("options"), nb::arg("sequences").none());
  module.def("attention_backward", &attention_backward, nb::arg("dout").none(), nb::arg("qkv"),
             nb::arg("out").none(), nb::arg("lse").none(), nb::arg("dlse").none(),
             nb::arg("options"), nb::arg("sequences").none(), nb::arg("wanted"));
  module.def("merge", &merge_states, nb::arg("outs"), nb::arg("lses"));
  nb::class_<Plan>(module, "Plan")
      .def(nb::init<nb::handle, nb::handle, nb::handle, nb::tuple>(), nb::arg("q").none(),
           nb::arg("k").none(), nb::arg("v").none(), nb::arg("options"))
      .def("run", &Plan::run, nb::arg("q").none(), nb::arg("k").none(), nb::arg("v").none(),
           nb::arg("out").none(), nb::arg("return_lse").none())
      .def_prop_ro("workspace_size", [](const Plan& plan) { return plan.first().workspace_size(); })
      .def_prop_ro("num_threads", [](const Plan& plan) { return plan.first().num_threads(); })
      .def_prop_ro("description",
                   [](const Plan& plan) { return nb::str(plan.first().description().c_str()); });
}

}  // namespace attn::python
