#include <fmt/format.h>
#include <nanobind/stl/optional.h>
#include <attn/block_mask.hpp>

#include <vector>

#include "call.hpp"

namespace attn::python {
namespace {

BlockSize block_size_of(nb::handle value) {
  if (!nb::isinstance<nb::tuple>(value) || nb::len(value) != 2)
    reject_type(
        fmt::format("block_size is of type {}; it needs a pair (q, kv)", class_name(value)));
  return {required_integer("block_size q", value[0]), required_integer("block_size kv", value[1])};
}

BlockMask from_documents(nb::handle q_documents, nb::handle kv_documents, nb::handle block_size) {
  const Array q = Array::required("q_documents", q_documents);
  const Array kv = Array::required("kv_documents", kv_documents);
  const BlockSize block = block_size_of(block_size);
  const nb::gil_scoped_release without_gil;
  return BlockMask::from_documents(q.view(), kv.view(), block);
}

BlockMask from_ranges(nb::handle ranges, nb::handle q_len, nb::handle kv_len,
                      nb::handle block_size) {
  if (!PySequence_Check(ranges.ptr()) || nb::isinstance<nb::str>(ranges))
    reject_type(fmt::format("ranges is of type {}; it needs a sequence", class_name(ranges)));
  std::vector<VisibleRange> all;
  for (const nb::handle range : nb::borrow(ranges)) {
    if (!PySequence_Check(range.ptr()) || nb::len(range) != 4)
      reject("ranges has an entry that is not (q_begin, q_end, key_begin, key_end)");
    all.push_back({required_integer("q_begin", range[0]), required_integer("q_end", range[1]),
                   required_integer("key_begin", range[2]), required_integer("key_end", range[3])});
  }
  return BlockMask::from_ranges(all, {.q_len = required_integer("q_len", q_len),
                                      .kv_len = required_integer("kv_len", kv_len),
                                      .block = block_size_of(block_size)});
}

BlockMask from_mask(nb::handle mask_object, nb::handle q_len, nb::handle kv_len, nb::handle batch,
                    nb::handle num_q_heads, nb::handle block_size) {
  const Array mask = Array::required("mask", mask_object);
  const BlockMaskSizes sizes{.q_len = required_integer("q_len", q_len),
                             .kv_len = required_integer("kv_len", kv_len),
                             .batch = required_integer("batch", batch),
                             .num_q_heads = required_integer("num_q_heads", num_q_heads),
                             .block = block_size_of(block_size)};
  const Execution execution = default_execution(mask.kind());
  const nb::gil_scoped_release without_gil;
  return BlockMask::from_mask(mask.view(), sizes, execution);
}

}  // namespace

void bind_block_mask(nb::module_& module) {
  nb::class_<BlockMask>(
      module, "BlockMask",
      "Which blocks of queries and keys need to be computed, found once and used by many calls:\n"
      "the argument block_mask of attention(). Made by from_documents(), from_ranges() or\n"
      "from_mask().")
      .def_static("from_documents", &from_documents, nb::arg("q_documents").none(),
                  nb::arg("kv_documents").none(), nb::arg("block_size") = nb::make_tuple(64, 64),
                  "A query sees the keys of its own document.\n\n"
                  "q_documents [q_len] or [batch, q_len], kv_documents [kv_len] or\n"
                  "[batch, kv_len]: i32 or i64, any numbers. block_size: (queries, keys).")
      .def_static(
          "from_ranges", &from_ranges, nb::arg("ranges").none(), nb::arg("q_len").none(),
          nb::arg("kv_len").none(), nb::arg("block_size") = nb::make_tuple(64, 64),
          "A query sees the keys of all ranges (q_begin, q_end, key_begin, key_end) that it\n"
          "belongs to.")
      .def_static("from_mask", &from_mask, nb::arg("mask").none(), nb::arg("q_len").none(),
                  nb::arg("kv_len").none(), nb::arg("batch") = 1, nb::arg("num_q_heads") = 1,
                  nb::arg("block_size") = nb::make_tuple(64, 64),
                  "The summary of a mask, which calls need to be given besides.")
      .def_prop_ro(
          "density", [](const BlockMask& mask) { return mask.density(); },
          "The visible pairs as a share of all pairs of a query and a key.")
      .def_prop_ro(
          "counts",
          [](const BlockMask& mask) {
            const BlockMask::Counts& counts = mask.counts();
            return nb::make_tuple(counts.empty, counts.partial, counts.full);
          },
          "The number of (empty, partial, full) blocks.");
}

}  // namespace attn::python
