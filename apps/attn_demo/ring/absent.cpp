// attn_demo ring in a build without MPI.
#include <attn/error.hpp>

#include "apps/attn_demo/commands.hpp"

namespace attn::apps::demo {

void add_ring(CLI::App& app, Command& chosen) {
  CLI::App& command = *app.add_subcommand("ring", "");
  command.group("");  // not listed
  command.allow_extras();
  command.callback([&chosen] {
    chosen = []() -> int {
      throw Error(ErrorCode::unsupported,
                  "ring is not in this build: it needs MPI and -DATTN_BUILD_MPI=ON");
    };
  });
}

}  // namespace attn::apps::demo
