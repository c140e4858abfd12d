#include <attn/model.hpp>

#include "model/checkpoint.hpp"
#include "model/config.hpp"
#include "model/sentence.hpp"
#include "model/weights.hpp"
#include "tensor/checks.hpp"

namespace attn {
namespace {

EncoderSettings encoder_settings(const model::ModelConfig& config) {
  const DecoderSettings& body = config.settings;
  EncoderSettings settings{.layers = body.layers,
                           .vocab_size = body.vocab_size,
                           .num_token_types = config.num_token_types,
                           .embedding_scale = body.embedding_scale,
                           .embedding_norm = config.embedding_norm};
  if (config.family != model::Family::bert) settings.final_norm = body.layers.back().norm;
  return settings;
}

model::ModelConfig read_encoder_config(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "config.json";
  model::ModelConfig config = model::read_config(file);
  const bool causal = config.settings.layers.front().attention.options.causal.has_value();
  if (causal || config.family == model::Family::gpt2) model::refuse_decoder(file);
  return config;
}

}  // namespace

struct EncoderFolder::Parts {
  explicit Parts(const std::filesystem::path& folder)
      : config(read_encoder_config(folder)),
        settings(encoder_settings(config)),
        sentence(model::read_sentence_config(folder)),
        checkpoint(folder),
        weights(model::collect_encoder_weights(checkpoint, config)) {}

  model::ModelConfig config;
  EncoderSettings settings;
  SentenceSettings sentence;
  model::Checkpoint checkpoint;
  EncoderWeights weights;
};

EncoderFolder::EncoderFolder(const std::filesystem::path& folder)
    : parts_(std::make_unique<Parts>(folder)) {}
EncoderFolder::EncoderFolder(EncoderFolder&&) noexcept = default;
EncoderFolder& EncoderFolder::operator=(EncoderFolder&&) noexcept = default;
EncoderFolder::~EncoderFolder() = default;

const EncoderFolder::Parts& EncoderFolder::parts() const {
  return detail::not_moved_from("encoder folder", parts_);
}

const EncoderSettings& EncoderFolder::settings() const { return parts().settings; }
const EncoderWeights& EncoderFolder::weights() const { return parts().weights; }
const SentenceSettings& EncoderFolder::sentence() const { return parts().sentence; }
const std::string& EncoderFolder::model_type() const { return parts().config.model_type; }
DType EncoderFolder::stored_dtype() const { return parts().weights.embedding.dtype; }

}  // namespace attn
