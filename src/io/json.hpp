// JSON from files that may be broken or hostile: parsed with limits, and read key by key with
// errors that name the file and the key. nlohmann-json parses (RFC 8259, UTF-8).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace attn::io {

/// What a JSON text may hold at most. The parser stops where a limit is exceeded.
struct JsonLimits {
  /// Lists and objects inside each other, the outermost included.
  std::size_t max_depth = 32;
  /// Values of one list.
  std::size_t max_list_size = std::numeric_limits<std::size_t>::max();
};

/// The value of a whole number in low..high; nothing for any other value.
std::optional<std::int64_t> whole_number(const nlohmann::json& value, std::int64_t low,
                                         std::int64_t high);

/// An object of a JSON text. All objects of a text share what was parsed, so that copies are cheap.
/// Each function throws Error(io) with the file, the key, the value that is there and what is
/// needed.
class JsonObject {
 public:
  /// The whole file is the object. Throws Error(io) for what is no JSON in UTF-8, names a key twice
  /// in one object, holds a number that no double can hold, or is larger or deeper than the files
  /// of any model.
  explicit JsonObject(const std::filesystem::path& file);
  /// The object is a part of a file, for example its header. Messages are "FILE: PART: ...".
  JsonObject(const std::string& file, const std::string& part, std::string_view text,
             const JsonLimits& limits);

  /// The objects of a file that is a list of them; messages call them list[0], list[1], ...
  static std::vector<JsonObject> list(const std::filesystem::path& file);

  /// Receives the outermost object, which at this time holds the value of one key alone.
  using Visitor = std::function<void(const JsonObject& object, std::string_view key)>;
  /// Reads such a part as a stream: calls `visit` for each key as soon as its value has been read,
  /// in the order of the text, and forgets the value. A long text takes the memory of its keys.
  static void stream(const std::string& file, const std::string& part, std::string_view text,
                     const JsonLimits& limits, const Visitor& visit);

  const std::string& file() const noexcept { return document_->file; }
  /// Sorted. The views last as long as any object of the text.
  std::vector<std::string_view> keys() const;
  /// Whether the key is there and its value is not null.
  bool has(std::string_view key) const;
  bool is_null(std::string_view key) const;
  /// The value of a key, which has to be there.
  const nlohmann::json& at(std::string_view key) const;
  JsonObject object(std::string_view key) const;
  /// A list of objects; empty if the key is missing or null.
  std::vector<JsonObject> objects(std::string_view key) const;

  std::int64_t integer(std::string_view key, std::int64_t low, std::int64_t high) const;
  /// A list of whole numbers, each in low..high.
  std::vector<std::int64_t> integers(std::string_view key, std::int64_t low,
                                     std::int64_t high) const;
  double number(std::string_view key, double low, double high) const;
  bool flag(std::string_view key) const;
  const std::string& text(std::string_view key) const;
  /// These return `missing` where the key is missing or null.
  std::int64_t integer_or(std::string_view key, std::int64_t missing, std::int64_t low,
                          std::int64_t high) const;
  double number_or(std::string_view key, double missing, double low, double high) const;
  bool flag_or(std::string_view key, bool missing) const;

  [[noreturn]] void fail(const std::string& what) const;
  /// Says the value of the key, and that `needed` is needed instead.
  [[noreturn]] void refuse(std::string_view key, const std::string& needed) const;
  /// Throws Error(unsupported): the value may be right, but this library does not compute it.
  [[noreturn]] void unsupported(std::string_view key, const std::string& supported) const;
  /// The same for one value of a list.
  [[noreturn]] void unsupported_item(std::string_view key, std::size_t index,
                                     const std::string& supported) const;

 private:
  struct Document {
    std::string file;
    std::string part;  // with ": " at its end; empty for a whole file
    nlohmann::json root;

    [[noreturn]] void fail(const std::string& what) const;
  };
  class Builder;

  explicit JsonObject(std::shared_ptr<const Document> document);
  JsonObject(const JsonObject& parent, const std::string& key, const nlohmann::json& object);
  static std::shared_ptr<const Document> parse(Document document, std::string_view text,
                                               const JsonLimits& limits, const Visitor& visit = {});
  const nlohmann::json* find(std::string_view key) const;
  std::string full_name(std::string_view key) const;
  std::string got(std::string_view key) const;
  std::string got_item(std::string_view key, std::size_t index) const;
  [[noreturn]] void fail_unsupported(const std::string& got, const std::string& supported) const;

  std::shared_ptr<const Document> document_;
  const nlohmann::json* object_;  // a part of the document
  std::string prefix_;            // of keys in messages: "rope_scaling."
};

}  // namespace attn::io
