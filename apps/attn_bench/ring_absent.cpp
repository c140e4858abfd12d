// In a build without MPI.
#include "ring.hpp"

namespace attn::apps::bench {

void add_ring_option(CLI::App&, bool&) {}
void measure_ring(const Case&, const Settings&, bool) {}

}  // namespace attn::apps::bench
