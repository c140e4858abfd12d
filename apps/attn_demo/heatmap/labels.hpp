// Labels of tokens: short readable text for any bytes that a token consists of.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace attn::apps::demo {

/// The token in characters of font.hpp. A space becomes a middle dot, a newline \n, a tab \t, a
/// carriage return \r. Any other byte that is not printable ASCII becomes \x and two hexadecimal
/// digits.
std::string readable(std::string_view token);

/// Like readable(), but spaces stay spaces.
std::string readable_title(std::string_view text);

/// The label, cut to at most `most` characters. An ellipsis ends a label that was cut.
std::string shortened(const std::string& label, std::size_t most);

/// readable() of each part between commas.
std::vector<std::string> comma_labels(std::string_view text);
/// readable() of each line.
std::vector<std::string> line_labels(std::string_view text);

/// The label at a place of an axis, or the number of the place if there are no labels.
std::string label_at(const std::vector<std::string>& labels, std::int64_t place);

/// The label options. Members are empty if their option is not given.
struct LabelTexts {
  std::string option;               // the option that `labels` comes from: --labels or --tokens
  std::vector<std::string> labels;  // one for each query, or for each key: then the last ones
                                    // are also those of the queries
  std::vector<std::string> key_labels{};  // one for each key
};
struct AxisLabels {
  std::vector<std::string> rows, columns;
};
/// Assigns labels to both axes. Throws Error if their number fits neither axis.
AxisLabels axis_labels(const LabelTexts& texts, std::int64_t q_len, std::int64_t kv_len);

/// Text in characters of font.hpp as UTF-8, for a terminal.
std::string utf8(std::string_view letters);

}  // namespace attn::apps::demo
