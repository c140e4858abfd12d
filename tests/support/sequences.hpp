// Sequences of different lengths in one call with their keys in any form, and each sequence alone
// in a plain call.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "support/case.hpp"
#include "support/random.hpp"

namespace attn::test {

enum class KeyForm { padded, ragged, paged, ring };
inline constexpr std::initializer_list<KeyForm> key_forms = {KeyForm::padded, KeyForm::ragged,
                                                             KeyForm::paged, KeyForm::ring};

struct Sequences {
  Case common;  // settings that all sequences share; sizes and lengths are filled in
  std::vector<std::int64_t> q_lens{}, kv_lens{};
  bool ragged_queries = true;  // else all q_lens are equal
  KeyForm key_form = KeyForm::ragged;
  std::int64_t page_size = 16;
  DType offsets_type = DType::i64;
  std::vector<double> mask{};  // the elements of the common mask; random if empty

  std::int64_t count() const { return static_cast<std::int64_t>(q_lens.size()); }
};
std::string to_string(const Sequences& sequences);

/// The tokens of a sequence of [tokens, heads, ...], as [1, heads, tokens of the sequence, ...].
/// `lens` has the lengths of all sequences.
template <class Void>
BasicTensorView<Void> tokens_of(const BasicTensorView<Void>& tensor,
                                const std::vector<std::int64_t>& lens, std::int64_t sequence);
extern template TensorView tokens_of(const TensorView&, const std::vector<std::int64_t>&,
                                     std::int64_t);
extern template MutableTensorView tokens_of(const MutableTensorView&,
                                            const std::vector<std::int64_t>&, std::int64_t);

/// One sequence in a plain call of batch 1, whose mask has a column for each key. The functions of
/// its options get the index that the sequence has in the joint call.
struct Alone {
  Case c;
  Inputs inputs;
};

/// Memory of no sequence is poisoned: the rest of pages and rings, pages that no sequence holds,
/// unused entries of the page table, and gaps.
class Together {
 public:
  explicit Together(const Sequences& sequences);

  const std::vector<Alone>& alone() const { return alone_; }
  const AttentionOptions& options() const { return sequences_.common.options; }
  const Execution& execution() const { return sequences_.common.execution; }
  /// The call, with fresh outputs.
  AttentionTensors tensors();
  /// What the call wrote for a sequence, in the shape of a plain call.
  Outputs outputs(std::int64_t sequence) const;
  bool untouched() const { return outputs_.out.untouched() && outputs_.lse.untouched(); }
  bool gaps_untouched() const {
    return outputs_.out.gaps_untouched() && outputs_.lse.gaps_untouched();
  }

 private:
  KvStorage storage() const;
  void make_alone(const Inputs& shared);
  void place_queries();
  void choose_places(Random& random);
  void place_keys(const StridedTensor Inputs::*member, StridedTensor& to);
  Dims key_shape(const StridedTensor& alone) const;
  MutableTensorView key_place(StridedTensor& to, std::int64_t sequence, std::int64_t key) const;

  Sequences sequences_;
  std::vector<Alone> alone_;
  Inputs shared_;
  StridedTensor q_, k_, v_, k_scales_, v_scales_, q_offsets_, kv_offsets_, page_table_, kv_starts_,
      kv_lens_;
  std::vector<std::vector<std::int64_t>> pages_;
  std::vector<std::int64_t> starts_;
  std::int64_t num_pages_ = 0;
  Outputs outputs_;
};

}  // namespace attn::test
