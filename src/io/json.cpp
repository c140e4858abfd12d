#include "io/json.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <utility>

#include "io/input_file.hpp"
#include "io/message.hpp"

namespace attn::io {

using nlohmann::json;

namespace {

/// The indexes of the largest models have some 10 MB.
constexpr std::uint64_t max_file_size = 1 << 25;

/// A value as a message shows it.
std::string shown(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_string())
    return fmt::format("the text {}", in_quotes(value.get_ref<const std::string&>()));
  return value.dump();
}

std::string name_of_item(std::string_view key, std::size_t index) {
  return fmt::format("{}[{}]", key, index);
}

std::string range_of_whole_numbers(std::int64_t low, std::int64_t high) {
  return fmt::format("a whole number in {}..{}", low, high);
}

}  // namespace

/// Builds the document from what the parser reports. nlohmann-json's own builder would keep the
/// last value of a key that stands twice, knows no limits, and keeps what has been visited.
class JsonObject::Builder final : public json::json_sax_t {
 public:
  Builder(const std::shared_ptr<Document>& document, const JsonLimits& limits, const Visitor& visit)
      : document_(*document), root_(document), limits_(limits), visit_(visit) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t& value) override { return add(std::move(value)); }  // JSON text has none

  bool start_object(std::size_t) override { return open(json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    const auto [member, is_new] = level.value->get_ref<json::object_t&>().try_emplace(name);
    if (!is_new) document_.fail(fmt::format("{} stands twice in one object", in_quotes(name)));
    level.key = &member->first;
    level.member = &member->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const json::exception& error) override {
    if (dynamic_cast<const json::out_of_range*>(&error) != nullptr)
      document_.fail("a number in it is too large");
    refuse_byte(position);
  }

  [[noreturn]] void refuse_byte(std::size_t position) const {
    document_.fail(fmt::format("its byte {} is no JSON in UTF-8", position));
  }

 private:
  /// A list or an object that the parser is in.
  struct Level {
    json* value;
    const std::string* key = nullptr;  // the current one of an object
    json* member = nullptr;            // and its value
  };

  bool add(json value) {
    place(std::move(value));
    visit_member();
    return true;
  }

  bool open(json value) {
    if (levels_.size() == limits_.max_depth)
      document_.fail(fmt::format("is nested deeper than {} levels", limits_.max_depth));
    json& placed = place(std::move(value));
    levels_.push_back({&placed});
    return true;
  }

  bool close() {
    levels_.pop_back();
    visit_member();
    return true;
  }

  /// Hands out a value of the outermost object that is complete now.
  void visit_member() {
    if (!visit_ || levels_.size() != 1 || levels_.back().member == nullptr) return;
    visit_(root_, *levels_.back().key);
    *levels_.back().member = nullptr;
  }

  /// Puts a value where the parser is. The address stays valid until the level around it ends.
  json& place(json value) {
    if (levels_.empty()) return document_.root = std::move(value);
    const Level& level = levels_.back();
    if (level.member != nullptr) return *level.member = std::move(value);
    auto& list = level.value->get_ref<json::array_t&>();
    if (list.size() == limits_.max_list_size)
      document_.fail(fmt::format("{} has more than {} values", name(), limits_.max_list_size));
    return list.emplace_back(std::move(value));
  }

  /// The keys that lead to where the parser is.
  std::string name() const {
    std::string keys;
    for (const Level& level : levels_) {
      if (level.key != nullptr) keys += fmt::format("{}{}", keys.empty() ? "" : ".", *level.key);
    }
    return keys.empty() ? "it" : in_quotes(keys);
  }

  Document& document_;
  const JsonObject root_;
  JsonLimits limits_;
  const Visitor& visit_;
  std::vector<Level> levels_;
};

void JsonObject::Document::fail(const std::string& what) const { io::fail(file, part + what); }

std::shared_ptr<const JsonObject::Document> JsonObject::parse(Document document,
                                                              std::string_view text,
                                                              const JsonLimits& limits,
                                                              const Visitor& visit) {
  const auto parsed = std::make_shared<Document>(std::move(document));
  Builder builder(parsed, limits, visit);
  // To the parser, a zero byte is the end of the text.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos)
    builder.refuse_byte(zero);
  json::sax_parse(text, &builder);
  if (!parsed->root.is_object())
    parsed->fail(fmt::format("is {}; it needs to be an object", shown(parsed->root)));
  return parsed;
}

namespace {

std::string read_whole(const std::filesystem::path& path) {
  const InputFile file(path.string());
  if (file.size() > max_file_size)
    file.fail(fmt::format("has {} bytes; at most {} are read", file.size(), max_file_size));
  return file.read_text(0, file.size());
}

}  // namespace

JsonObject::JsonObject(const std::filesystem::path& file)
    : JsonObject(parse({file.string(), {}, {}}, read_whole(file), {})) {}

std::vector<JsonObject> JsonObject::list(const std::filesystem::path& file) {
  const std::string text = "{\"list\":" + read_whole(file) + "}";
  return JsonObject(parse({file.string(), {}, {}}, text, {})).objects("list");
}

JsonObject::JsonObject(const std::string& file, const std::string& part, std::string_view text,
                       const JsonLimits& limits)
    : JsonObject(parse({file, part + ": ", {}}, text, limits)) {}

void JsonObject::stream(const std::string& file, const std::string& part, std::string_view text,
                        const JsonLimits& limits, const Visitor& visit) {
  parse({file, part + ": ", {}}, text, limits, visit);
}

JsonObject::JsonObject(std::shared_ptr<const Document> document)
    : document_(std::move(document)), object_(&document_->root) {}

JsonObject::JsonObject(const JsonObject& parent, const std::string& key, const json& object)
    : document_(parent.document_),
      object_(&object),
      prefix_(fmt::format("{}{}.", parent.prefix_, key)) {}

const json* JsonObject::find(std::string_view key) const {
  const auto found = object_->find(std::string(key));
  return found == object_->end() ? nullptr : &*found;
}

std::vector<std::string_view> JsonObject::keys() const {
  std::vector<std::string_view> names;
  names.reserve(object_->size());
  for (const auto& [name, value] : object_->get_ref<const json::object_t&>()) names.push_back(name);
  return names;
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
  if (value == nullptr) fail(fmt::format("lacks {}", full_name(key)));
  return *value;
}

JsonObject JsonObject::object(std::string_view key) const {
  const json& value = at(key);
  if (!value.is_object()) refuse(key, "an object");
  return {*this, std::string(key), value};
}

std::vector<JsonObject> JsonObject::objects(std::string_view key) const {
  std::vector<JsonObject> list;
  if (!has(key)) return list;
  if (!at(key).is_array()) refuse(key, "a list of objects");
  for (const json& value : at(key)) {
    if (!value.is_object())
      fail(fmt::format("{}; it needs to be an object", got_item(key, list.size())));
    list.push_back({*this, name_of_item(key, list.size()), value});
  }
  return list;
}

std::optional<std::int64_t> whole_number(const json& value, std::int64_t low, std::int64_t high) {
  // The parser makes unsigned integers of numbers that are not negative.
  const bool fits =
      value.is_number_unsigned()
          ? value.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<std::int64_t>::max()}
          : value.is_number_integer();
  if (!fits || value.get<std::int64_t>() < low || value.get<std::int64_t>() > high)
    return std::nullopt;
  return value.get<std::int64_t>();
}

std::int64_t JsonObject::integer(std::string_view key, std::int64_t low, std::int64_t high) const {
  const std::optional<std::int64_t> number = whole_number(at(key), low, high);
  if (!number) refuse(key, range_of_whole_numbers(low, high));
  return *number;
}

std::vector<std::int64_t> JsonObject::integers(std::string_view key, std::int64_t low,
                                               std::int64_t high) const {
  if (!at(key).is_array()) refuse(key, "a list of whole numbers");
  std::vector<std::int64_t> numbers;
  for (const json& value : at(key)) {
    const std::optional<std::int64_t> number = whole_number(value, low, high);
    if (!number)
      fail(fmt::format("{}; it needs {}", got_item(key, numbers.size()),
                       range_of_whole_numbers(low, high)));
    numbers.push_back(*number);
  }
  return numbers;
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
  return has(key) ? integer(key, low, high) : missing;
}

double JsonObject::number_or(std::string_view key, double missing, double low, double high) const {
  return has(key) ? number(key, low, high) : missing;
}

bool JsonObject::flag_or(std::string_view key, bool missing) const {
  return has(key) ? flag(key) : missing;
}

std::string JsonObject::full_name(std::string_view key) const {
  return in_quotes(fmt::format("{}{}", prefix_, key));
}

std::string JsonObject::got(std::string_view key) const {
  return fmt::format("{} is {}", full_name(key), shown(at(key)));
}

std::string JsonObject::got_item(std::string_view key, std::size_t index) const {
  return fmt::format("{} is {}", full_name(name_of_item(key, index)), shown(at(key)[index]));
}

void JsonObject::fail(const std::string& what) const { document_->fail(what); }

void JsonObject::refuse(std::string_view key, const std::string& needed) const {
  fail(fmt::format("{}; it needs {}", got(key), needed));
}

void JsonObject::unsupported(std::string_view key, const std::string& supported) const {
  fail_unsupported(got(key), supported);
}

void JsonObject::unsupported_item(std::string_view key, std::size_t index,
                                  const std::string& supported) const {
  fail_unsupported(got_item(key, index), supported);
}

void JsonObject::fail_unsupported(const std::string& got, const std::string& supported) const {
  io::fail(
      document_->file,
      fmt::format("{}{}, which is not supported; it needs {}", document_->part, got, supported),
      ErrorCode::unsupported);
}

}  // namespace attn::io
