#include "batch.hpp"

#include <algorithm>

#include "apps/support/memory.hpp"

namespace attn::apps::demo {
namespace {

using Ids = std::vector<std::int64_t>;

/// One text of the batch.
struct Text {
  Ids ids;   // the prompt and the tokens after it
  Ids made;  // the tokens after it
  Ids next;  // what the model reads of it next; empty if it has ended
};

class Batch {
 public:
  Batch(Model& model, const std::vector<Ids>& prompts, const BatchChoice& choice)
      : model_(model),
        choice_(choice),
        border_(model.long_rope_border),
        caches_(model, std::ssize(prompts), capacity(prompts, choice.max_new),
                border_ ? WindowKeys::all : WindowKeys::window) {
    for (const Ids& prompt : prompts) texts_.push_back({prompt, {}, prompt});
  }

  std::vector<Ids> run() {
    for (std::int64_t step = 0; step < choice_.max_new && forward(); ++step) draw(step);
    std::vector<Ids> made;
    for (Text& text : texts_) made.push_back(std::move(text.made));
    return made;
  }

 private:
  static std::int64_t capacity(const std::vector<Ids>& prompts, std::int64_t max_new) {
    std::int64_t longest = 1;
    for (const Ids& prompt : prompts) longest = std::max(longest, std::ssize(prompt));
    return longest + std::max<std::int64_t>(max_new - 1, 0);
  }

  /// Computes the logits of what is next of each text. False if all have ended.
  bool forward() {
    Ids ids;
    offsets_.assign(1, 0);
    for (const Text& text : texts_) {
      ids.insert(ids.end(), text.next.begin(), text.next.end());
      offsets_.push_back(std::ssize(ids));
    }
    if (ids.empty()) return false;
    const std::int64_t vocab = model_.settings.vocab_size, count = std::ssize(ids);
    require_memory("the logits of all prompts",
                   product_of({count, vocab, std::int64_t{sizeof(float)}}));
    logits_ = Tensor(DType::f32, {1, count, vocab});
    model_.decoder.forward({ids.data(), {1, count}}, caches_.refs, logits_.view(),
                           {.q_offsets = {offsets_.data(), {std::ssize(offsets_)}}});
    return true;
  }

  void draw(std::int64_t step) {
    SampleOptions sampling = choice_.sampling;
    sampling.first_draw = static_cast<std::uint64_t>(step);
    const std::int64_t vocab = model_.settings.vocab_size;
    for (std::size_t n = 0; n < texts_.size(); ++n) {
      Text& text = texts_[n];
      if (text.next.empty()) continue;
      const float* const last = logits_.data<float>() + (offsets_[n + 1] - 1) * vocab;
      std::int64_t id = 0;
      sample({last, {1, vocab}}, {&id, {1, 1}}, sampling, model_.execution);
      text.next.clear();
      if (!choice_.ignore_eos && std::ranges::count(model_.eos_ids, id) > 0) continue;
      text.made.push_back(id);
      text.ids.push_back(id);
      if (step + 1 == choice_.max_new) continue;
      text.next = {id};
      if (border_ == std::ssize(text.ids) - 1) read_anew(n);
    }
  }

  void read_anew(std::size_t n) {
    for (KvCache& cache : caches_.caches) cache.truncate(static_cast<std::int64_t>(n), 0);
    texts_[n].next = texts_[n].ids;
  }

  Model& model_;
  const BatchChoice& choice_;
  std::optional<std::int64_t> border_;
  Caches caches_;
  std::vector<Text> texts_;
  Ids offsets_;
  Tensor logits_;
};

}  // namespace

std::vector<Ids> generate_batch(Model& model, const std::vector<Ids>& prompts,
                                const BatchChoice& choice) {
  return Batch(model, prompts, choice).run();
}

}  // namespace attn::apps::demo
