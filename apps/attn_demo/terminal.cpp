#include "terminal.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>

#include "apps/support/program.hpp"

namespace attn::apps::demo {
std::string format_error(double error) { return error == 0 ? "0" : fmt::format("{:.1e}", error); }

std::string format_index(const std::vector<std::int64_t>& index) {
  return index.empty() ? "-" : fmt::format("[{}]", fmt::join(index, ", "));
}

void notify(std::string message) {
  const auto control = [](unsigned char c) { return std::iscntrl(c) != 0; };
  std::replace_if(message.begin(), message.end(), control, ' ');
  print_notice(fmt::format("attn_demo: notice: {}\n", message));
}

bool colored() {
  static const bool wanted = [] {
    const char* const terminal = std::getenv("TERM");
    const bool capable = terminal != nullptr && std::string_view(terminal) != "dumb";
    return isatty(STDOUT_FILENO) != 0 && capable && std::getenv("NO_COLOR") == nullptr;
  }();
  return wanted;
}

int terminal_width() {
  constexpr int usual = 100, least = 20;
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    return std::max<int>(least, size.ws_col);
  const char* const columns = std::getenv("COLUMNS");
  const int number = columns != nullptr ? std::atoi(columns) : 0;
  return number > 0 ? std::max(least, number) : usual;
}

std::string styled(Style style, const std::string& text) {
  if (!colored()) return text;
  const char* const code = style == Style::bold ? "1" : style == Style::good ? "32" : "31";
  return fmt::format("\033[{}m{}\033[0m", code, text);
}

void print_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size());
  for (const auto& row : rows) {
    if (row.size() == 1) continue;
    for (std::size_t column = 0; column < row.size(); ++column)
      widths[column] = std::max(widths[column], row[column].size());
  }
  for (const auto& row : rows) {
    std::string line = row.size() == 1 ? row[0] : fmt::format("{:<{}}", row[0], widths[0]);
    for (std::size_t column = 1; column < row.size(); ++column)
      line += fmt::format("  {:>{}}", row[column], widths[column]);
    fmt::print("{}\n", &row == &rows.front() ? styled(Style::bold, line) : line);
  }
}

}  // namespace attn::apps::demo
