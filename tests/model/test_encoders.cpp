// Encoders: a small BERT against what transformers computes with padding (data/README.md), pooling,
// and what the files of sentence encoders say.
#include <attn/encoder.hpp>
#include <attn/io.hpp>
#include <attn/model.hpp>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/check_fails.hpp"
#include "support/files.hpp"

using namespace attn;
using namespace attn::test;
using nlohmann::json;

namespace {

using Ids = std::vector<std::int64_t>;

const std::string folder = std::string(ATTN_TEST_DATA_PATH) + "/families/bert";

struct Texts {
  Texts() {
    std::ifstream file(folder + "/expected.json");
    for (const Ids& text : json::parse(file)["texts"].get<std::vector<Ids>>()) {
      ids.insert(ids.end(), text.begin(), text.end());
      for (std::size_t n = 0; n < text.size(); ++n)
        types.push_back(static_cast<std::int32_t>(n % 3 % 2));
      offsets.push_back(std::ssize(ids));
    }
  }
  TensorView id_view() const { return {ids.data(), {std::ssize(ids)}}; }
  TensorView offset_view() const { return {offsets.data(), {std::ssize(offsets)}}; }
  TensorView type_view() const { return {types.data(), {std::ssize(types)}}; }

  Ids ids, offsets{0};
  std::vector<std::int32_t> types;
};

/// The greatest difference, over the greatest of `wanted`.
double error_of(const Tensor& got, const Tensor& wanted) {
  REQUIRE(got.shape() == wanted.shape());
  double difference = 0, largest = 0;
  for (std::int64_t n = 0; n < got.size(); ++n) {
    const double value = wanted.data<float>()[n];
    difference = std::max(difference, std::abs(got.data<float>()[n] - value));
    largest = std::max(largest, std::abs(value));
  }
  return difference / largest;
}

Encoder encoder_of(const EncoderFolder& model) {
  return Encoder(model.settings(), model.weights());
}

/// A copy of the model's folder, of which a test changes a file.
struct Copy {
  Copy() {
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      std::filesystem::copy(entry.path(), files / entry.path().filename().string(),
                            std::filesystem::copy_options::recursive);
  }
  void change(const std::string& file, const std::function<void(json&)>& edit) const {
    std::ifstream in(files / file);
    json value = json::parse(in);
    edit(value);
    std::ofstream(files / file) << value.dump();
  }
  SentenceSettings sentence() const { return EncoderFolder(files / "").sentence(); }
  void refused(ErrorCode code, const std::vector<std::string>& fragments) const {
    check_fails(code, fragments, [&] { EncoderFolder(files / ""); });
  }
  Folder files;
};

}  // namespace

TEST_CASE("Hidden states of ragged texts are those of transformers with padding") {
  const EncoderFolder model(folder);
  CHECK(model.model_type() == "bert");
  CHECK(model.stored_dtype() == DType::f16);
  const Texts texts;
  Encoder encoder = encoder_of(model);
  Tensor hidden(DType::f32, {std::ssize(texts.ids), 32});
  encoder.forward(texts.id_view(), texts.offset_view(), hidden.view());
  CHECK(error_of(hidden, read_tensor(folder + "/hidden.npy")) < 1e-5);
  for (const AttentionKernel kernel : {AttentionKernel::unfused, AttentionKernel::reference}) {
    Tensor other(DType::f32, hidden.shape());
    encoder.forward(texts.id_view(), texts.offset_view(), other.view(), {.kernel = kernel});
    CHECK(error_of(other, hidden) < 1e-5);
  }
  encoder.forward(texts.id_view(), texts.offset_view(), hidden.view(),
                  {.token_types = texts.type_view()});
  CHECK(error_of(hidden, read_tensor(folder + "/hidden_of_types.npy")) < 1e-5);
}

TEST_CASE("A text does not see the others of its batch") {
  const EncoderFolder model(folder);
  const Texts texts;
  Encoder encoder = encoder_of(model);
  Tensor all(DType::f32, {std::ssize(texts.ids), 32});
  encoder.forward(texts.id_view(), texts.offset_view(), all.view());
  for (std::size_t n = 0; n + 1 < texts.offsets.size(); ++n) {
    const std::int64_t begin = texts.offsets[n], count = texts.offsets[n + 1] - begin;
    const Ids alone{0, count};
    Tensor hidden(DType::f32, {count, 32});
    encoder.forward(texts.id_view().sliced(0, begin, begin + count), {alone.data(), {2}},
                    hidden.view());
    Tensor in_batch(DType::f32, hidden.shape());
    std::memcpy(in_batch.data(), all.data<float>() + begin * 32, in_batch.size_in_bytes());
    CHECK(error_of(hidden, in_batch) < 1e-6);
  }
}

TEST_CASE("Pooled and normalized vectors") {
  const EncoderFolder model(folder);
  const Texts texts;
  Encoder encoder = encoder_of(model);
  Tensor hidden(DType::f32, {std::ssize(texts.ids), 32}), vectors(DType::f32, {4, 64});
  encoder.forward(texts.id_view(), texts.offset_view(), hidden.view());
  const SentenceSettings& sentence = model.sentence();
  CHECK(sentence.pooling == std::vector{Pooling::max, Pooling::mean});
  CHECK(sentence.normalize);
  for (std::int64_t n = 0; n < 2; ++n) {
    pool(hidden.view(), texts.offset_view(), sentence.pooling[static_cast<std::size_t>(n)],
         vectors.view().sliced(1, 32 * n, 32 * (n + 1)));
  }
  normalize_rows(vectors.view());
  CHECK(error_of(vectors, read_tensor(folder + "/vectors.npy")) < 1e-5);
}

TEST_CASE("Every pooling, by hand") {
  const float states[] = {1, -2, 3, 4, 5, 0, 7, 7};
  const std::int64_t offsets[] = {0, 3, 4};
  const auto pooled = [&](Pooling pooling) {
    Tensor y(DType::f32, {2, 2});
    pool({states, {4, 2}}, {offsets, {3}}, pooling, y.view());
    return std::vector<float>(y.data<float>(), y.data<float>() + 4);
  };
  using Values = std::vector<float>;
  CHECK(pooled(Pooling::first) == Values{1, -2, 7, 7});
  CHECK(pooled(Pooling::last) == Values{5, 0, 7, 7});
  CHECK(pooled(Pooling::max) == Values{5, 4, 7, 7});
  CHECK(pooled(Pooling::mean) == Values{3, 2.f / 3, 7, 7});
  CHECK(pooled(Pooling::mean_sqrt_length) ==
        Values{static_cast<float>(9 / std::sqrt(3.)), static_cast<float>(2 / std::sqrt(3.)), 7, 7});
  CHECK(pooled(Pooling::weighted_mean) == Values{22.f / 6, 1, 7, 7});
  Tensor zeros(DType::f32, {1, 2});
  std::memset(zeros.data(), 0, zeros.size_in_bytes());
  normalize_rows(zeros.view());
  CHECK(zeros.data<float>()[1] == 0);
  const std::int64_t empty[] = {0, 4, 4};
  Tensor y(DType::f32, {2, 2});
  check_fails(ErrorCode::invalid_argument, {"text 1", "at least one"}, [&] {
    pool({states, {4, 2}}, {empty, {3}}, Pooling::mean, y.view());
  });
}

TEST_CASE("What encoders refuse") {
  const EncoderFolder model(folder);
  Encoder encoder = encoder_of(model);
  const Ids ids(60, 1), offsets{0, 60}, short_offsets{0, 5};
  Tensor hidden(DType::f32, {60, 32});
  const auto refused = [&](const std::vector<std::string>& fragments, const TensorView& some,
                           const TensorView& where, const MutableTensorView& to,
                           const EncoderOptions& options = {}) {
    check_fails(ErrorCode::invalid_argument, fragments,
                [&] { encoder.forward(some, where, to, options); });
  };
  const TensorView all(ids.data(), {60}), few(ids.data(), {5});
  const TensorView of_all(offsets.data(), {2}), of_few(short_offsets.data(), {2});
  refused({"60 tokens", "48 positions"}, all, of_all, hidden.view());
  refused({"offsets is absent"}, few, {}, hidden.view());
  refused({"hidden", "5 (tokens of ids)"}, few, of_few, hidden.view());
  refused({"q_offsets ends with 5"}, all.sliced(0, 0, 6), of_few, hidden.view());
  const std::int32_t types[] = {0, 1, 2, 0, 0};
  refused({"token_types[2] is 2", "2 (num_token_types)"}, few, of_few,
          hidden.view().sliced(0, 0, 5), {.token_types = {types, {5}}});
}

TEST_CASE("Files of sentence encoders") {
  const Copy copy;
  CHECK(!copy.sentence().max_tokens);
  copy.files.write("sentence_bert_config.json",
                   R"({"max_seq_length": 12, "do_lower_case": false})");
  CHECK(copy.sentence().max_tokens == 12);
  copy.files.write("config_sentence_transformers.json",
                   R"({"prompts": {"query": "query: "}, "default_prompt_name": "query"})");
  CHECK(copy.sentence().prompt == "query: ");
  copy.change("1_Pooling/config.json", [](json& file) { file["include_prompt"] = false; });
  copy.refused(ErrorCode::unsupported, {"1_Pooling/config.json", "'include_prompt' is false"});
  copy.change("1_Pooling/config.json", [](json& file) {
    file = {{"pooling_mode", {"cls", "lasttoken"}}};
  });
  CHECK(copy.sentence().pooling == std::vector{Pooling::first, Pooling::last});
  copy.change("1_Pooling/config.json", [](json& file) { file = {{"pooling_mode", "mean"}}; });
  CHECK(copy.sentence().pooling == std::vector{Pooling::mean});
  copy.change("1_Pooling/config.json", [](json& file) { file = {{"pooling_mode", "median"}}; });
  copy.refused(ErrorCode::unsupported,
               {"1_Pooling/config.json", "'pooling_mode'", "median", "cls"});
  copy.change("modules.json", [](json& file) { file.erase(2); });
  copy.change("1_Pooling/config.json", [](json& file) { file = {{"pooling_mode", "cls"}}; });
  CHECK(!copy.sentence().normalize);
  copy.change("modules.json", [](json& file) { file[1]["path"] = "../1_Pooling"; });
  copy.refused(ErrorCode::io, {"modules.json", "path"});
  copy.change("modules.json",
              [](json& file) { file[1]["type"] = "sentence_transformers.models.Dense"; });
  copy.refused(ErrorCode::unsupported, {"modules.json", "type", "models.Dense", "Pooling"});
}

TEST_CASE("Texts are cut at max_seq_length alone, whatever the tokenizer says") {
  const Copy copy;
  copy.files.write("tokenizer_config.json", R"({"model_max_length": 20})");
  copy.files.write("sentence_bert_config.json", R"({"transformer_task": "feature-extraction"})");
  CHECK(!copy.sentence().max_tokens);
  copy.files.write("sentence_bert_config.json", R"({"max_seq_length": 30})");
  CHECK(copy.sentence().max_tokens == 30);
}

TEST_CASE("Keys of sentence encoders that would change a vector are refused") {
  const std::vector<std::vector<std::string>> keys = {
      {"sentence_bert_config.json", "do_lower_case", "true", "false"},
      {"sentence_bert_config.json", "transformer_task", R"("fill-mask")", "feature-extraction"},
      {"sentence_bert_config.json", "processing_kwargs", R"({"text": {}})", "{}"},
      {"sentence_bert_config.json", "query_length", "32", "null"},
      {"config_sentence_transformers.json", "truncate_dim", "64", "null"},
      {"config_sentence_transformers.json", "model_type", R"("SparseEncoder")",
       "SentenceTransformer"}};
  for (const auto& key : keys) {
    const Copy copy;
    copy.files.write(key[0], fmt::format(R"({{"{}": {}}})", key[1], key[2]));
    copy.refused(ErrorCode::unsupported, {key[0], "'" + key[1] + "' is ", "it needs ", key[3]});
  }
  const Copy copy;
  copy.change("modules.json", [](json& file) { file.erase(2), file.erase(1); });
  copy.refused(ErrorCode::io,
               {"modules.json", "has 1 modules; it needs Transformer, then Pooling"});
}

TEST_CASE("Folders of other models are refused by name") {
  const std::string families = std::string(ATTN_TEST_DATA_PATH) + "/families/";
  check_fails(ErrorCode::unsupported, {"config.json", "model_type", "bert", "encoder"},
              [&] { ModelFolder{folder}; });
  check_fails(ErrorCode::unsupported, {"config.json", "model_type", "phi3", "bert"},
              [&] { EncoderFolder{families + "phi3"}; });
  const Copy copy;
  copy.change("config.json", [](json& file) { file["is_decoder"] = true; });
  copy.refused(ErrorCode::unsupported, {"'is_decoder' is true"});
  copy.change("config.json", [](json& file) {
    file["is_decoder"] = false;
    file["position_embedding_type"] = "relative_key";
  });
  copy.refused(ErrorCode::unsupported, {"'position_embedding_type'", "absolute"});
}

TEST_CASE(
    "A mistral that looks both ways is an encoder too: its logits are those of transformers") {
  const std::string name = std::string(ATTN_TEST_DATA_PATH) + "/families/mistral_both_ways";
  const EncoderFolder model(name);
  Encoder encoder = encoder_of(model);
  std::ifstream file(name + "/expected.json");
  const Ids ids = json::parse(file)["prompt"].get<Ids>(), offsets{0, std::ssize(ids)};
  Tensor hidden(DType::f32, {std::ssize(ids), 32});
  encoder.forward({ids.data(), {std::ssize(ids)}}, {offsets.data(), {2}}, hidden.view());
  const ModelFolder decoder(name);
  const Tensor wanted = read_tensor(name + "/logits.npy");
  const Tensor output = copy_as(decoder.weights().output, DType::f32);
  Tensor logits(DType::f32, wanted.shape());
  for (std::int64_t n = 0; n < wanted.shape()[0]; ++n) {
    const float* const row = hidden.data<float>() + (std::ssize(ids) - wanted.shape()[0] + n) * 32;
    for (std::int64_t id = 0; id < 128; ++id) {
      double sum = 0;
      for (std::int64_t d = 0; d < 32; ++d)
        sum += double{row[d]} * output.data<float>()[id * 32 + d];
      logits.data<float>()[n * 128 + id] = static_cast<float>(sum);
    }
  }
  CHECK(error_of(logits, wanted) < 1e-5);
}
