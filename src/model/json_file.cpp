#include "model/json_file.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <cstddef>
#include <memory>
#include <unordered_set>
#include <vector>

#include "io/files.hpp"

namespace attn::model {

using nlohmann::json;

namespace {

/// Indexes of the largest models have some 10 MB.
constexpr std::uint64_t max_size = 1 << 25;
constexpr int max_depth = 32;

/// A value as a message shows it.
std::string shown(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_string())
    return fmt::format("the text {}", io::in_quotes(value.get_ref<const std::string&>()));
  return value.dump();
}

/// Watches over the parser. Of a key that stands twice, it would keep the last.
class Watch {
 public:
  explicit Watch(const io::InputFile& file) : file_(file) {}

  bool operator()(int depth, json::parse_event_t event, const json& parsed) {
    if (depth > max_depth) file_.fail(fmt::format("is nested deeper than {} levels", max_depth));
    if (event == json::parse_event_t::object_start) {
      keys_.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      keys_.pop_back();
    } else if (event == json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second)
        file_.fail(fmt::format("{} stands twice in one object", io::in_quotes(key)));
    }
    return true;
  }

 private:
  const io::InputFile& file_;
  std::vector<std::unordered_set<std::string>> keys_;  // of the objects around the current place
};

}  // namespace

json parse_json_file(const std::filesystem::path& path) {
  const io::InputFile file(path.string());
  if (file.size() > max_size)
    file.fail(fmt::format("has {} bytes; at most {} are read", file.size(), max_size));
  std::string text(file.size(), '\0');
  file.read(0, text.data(), text.size());
  const auto refuse_byte = [&](std::size_t position) {
    file.fail(fmt::format("its byte {} is no JSON in UTF-8", position));
  };
  // To the parser, a zero byte is the end.
  if (const std::size_t zero = text.find('\0'); zero != std::string::npos) refuse_byte(zero);
  json parsed;
  try {
    Watch watch(file);
    parsed = json::parse(text, [&](int depth, json::parse_event_t event, const json& value) {
      return watch(depth, event, value);
    });
  } catch (const json::parse_error& error) {
    refuse_byte(error.byte);
  } catch (const json::exception&) {
    file.fail("a number in it is too large");
  }
  return parsed;
}

JsonObject::JsonObject(const std::filesystem::path& file)
    : file_(file.string()), json_(std::make_shared<const json>(parse_json_file(file))) {
  if (!json_->is_object()) fail(fmt::format("is {}; it needs to be an object", shown(*json_)));
}

const json* JsonObject::find(std::string_view key) const {
  const auto found = json_->find(std::string(key));
  return found == json_->end() ? nullptr : &*found;
}

bool JsonObject::has(std::string_view key) const {
  const json* const value = find(key);
  return value != nullptr && !value->is_null();
}

bool JsonObject::is_null(std::string_view key) const {
  const json* const value = find(key);
  return value != nullptr && value->is_null();
}

const json& JsonObject::at(std::string_view key) const {
  const json* const value = find(key);
  if (value == nullptr) fail(fmt::format("lacks {}", named(key)));
  return *value;
}

JsonObject JsonObject::object(std::string_view key) const {
  const json& value = at(key);
  if (!value.is_object()) refuse(key, "an object");
  return {file_, fmt::format("{}{}.", prefix_, key), {json_, &value}};
}

std::vector<JsonObject> JsonObject::objects(std::string_view key) const {
  std::vector<JsonObject> list;
  if (!has(key)) return list;
  if (!at(key).is_array()) refuse(key, "a list of objects");
  for (const json& value : at(key)) {
    const std::string item = fmt::format("{}[{}]", key, list.size());
    if (!value.is_object())
      fail(fmt::format("{} is {}; it needs to be an object", named(item), shown(value)));
    list.push_back({file_, fmt::format("{}{}.", prefix_, item), {json_, &value}});
  }
  return list;
}

std::int64_t JsonObject::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const json& value = at(key);
  // Of numbers that are not negative the parser makes unsigned ones.
  const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= INT64_MAX
                                               : value.is_number_integer();
  if (!fits || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high) {
    refuse(key, fmt::format("a whole number in {}..{}", low, high));
  }
  return value.get<std::int64_t>();
}

double JsonObject::number(std::string_view key, double low, double high) const {
  const json& value = at(key);
  if (!value.is_number() || !(value.get<double>() >= low && value.get<double>() <= high)) {
    refuse(key, fmt::format("a number in {}..{}", low, high));
  }
  return value.get<double>();
}

bool JsonObject::flag(std::string_view key) const {
  if (!at(key).is_boolean()) refuse(key, "true or false");
  return at(key).get<bool>();
}

const std::string& JsonObject::text(std::string_view key) const {
  if (!at(key).is_string()) refuse(key, "a text");
  return at(key).get_ref<const std::string&>();
}

std::int64_t JsonObject::integer_or(std::string_view key, std::int64_t missing, std::int64_t low,
                                    std::int64_t high) const {
  return find(key) != nullptr ? integer(key, low, high) : missing;
}

double JsonObject::number_or(std::string_view key, double missing, double low, double high) const {
  return find(key) != nullptr ? number(key, low, high) : missing;
}

bool JsonObject::flag_or(std::string_view key, bool missing) const {
  return find(key) != nullptr ? flag(key) : missing;
}

std::string JsonObject::got(std::string_view key) const {
  return fmt::format("{} is {}", named(key), shown(at(key)));
}

std::string JsonObject::named(std::string_view key) const {
  return io::in_quotes(fmt::format("{}{}", prefix_, key));
}

void JsonObject::fail(const std::string& what) const { io::fail(file_, what); }

void JsonObject::refuse(std::string_view key, const std::string& needed) const {
  fail(fmt::format("{}; it needs {}", got(key), needed));
}

void JsonObject::unsupported(std::string_view key, const std::string& supported) const {
  io::fail(file_, fmt::format("{}, which is not supported; it needs {}", got(key), supported),
           ErrorCode::unsupported);
}

}  // namespace attn::model
