#include "labels.hpp"

#include <attn/error.hpp>

#include <fmt/format.h>

#include <algorithm>

#include "apps/drawing/font.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

std::vector<std::string> readable_parts(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (const std::string_view part : split(text, separator)) parts.push_back(readable(part));
  return parts;
}

std::string readable_byte(char byte) {
  switch (byte) {
    case ' ': return {middle_dot};
    case '\n': return "\\n";
    case '\t': return "\\t";
    case '\r': return "\\r";
    default: break;
  }
  if (byte > ' ' && byte <= '~') return {byte};
  return fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
}

}  // namespace

std::string readable(std::string_view token) {
  std::string label;
  for (const char byte : token) label += readable_byte(byte);
  return label;
}

std::string readable_title(std::string_view text) {
  std::string title = readable(text);
  std::replace(title.begin(), title.end(), middle_dot, ' ');
  return title;
}

std::string shortened(const std::string& label, std::size_t most) {
  return label.size() <= most ? label : label.substr(0, most - 1) + ellipsis;
}

std::vector<std::string> comma_labels(std::string_view text) { return readable_parts(text, ','); }

std::vector<std::string> line_labels(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return readable_parts(text, '\n');
}

std::string label_at(const std::vector<std::string>& labels, std::int64_t place) {
  return labels.empty() ? fmt::format("{}", place) : labels[static_cast<std::size_t>(place)];
}

AxisLabels axis_labels(const LabelTexts& texts, std::int64_t q_len, std::int64_t kv_len) {
  const auto reject = [&](const std::string& option, std::size_t count, const std::string& needed) {
    apps::reject("{} has {} labels; it needs {}", option, count, needed);
  };
  AxisLabels result{{}, texts.key_labels};
  const auto keys = static_cast<std::size_t>(kv_len), queries = static_cast<std::size_t>(q_len);
  if (!result.columns.empty() && result.columns.size() != keys) {
    reject("--key-labels", result.columns.size(), fmt::format("{}, one for each key", kv_len));
  }
  const std::vector<std::string>& labels = texts.labels;
  if (labels.empty()) return result;
  if (labels.size() == keys && result.columns.empty()) result.columns = labels;
  if (labels.size() == queries) {
    result.rows = labels;
  } else if (labels.size() == keys && queries < keys) {
    result.rows.assign(labels.end() - q_len, labels.end());
  } else {
    reject(texts.option, labels.size(),
           fmt::format("{}, one for each query, or {}, one for each key", q_len, kv_len));
  }
  return result;
}

std::string utf8(std::string_view letters) {
  std::string result;
  for (const char letter : letters) {
    switch (letter) {
      case ellipsis: result += "\u2026"; break;
      case middle_dot: result += "\u00b7"; break;
      case times_sign: result += "\u00d7"; break;
      default: result += letter;
    }
  }
  return result;
}

}  // namespace attn::apps::demo
