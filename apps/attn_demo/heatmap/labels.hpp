// Tokens as labels: whatever bytes they hold, something short that can be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attn::apps::demo {

/// Letters of font.hpp alone: a space becomes a middle dot, a newline \n, a tab \t, a return \r,
/// and any other byte that is no ASCII \x and its two hexadecimal digits.
std::string readable(std::string_view token);

/// The same of a title, whose spaces stay.
std::string readable_title(std::string_view text);

/// At most so many letters, the last one an ellipsis where some are left out.
std::string shortened(const std::string& label, std::size_t most);

/// readable() of what lies between the commas.
std::vector<std::string> comma_labels(std::string_view text);
/// readable() of each line.
std::vector<std::string> line_labels(std::string_view text);

/// The label at a place of an axis; its number where the axis has none.
std::string label_at(const std::vector<std::string>& labels, std::int64_t place);

/// What the command line says of labels; empty where it says nothing.
struct LabelTexts {
  std::string option;  // --labels or --tokens, whichever filled the next one
  std::vector<std::string>
      labels;  // of the queries, or of all keys, whose last ones the queries are
  std::vector<std::string> key_labels{};  // of the keys
};
struct AxisLabels {
  std::vector<std::string> rows, columns;
};
/// Gives both axes theirs. Throws Error where the numbers do not fit.
AxisLabels axis_labels(const LabelTexts& texts, std::int64_t q_len, std::int64_t kv_len);

/// For a terminal, which takes UTF-8.
std::string utf8(std::string_view letters);

}  // namespace attn::apps::demo
