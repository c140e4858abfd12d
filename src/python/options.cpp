#include "options.hpp"

#include <fmt/format.h>
#include <attn/info.hpp>

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>

#include "torch_threads.hpp"

namespace attn::python {
namespace {

std::atomic<int> chosen_num_threads{0};  // 0: none was chosen

/// A number by itself. An array of one element is none: PyTorch's may be variables of a gradient.
bool is_number(nb::handle value) {
  if (PyBool_Check(value.ptr())) return false;
  if (PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr())) return true;
  const PyNumberMethods* const number = Py_TYPE(value.ptr())->tp_as_number;
  return number != nullptr && (number->nb_float != nullptr || number->nb_index != nullptr) &&
         kind_of(value) == Kind::other && !nb::hasattr(value, "__dlpack__");
}

[[noreturn]] void reject_option(const char* name, nb::handle value, const char* needed) {
  reject_type(fmt::format("{} is of type {}; it needs {}", name, class_name(value), needed));
}

QueryPosition position_of(const char* name, nb::handle value) {
  if (!nb::isinstance<nb::str>(value)) return QueryPosition::at(required_integer(name, value));
  const std::string text = required_text(name, value);
  if (text == "bottom_right") return QueryPosition::bottom_right();
  if (text == "top_left") return QueryPosition::top_left();
  reject(
      fmt::format("{} is \"{}\"; it needs \"bottom_right\", \"top_left\" or a number", name, text));
}

/// NumPy's bool is a bool too, but no number is.
std::optional<bool> optional_bool(nb::handle value) {
  if (PyBool_Check(value.ptr())) return value.is(Py_True);
  const std::string type = class_name(value);
  if (type == "numpy.bool" || type == "numpy.bool_") return PyObject_IsTrue(value.ptr()) == 1;
  return std::nullopt;
}

std::optional<Causal> causal_of(nb::handle value) {
  if (value.is_none()) reject_option("causal", value, "a bool, a string or an integer");
  if (const std::optional<bool> flag = optional_bool(value))
    return *flag ? std::optional(Causal::bottom_right()) : std::nullopt;
  return Causal{position_of("causal", value)};
}

std::optional<Window> window_of(nb::handle value) {
  if (value.is_none()) return std::nullopt;
  if (!nb::isinstance<nb::tuple>(value) && !nb::isinstance<nb::list>(value))
    reject_option("window", value, "a pair (left, right)");
  const nb::tuple sides{nb::borrow(value)};
  if (sides.size() != 2) reject(fmt::format("window has {} entries; it needs 2", sides.size()));
  return Window{optional_integer("window left", sides[0]),
                optional_integer("window right", sides[1])};
}

Normalizer normalizer_of(nb::handle name, nb::handle alpha, nb::handle bias) {
  const std::string text = required_text("normalizer", name);
  const std::optional<float> a = optional_float("alpha", alpha);
  const std::optional<float> b = optional_float("sigmoid_bias", bias);
  if (a && text != "entmax")
    reject(fmt::format("alpha is given with normalizer {}; it belongs to entmax", text));
  if (b && text != "sigmoid")
    reject(fmt::format("sigmoid_bias is given with normalizer {}; it belongs to sigmoid", text));
  if (text == "softmax") return Normalizer::softmax();
  if (text == "sigmoid") return Normalizer::sigmoid(b);
  if (text == "sparsemax") return Normalizer::sparsemax();
  if (text == "entmax15") return Normalizer::entmax(1.5f);
  if (text != "entmax") {
    reject(
        fmt::format("normalizer is \"{}\"; it needs softmax, sigmoid, sparsemax, entmax15 or "
                    "entmax",
                    text));
  }
  if (!a) reject("normalizer is entmax without alpha");
  return Normalizer::entmax(*a);
}

ScoreMatmul score_matmul_of(nb::handle value) {
  const std::string text = required_text("score_matmul", value);
  if (text == "auto") return AttentionOptions().score_matmul;
  if (text == "attn") return ScoreMatmul::built_in;
  if (text == "onednn") return ScoreMatmul::onednn;
  reject(fmt::format("score_matmul is \"{}\"; it needs auto, attn or onednn", text));
}

std::optional<BlockMask> block_mask_of(nb::handle value) {
  if (value.is_none()) return std::nullopt;
  if (!nb::isinstance<BlockMask>(value)) reject_option("block_mask", value, "an attn.BlockMask");
  return nb::cast<BlockMask>(value);
}

int checked_num_threads(nb::handle value) {
  const std::int64_t number = required_integer("num_threads", value);
  if (number < 1) reject(fmt::format("num_threads is {}; it needs 1 or more", number));
  return static_cast<int>(std::min<std::int64_t>(number, max_num_threads));
}

}  // namespace

std::optional<float> optional_float(const char* name, nb::handle value) {
  if (value.is_none()) return std::nullopt;
  if (!is_number(value)) reject_option(name, value, "a number");
  const double number = PyFloat_AsDouble(value.ptr());
  if (number == -1 && PyErr_Occurred() != nullptr) {
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) throw nb::python_error();
    PyErr_Clear();
    reject(fmt::format("{} is an integer that is too large for a float", name));
  }
  return static_cast<float>(number);
}

float required_float(const char* name, nb::handle value) {
  if (value.is_none()) reject_option(name, value, "a number");
  return *optional_float(name, value);
}

std::optional<std::int64_t> optional_integer(const char* name, nb::handle value) {
  if (value.is_none()) return std::nullopt;
  if (!is_number(value) || !PyIndex_Check(value.ptr())) reject_option(name, value, "an integer");
  const nb::object number = nb::steal(PyNumber_Index(value.ptr()));
  if (!number.is_valid()) throw nb::python_error();
  int overflow = 0;
  const std::int64_t result = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
  if (overflow != 0) reject(fmt::format("{} is an integer of more than 64 bits", name));
  if (result == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
  return result;
}

std::int64_t required_integer(const char* name, nb::handle value) {
  if (value.is_none()) reject_option(name, value, "an integer");
  return *optional_integer(name, value);
}

bool required_bool(const char* name, nb::handle value) {
  const std::optional<bool> flag = optional_bool(value);
  if (!flag) reject_option(name, value, "a bool");
  return *flag;
}

std::string required_text(const char* name, nb::handle value) {
  if (!nb::isinstance<nb::str>(value)) reject_option(name, value, "a string");
  const char* const text = PyUnicode_AsUTF8(value.ptr());
  if (text != nullptr) return text;
  PyErr_Clear();
  reject(fmt::format("{} is no valid Unicode text", name));
}

void set_num_threads(nb::handle number) { chosen_num_threads = checked_num_threads(number); }

int get_num_threads() {
  const int chosen = chosen_num_threads;
  return chosen != 0 ? chosen : build_info().num_threads;
}

namespace {

int torch_num_threads() {
  static PyObject* const torch = PyUnicode_InternFromString("torch");
  static PyObject* const get_num_threads = PyUnicode_InternFromString("get_num_threads");
  const nb::object module = nb::steal(PyImport_GetModule(torch));
  const nb::object number = nb::steal(PyObject_CallMethodNoArgs(module.ptr(), get_num_threads));
  if (!number.is_valid()) throw nb::python_error();
  return checked_num_threads(number);
}

}  // namespace

Execution default_execution(Kind kind) { return execution_of(nb::none(), nb::none(), kind); }

Execution execution_of(nb::handle num_threads, nb::handle isa, Kind kind) {
  Execution execution;
  const int chosen = chosen_num_threads;
  if (!num_threads.is_none())
    execution.num_threads = checked_num_threads(num_threads);
  else if (chosen != 0)
    execution.num_threads = chosen;
  else if (kind == Kind::torch)
    execution.num_threads = torch_num_threads();
  if (!isa.is_none()) execution.isa = isa_from_name(required_text("isa", isa));
  if (kind == Kind::torch) execution.executor = torch_threads();
  return execution;
}

CallOptions::CallOptions(const nb::tuple& values, Kind kind) {
  const auto value = [&](Option option) {
    return nb::object(values[static_cast<std::size_t>(option)]);
  };
  options.softmax_scale = optional_float("scale", value(Option::scale));
  options.softcap = optional_float("softcap", value(Option::softcap));
  options.causal = causal_of(value(Option::causal));
  const nb::object q_position = value(Option::q_position);
  if (!q_position.is_none()) options.q_position = position_of("q_position", q_position);
  options.window = window_of(value(Option::window));
  options.normalizer =
      normalizer_of(value(Option::normalizer), value(Option::alpha), value(Option::sigmoid_bias));
  options.block_mask = block_mask_of(value(Option::block_mask));
  options.score_matmul = score_matmul_of(value(Option::score_matmul));
  mask = Array("mask", value(Option::mask));
  alibi_slopes = Array("alibi_slopes", value(Option::alibi_slopes));
  kv_lens = Array("kv_lens", value(Option::kv_lens));
  sinks = Array("sinks", value(Option::sinks));
  execution = execution_of(value(Option::num_threads), value(Option::isa), kind);
}

void CallOptions::add_to(AttentionTensors& tensors) const {
  tensors.mask = mask.view();
  tensors.alibi_slopes = alibi_slopes.view();
  tensors.kv_lens = kv_lens.view();
  tensors.sinks = sinks.view();
}

}  // namespace attn::python
