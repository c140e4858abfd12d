// Whether strides put two elements in the same place, against all pairs of elements.
#include "tensor/overlap.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <set>

#include "support/random.hpp"
#include "support/seeds.hpp"
#include "tensor/indexing.hpp"

using namespace attn;
using namespace attn::detail;
using namespace attn::test;

namespace {

bool overlap_found(const Dims& shape, const Dims& strides) {
  std::set<std::int64_t> places;
  for_each_index(shape, [&](const Dims& index) { places.insert(offset_of(strides, index)); });
  return static_cast<std::int64_t>(places.size()) < shape.product();
}

}  // namespace

TEST_CASE("random shapes and strides") {
  int found = 0, not_found = 0;
  for (const std::uint64_t seed : seeds(0, 20000)) {
    CAPTURE(repeat_command(seed));
    Random random(seed);
    const int rank = static_cast<int>(random.integer(0, 5));
    Dims shape = {0, 0, 0, 0, 0}, strides = shape;
    shape = strides = Dims(shape.begin(), rank);
    for (int dim = 0; dim < rank; ++dim) {
      shape[dim] = random.integer(0, 19) == 0 ? 0 : random.integer(1, 4);
      strides[dim] = random.integer(-3, 40);
      if (random.chance(0.5)) strides[dim] *= random.pick<std::int64_t>({1, 5, 7, 24});
    }
    const std::string place = shape.to_string() + " with strides " + strides.to_string();
    CAPTURE(place);
    const bool overlap = overlap_found(shape, strides);
    (overlap ? found : not_found) += 1;
    CHECK(elements_overlap(shape, strides) == overlap);
  }
  const bool few = found + not_found < 1000;  // seeds were asked for
  CHECK((few || (found > not_found / 20 && not_found > found / 20)));
}

TEST_CASE("tensors as they are in memory") {
  CHECK_FALSE(elements_overlap({}, {}));
  CHECK_FALSE(elements_overlap({2, 4, 8}, {32, 8, 1}));
  CHECK_FALSE(elements_overlap({2, 8, 4}, {32, 1, 8}));
  CHECK_FALSE(elements_overlap({3, 5}, {-7, -1}));
  CHECK_FALSE(elements_overlap({2, 3}, {2, 3}));  // interleaved: 0 3 6, 2 5 8
  CHECK_FALSE(elements_overlap({1, 4}, {0, 1}));
  CHECK_FALSE(elements_overlap({0, 4}, {0, 0}));
  CHECK(elements_overlap({4, 8}, {0, 1}));
  CHECK(elements_overlap({4, 8}, {4, 1}));         // windows that slide
  CHECK(elements_overlap({2, 4, 8}, {12, 8, 1}));  // three dims lead to one place
  CHECK_FALSE(elements_overlap({2, 4, 8}, {1 << 20, 8, 1}));
}

TEST_CASE("large extents take no time") {
  const std::int64_t many = std::int64_t{1} << 40;
  CHECK_FALSE(elements_overlap({many, 64}, {64, 1}));
  CHECK(elements_overlap({many, 64}, {32, 1}));
  CHECK_FALSE(elements_overlap({64, many}, {1, 64}));
  CHECK(elements_overlap({1 << 20, 1 << 20, 1 << 8}, {3, 5, 1}));
}
