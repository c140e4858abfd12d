// What people read: quantities with units, tables, and color where a terminal shows it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "apps/support/quantities.hpp"

namespace attn::apps::demo {

/// "3.1e-07", or "0"
std::string format_error(double error);
/// "[0, 3, 17, 64]"; "-" if empty
std::string format_index(const std::vector<std::int64_t>& index);

/// Whether standard output is a terminal that shows colors, and NO_COLOR is not set.
bool colored();
/// Letters in a line of that terminal; where there is none, those that COLUMNS says, or 100.
int terminal_width();

enum class Style { bold, good, bad };
/// Unchanged without colors.
std::string styled(Style style, const std::string& text);

/// Rows of equal length, the first one the heading; the first column lines up on the left, the
/// others on the right. A row of one cell is a line between the others.
void print_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace attn::apps::demo
