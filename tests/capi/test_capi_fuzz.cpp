// Calls of the C interface with arguments that are wrong at random. Each is computed, or refused
// with a message before anything is written; none crashes.
#include <attn/attn.h>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "support/c_calls.hpp"
#include "support/random.hpp"
#include "support/seeds.hpp"

using namespace attn;
using namespace attn::test;

namespace {

constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
constexpr std::uint64_t untouched = 0x3333'3333'3333'3333;

/// A tensor of a call that is right.
struct Spec {
  std::vector<std::int64_t> shape;
  attn_dtype dtype = ATTN_F32;
  bool output = false;
  attn_role role = 0;  // of calls with a list of arguments
};

/// The tensor, with memory that reaches far enough on both sides for every change below.
class FuzzTensor {
 public:
  FuzzTensor(const Spec& spec, Random& random) : output_(spec.output), memory_(1024, untouched) {
    REQUIRE_OK(attn_dense_tensor(&tensor, memory_.data() + memory_.size() / 2, spec.dtype,
                                 static_cast<std::int32_t>(spec.shape.size()), spec.shape.data()));
    if (output_) return;
    for (std::uint64_t& word : memory_) word = static_cast<std::uint64_t>(random.integer(-1, 4));
    if (random.chance(0.7)) std::fill(memory_.begin(), memory_.end(), 1);
  }
  bool written() const {
    bool same = true;
    for (const std::uint64_t word : memory_) same = same && word == untouched;
    return output_ && !same;
  }

  attn_tensor tensor{};

 private:
  bool output_;
  std::vector<std::uint64_t> memory_;
};

/// Changes the tensor to another one within its memory, or to what no tensor may be.
void change(Random& random, attn_tensor& tensor) {
  constexpr std::int64_t too_many = (std::int64_t{1} << 48) + 1;
  constexpr int most = std::numeric_limits<int>::max(), fewest = std::numeric_limits<int>::min();
  const std::int64_t dim = random.integer(0, random.chance(0.8) ? 3 : ATTN_MAX_RANK - 1);
  switch (random.integer(0, 5)) {
    case 0: tensor.data = nullptr; break;
    case 1:
      if (tensor.data != nullptr)
        tensor.data = static_cast<char*>(tensor.data) + random.integer(0, 4);
      break;
    case 2: tensor.dtype = static_cast<attn_dtype>(random.integer(-1, 10)); break;
    case 3: tensor.rank = random.pick({-1, 0, 1, 2, 3, 4, 8, 9, most, fewest}); break;
    case 4:
      tensor.shape[dim] = random.pick<std::int64_t>({-1, 0, 1, 2, 3, least, largest, too_many});
      break;
    default:
      tensor.strides[dim] =
          random.pick<std::int64_t>({-7, -1, 0, 1, 2, 9, least, largest, too_many, -too_many});
  }
}

using Tensors = std::vector<const attn_tensor*>;
struct Entry {
  std::vector<Spec> specs;
  std::function<attn_status(const Tensors& tensors, Random& random)> run;
};

using Attention = attn_status (*)(const attn_argument*, std::int64_t, const attn_options*,
                                  const attn_execution*);

void set_any(attn_options* options, Random& random) {
  if (random.chance(0.2)) attn_options_set_causal(options, 1);
  if (random.chance(0.2))
    attn_options_set_window(options, random.integer(-2, 4), random.pick({largest, least}));
  if (random.chance(0.2))
    attn_options_set_q_position(options, random.pick({largest, least, least + 1}));
  if (random.chance(0.1)) attn_options_set_entmax(options, random.pick({0.f, 1.f, 1.5f, 2.f}));
  if (random.chance(0.1)) attn_options_set_mask_keys(options, ATTN_MASK_KEYS_LAST);
  if (random.chance(0.1)) attn_options_set_max_q_len(options, random.pick({largest, least}));
  if (random.chance(0.1)) attn_options_set_softcap(options, random.pick({0.f, -1.f, 3.f}));
}

Entry attention_entry(Attention attention, const std::vector<Spec>& specs) {
  return {specs, [attention, specs](const Tensors& tensors, Random& random) {
            std::vector<attn_argument> arguments;
            for (std::size_t n = 0; n < specs.size(); ++n)
              arguments.push_back({specs[n].role, tensors[n]});
            if (random.chance(0.05))
              arguments[0].role = static_cast<attn_role>(random.integer(-3, 30));
            const std::int64_t count = random.chance(0.03)
                                           ? random.pick({largest, least, std::int64_t{-1}})
                                           : std::ssize(arguments);
            COptions options;
            REQUIRE_OK(attn_options_create(options.out()));
            set_any(options, random);
            return attention(arguments.data(), count, options, NULL);
          }};
}

std::int32_t any_dim(Random& random) {
  return static_cast<std::int32_t>(random.integer(-4, random.chance(0.9) ? 3 : 1 << 30));
}

std::vector<Entry> all_entries() {
  const Spec q{{2, 2, 3, 4}, ATTN_F32, false, ATTN_ARG_Q},
      k{{2, 1, 5, 4}, ATTN_F32, false, ATTN_ARG_K};
  const Spec v{{2, 1, 5, 4}, ATTN_F32, false, ATTN_ARG_V},
      mask{{3, 5}, ATTN_F32, false, ATTN_ARG_MASK};
  const Spec slopes{{2}, ATTN_F32, false, ATTN_ARG_ALIBI_SLOPES};
  const Spec kv_lens{{2}, ATTN_I64, false, ATTN_ARG_KV_LENS};
  const Spec out{{2, 2, 3, 4}, ATTN_F32, true, ATTN_ARG_OUT};
  const Spec lse{{2, 2, 3}, ATTN_F32, true, ATTN_ARG_LSE};
  const Spec table{{2, 2}, ATTN_I32, false, ATTN_ARG_PAGE_TABLE};
  Spec read_out = out, read_lse = lse, dout = out;
  read_out.output = read_lse.output = dout.output = false;
  dout.role = ATTN_ARG_DOUT;
  const Spec dq{q.shape, ATTN_F32, true, ATTN_ARG_DQ}, dk{k.shape, ATTN_F32, true, ATTN_ARG_DK};
  const Spec dmask{{3, 5}, ATTN_F32, true, ATTN_ARG_DMASK};
  const Spec x{{3, 4, 5}}, y{{3, 4, 5}, ATTN_F32, true}, row{{3, 4}, ATTN_F32, true};
  const Spec logits{{4, 6}}, target{{4}, ATTN_I64}, loss{{}, ATTN_F32, true};
  return {
      attention_entry(attn_attention, {q, k, v, mask, slopes, kv_lens, out, lse}),
      attention_entry(attn_attention_reference, {q, k, v, mask, out, lse}),
      attention_entry(attn_attention, {q, k, v, kv_lens, table, out}),
      attention_entry(attn_attention_backward,
                      {q, k, v, mask, read_out, read_lse, dout, dq, dk, dmask}),
      {{x, y},
       [](const Tensors& t, Random& random) {
         return attn_softmax(t[0], t[1], any_dim(random), random.pick({1.f, 0.f, -1.f}), NULL);
       }},
      {{x, y, row},
       [](const Tensors& t, Random& random) {
         return attn_entmax15(t[0], t[1], any_dim(random), t[2], NULL, NULL);
       }},
      {{x, y},
       [](const Tensors& t, Random& random) {
         return attn_rms_norm(t[0], NULL, t[1], any_dim(random), 0.1f, NULL);
       }},
      {{logits, target, loss},
       [](const Tensors& t, Random&) { return attn_cross_entropy(t[0], t[1], t[2], NULL, NULL); }},
      {{logits, {{4, 3}, ATTN_I64, true}},
       [](const Tensors& t, Random&) { return attn_sample(t[0], t[1], NULL, NULL); }},
      {{x, y}, [](const Tensors& t, Random&) { return attn_copy(t[0], t[1]); }},
      {{k, v},
       [](const Tensors& t, Random& random) {
         CKvCache cache;
         const auto size = [&] { return random.chance(0.9) ? 8 : random.pick({largest, least}); };
         const attn_status status = attn_kv_cache_create(cache.out(), 2, 1, size(), 4, NULL);
         return status != ATTN_OK ? status : attn_kv_cache_append(cache, t[0], t[1], NULL);
       }},
  };
}

}  // namespace

TEST_CASE("Random wrong arguments are refused, or computed") {
  const std::vector<Entry> entries = all_entries();
  int computed = 0, refused = 0;
  for (const std::uint64_t seed : seeds(1, 20000)) {
    Random random(seed);
    const Entry& entry = entries[seed % entries.size()];
    std::vector<FuzzTensor> tensors;
    for (const Spec& spec : entry.specs) tensors.emplace_back(spec, random);
    Tensors pointers;
    for (FuzzTensor& tensor : tensors)
      pointers.push_back(random.chance(0.02) ? nullptr : &tensor.tensor);
    for (std::int64_t changes = random.integer(0, 3); changes > 0; --changes) {
      const std::int64_t which = random.integer(0, std::ssize(tensors) - 1);
      change(random, tensors[static_cast<std::size_t>(which)].tensor);
    }

    const attn_status status = entry.run(pointers, random);
    ++(status == ATTN_OK ? computed : refused);
    if (status == ATTN_OK) continue;
    bool written = false;
    for (const FuzzTensor& tensor : tensors) written = written || tensor.written();
    const std::string message = attn_last_error();
    if (written || message.empty() || status == ATTN_INTERNAL_ERROR) {
      CAPTURE(message);
      FAIL_CHECK(repeat_command(seed));
    }
  }
  MESSAGE(computed << " computed, " << refused << " refused");
  CHECK((computed > 0 || seeds(1, 2).size() < 2));
}
