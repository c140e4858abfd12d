// The module attn._native. The package's Python code gives its functions their arguments, names and
// documentation.
#include <nanobind/nanobind.h>
#include <attn/info.hpp>
#include <attn/isa.hpp>

#include <string_view>

#include "call.hpp"
#include "errors.hpp"
#include "options.hpp"

namespace attn::python {
namespace {

nb::str text(std::string_view view) { return nb::str(view.data(), view.size()); }

nb::dict info() {
  const BuildInfo build = build_info();
  nb::list isas;
  for (const Isa isa : available_isas()) isas.append(text(name_of(isa)));
  nb::dict result;
  result["version"] = text(build.version);
  result["compiler"] = text(build.compiler);
  result["onednn"] =
      build.onednn_version.empty() ? nb::none() : nb::object(text(build.onednn_version));
  result["isa"] = text(name_of(default_isa()));
  result["isas"] = isas;
  result["num_threads"] = get_num_threads();
  return result;
}

}  // namespace

NB_MODULE(_native, module) {
  bind_errors(module);
  module.def("info", &info);
  module.def("set_num_threads", &set_num_threads, nb::arg("n").none());
  module.def("get_num_threads", &get_num_threads);
  bind_block_mask(module);
  bind_call(module);
  bind_caches(module);
  bind_functions(module);
}

}  // namespace attn::python
