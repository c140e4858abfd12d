// Output for people: quantities with units, tables, and colors if the terminal has them.
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
/// The width of the terminal in characters. Without a terminal it is COLUMNS, or 100.
int terminal_width();

/// Prints "attn_demo: notice: ..." as one line on standard error.
void notify(std::string message);

enum class Style { bold, good, bad };
/// The text in a style, or unchanged if there are no colors.
std::string styled(Style style, const std::string& text);

/// Prints rows of equal length. The first row is the heading. The first column is aligned left, the
/// others right. A row of one cell is printed as a line between the others.
void print_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace attn::apps::demo
