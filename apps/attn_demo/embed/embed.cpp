// attn_demo embed: a vector for each text, from an encoder.
#include <attn/encoder.hpp>
#include <attn/io.hpp>
#include <attn/model.hpp>
#include <attn/tokenizer.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "apps/attn_demo/commands.hpp"
#include "apps/attn_demo/outputs.hpp"
#include "apps/attn_demo/terminal.hpp"
#include "apps/support/options.hpp"

namespace attn::apps::demo {
namespace {

using Ids = std::vector<std::int64_t>;

struct EmbedArguments {
  std::string model;
  std::vector<std::string> texts;
  std::optional<std::string> ids, lengths, out;
  std::optional<DType> dtype;
  Execution execution;
};

/// The ids of a text of which at most `most` are kept: its own tokens are cut off at the end, the
/// special ones around it stay.
Ids ids_of(const Tokenizer& tokenizer, const std::string& text, std::int64_t most, bool& is_cut) {
  Ids all = tokenizer.encode(text);
  if (std::ssize(all) <= most) return all;
  is_cut = true;
  const Ids own = tokenizer.encode(text, {.add_special = false});
  const std::int64_t around = std::ssize(all) - std::ssize(own);
  const std::int64_t kept = std::max<std::int64_t>(most - around, 0);
  const auto begin = std::search(all.begin(), all.end(), own.begin(), own.end());
  all.erase(begin + kept, begin + std::ssize(own));
  all.resize(static_cast<std::size_t>(std::min(most, std::ssize(all))));
  return all;
}

std::vector<Ids> ids_of_texts(const EmbedArguments& arguments, const EncoderFolder& folder,
                              std::int64_t positions) {
  const Tokenizer tokenizer = Tokenizer::from_folder(arguments.model);
  for (const std::string& notice : tokenizer.notices()) notify(notice);
  const SentenceSettings& sentence = folder.sentence();
  const std::int64_t most = std::min(sentence.max_tokens.value_or(positions), positions);
  std::vector<Ids> texts;
  std::int64_t num_cut = 0;
  for (const std::string& text : arguments.texts) {
    bool is_cut = false;
    texts.push_back(ids_of(tokenizer, sentence.prompt + text, most, is_cut));
    num_cut += is_cut ? 1 : 0;
    if (texts.back().empty()) reject("--text {} has no tokens", texts.size() - 1);
  }
  if (num_cut > 0) {
    notify(fmt::format("{} of {} texts {} longer than {} tokens ({}), and cut there", num_cut,
                       texts.size(), num_cut == 1 ? "is" : "are", most,
                       most < positions ? "max_seq_length" : "the model's positions"));
  }
  return texts;
}

/// Reads an i32 or i64 tensor of some rank.
Tensor read_integers(const char* option, const std::string& file, int rank, const char* layout) {
  Tensor tensor = read_tensor(file);
  const DType dtype = tensor.view().dtype;
  if (dtype != DType::i32 && dtype != DType::i64)
    reject("{} has type {}; it needs i32 or i64", option, name_of(dtype));
  if (tensor.shape().rank() != rank)
    reject("{} has shape {}; it needs {}", option, tensor.shape().to_string(), layout);
  return tensor;
}

std::int64_t integer_at(const Tensor& tensor, std::int64_t n) {
  return tensor.view().dtype == DType::i32 ? tensor.data<std::int32_t>()[n]
                                           : tensor.data<std::int64_t>()[n];
}

std::vector<Ids> ids_of_file(const EmbedArguments& arguments) {
  const Tensor ids = read_integers("--ids", *arguments.ids, 2, "[N, seq]");
  const std::int64_t count = ids.shape()[0], seq = ids.shape()[1];
  std::optional<Tensor> lengths;
  if (arguments.lengths) {
    lengths = read_integers("--lengths", *arguments.lengths, 1, "[N]");
    if (lengths->shape()[0] != count)
      reject("--lengths has shape {}; it needs [{}], one for each row of --ids",
             lengths->shape().to_string(), count);
  }
  std::vector<Ids> texts;
  for (std::int64_t n = 0; n < count; ++n) {
    const std::int64_t length = lengths ? integer_at(*lengths, n) : seq;
    if (length < 1 || length > seq)
      reject("{}[{}] is {}; it needs to lie in 1..{} (seq of --ids)",
             lengths ? "--lengths" : "the length of --ids", n, length, seq);
    Ids& text = texts.emplace_back();
    for (std::int64_t k = 0; k < length; ++k) text.push_back(integer_at(ids, n * seq + k));
  }
  return texts;
}

/// Computes texts in ragged batches of so many tokens, and writes a row of `out` for each.
void embed_texts(Encoder& encoder, const SentenceSettings& sentence, const std::vector<Ids>& texts,
                 const MutableTensorView& out) {
  constexpr std::int64_t tokens_at_once = 4096;  // 16384 took a tenth longer
  const std::int64_t hidden = encoder.settings().layers.front().attention.hidden;
  const std::int64_t count = std::ssize(texts);
  for (std::int64_t first = 0, end = 0; first < count; first = end) {
    Ids ids, offsets{0};
    for (; end < count; ++end) {
      const Ids& text = texts[static_cast<std::size_t>(end)];
      if (end > first && std::ssize(ids) + std::ssize(text) > tokens_at_once) break;
      ids.insert(ids.end(), text.begin(), text.end());
      offsets.push_back(std::ssize(ids));
    }
    Tensor states(DType::f32, {std::ssize(ids), hidden});
    const TensorView where(offsets.data(), {std::ssize(offsets)});
    encoder.forward({ids.data(), {std::ssize(ids)}}, where, states.view());
    const MutableTensorView rows = out.sliced(0, first, end);
    for (std::size_t n = 0; n < sentence.pooling.size(); ++n) {
      const std::int64_t column = static_cast<std::int64_t>(n) * hidden;
      pool(states.view(), where, sentence.pooling[n], rows.sliced(1, column, column + hidden));
    }
  }
  if (sentence.normalize) normalize_rows(out);
}

int embed(const EmbedArguments& arguments) {
  if (arguments.texts.empty() == !arguments.ids)
    reject("embed needs either --text TEXT or --ids FILE");
  if (arguments.lengths && !arguments.ids) reject("--lengths needs --ids");
  const EncoderFolder folder(arguments.model);
  EncoderSettings settings = folder.settings();
  for (LayerSettings& layer : settings.layers)
    layer.attention.dtype =
        arguments.dtype.value_or(folder.stored_dtype() == DType::bf16 ? DType::bf16 : DType::f32);
  const std::int64_t positions = settings.layers.front().attention.max_positions;
  const std::vector<Ids> texts =
      arguments.ids ? ids_of_file(arguments) : ids_of_texts(arguments, folder, positions);
  std::int64_t longest = 1;
  for (const Ids& text : texts) longest = std::max(longest, std::ssize(text));
  if (longest > positions)
    reject("--ids has a text of {} tokens; the model has {} positions", longest, positions);
  if (folder.weights().positions.absent()) {  // tables of rope are no larger than they have to be
    for (LayerSettings& layer : settings.layers) layer.attention.max_positions = longest;
  }
  Encoder encoder(settings, folder.weights(), arguments.execution);
  const std::int64_t hidden = settings.layers.front().attention.hidden;
  Outputs outputs;
  const MutableTensorView out =
      outputs.make("--out", arguments.out, DType::f32,
                   {std::ssize(texts), hidden * std::ssize(folder.sentence().pooling)});
  embed_texts(encoder, folder.sentence(), texts, out);
  outputs.commit();
  return 0;
}

}  // namespace

void add_embed(CLI::App& app, Command& chosen) {
  const auto [command, arguments] = add_command<EmbedArguments>(
      app, chosen, "embed", "a vector for each text, from an encoder", embed);
  add_file(command, "--model DIR", arguments.model,
           "a folder with config.json and model.safetensors of an encoder; modules.json and the "
           "files that it names say how vectors are pooled and normalized")
      ->required();
  auto* const texts = add_texts(command, "--text TEXT", arguments.texts,
                                "a text; give it again for each further one. Texts that are too "
                                "long are cut, with a notice");
  auto* const ids = add_file(command, "--ids FILE", arguments.ids,
                             "token ids in the place of texts, i32 or i64 [N, seq]");
  ids->excludes(texts);
  add_file(command, "--lengths FILE", arguments.lengths,
           "how many ids of each row of --ids count, i32 or i64 [N]; default: all");
  add_file(command, "--out FILE", arguments.out,
           "vectors, f32 [N, hidden]: .npy, or .safetensors where the name ends so")
      ->required();
  add_choice(command, "--dtype TYPE", arguments.dtype, {{"f32", DType::f32}, {"bf16", DType::bf16}},
             "f32 or bf16: the type of weights and products; default that of the files, or f32");
  add_execution_options(command, arguments.execution);
}

}  // namespace attn::apps::demo
