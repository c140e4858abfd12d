#include "command_line.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "options.hpp"

namespace attn::apps {
namespace {

/// No text with it in front is empty or looks like an option, so CLI11 takes it for a value.
constexpr char mark = '=';

/// Follows the command line through commands and options.
class Reader {
 public:
  Reader(const CLI::App& app, std::span<char* const> arguments)
      : app_(&app), path_(app.get_name()), rest_(arguments) {}

  /// The arguments for CLI11, without those of a command that takes any.
  std::vector<std::string> read() {
    while (!rest_.empty() && !app_->get_allow_extras()) {
      const std::string argument = next();
      if (argument.starts_with('-'))
        read_option(argument);
      else
        enter(argument);
    }
    if (needs_name()) reject("{} needs a name after it, {}", path_, names());
    return std::move(read_);
  }

 private:
  std::string next() {
    std::string argument = rest_.front();
    rest_ = rest_.subspan(1);
    return argument;
  }

  /// Goes on with the command of this name.
  void enter(const std::string& name) {
    const std::vector<const CLI::App*> commands = app_->get_subcommands({});
    if (commands.empty()) reject("{} does not know \"{}\"; {}", path_, name, advice_);
    const auto found = std::find_if(commands.begin(), commands.end(), [&](const CLI::App* command) {
      return command->get_name() == name;
    });
    if (found == commands.end())
      reject("{} does not know \"{}\"; it needs a name, {}", path_, name, names());
    app_ = *found;
    path_ += " " + name;
    entered_ = true;
    read_.push_back(name);
  }

  void read_option(const std::string& argument) {
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const CLI::Option* const option = app_->get_option_no_throw(name);
    if (option == nullptr) refuse_option(name);
    asks_for_help_ |= option == app_->get_help_ptr() || option == app_->get_version_ptr();
    if (option->get_items_expected_max() == 0) return read_flag(name, argument);
    if (option->get_items_expected_max() == 1 && !given_.insert(path_ + name).second)
      reject("{} is given twice", name);
    read_.push_back(name);
    const bool optional = option->get_items_expected_min() == 0;
    std::string value;
    if (equals != std::string::npos) {
      value = argument.substr(equals + 1);
    } else if (!rest_.empty() && !(optional && std::string_view(rest_.front()).starts_with("--"))) {
      value = next();
      if (value.starts_with("--"))
        advice_ = fmt::format("{} has taken \"{}\" as its value", name, value);
    } else {
      return;
    }
    if (optional && value.empty()) reject("{} is empty; it needs a value, or nothing", name);
    read_.push_back(mark + value);
    if (option->get_items_expected_max() == 1) return;
    while (!rest_.empty() && !std::string_view(rest_.front()).starts_with("--"))
      read_.push_back(mark + next());
  }

  void read_flag(const std::string& name, const std::string& argument) {
    if (argument != name) reject("{} takes no value, but it is given as {}", name, argument);
    read_.push_back(name);
  }

  [[noreturn]] void refuse_option(const std::string& name) const {
    if (needs_name() || (!entered_ && takes_names_alone()))
      reject("{} does not know \"{}\"; it needs a name first, {}", path_, name, names());
    reject("{} has no option {}; {} --help lists those that it has", path_, name, path_);
  }

  /// A command that has commands itself, such as `op`, needs the name of one.
  bool needs_name() const {
    return entered_ && !asks_for_help_ && !app_->get_subcommands({}).empty();
  }
  bool takes_names_alone() const {
    const std::vector<const CLI::Option*> options = app_->get_options();
    return !app_->get_subcommands({}).empty() &&
           std::all_of(options.begin(), options.end(), [&](const CLI::Option* option) {
             return option == app_->get_help_ptr() || option == app_->get_version_ptr();
           });
  }
  std::string names() const {
    std::vector<std::string> names;
    for (const CLI::App* command : app_->get_subcommands({})) {
      if (!command->get_group().empty()) names.push_back(command->get_name());  // else not listed
    }
    return fmt::format("one of {}", fmt::join(names, ", "));
  }

  const CLI::App* app_;
  std::string path_;  // the names that led to it
  std::span<char* const> rest_;
  std::vector<std::string> read_;
  std::set<std::string> given_;
  std::string advice_ = "values follow the names of options";
  bool entered_ = false, asks_for_help_ = false;
};

}  // namespace

void parse_command_line(CLI::App& app, int argc, char** argv) {
  const std::span<char* const> arguments(argv, static_cast<std::size_t>(argc));
  std::vector<std::string> read =
      Reader(app, arguments.subspan(std::min<std::size_t>(1, arguments.size()))).read();
  std::reverse(read.begin(), read.end());  // CLI11 takes them from the end
  app.parse(read);
}

std::string_view unmarked(std::string_view value) {
  return value.starts_with(mark) ? value.substr(1) : value;
}

}  // namespace attn::apps
