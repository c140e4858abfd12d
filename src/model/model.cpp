#include <attn/model.hpp>

#include <system_error>
#include <utility>

#include "model/checkpoint.hpp"
#include "model/config.hpp"
#include "model/weights.hpp"
#include "tensor/checks.hpp"

namespace fs = std::filesystem;

namespace attn {
namespace {

model::ModelConfig read_configs(const fs::path& folder) {
  model::ModelConfig config = model::read_config(folder / "config.json");
  if (config.family == model::Family::bert) model::refuse_encoder(folder / "config.json");
  const fs::path generation = folder / "generation_config.json";
  std::error_code ignored;
  if (fs::exists(generation, ignored)) model::read_generation_config(generation, config);
  return config;
}

}  // namespace

struct ModelFolder::Parts {
  explicit Parts(const fs::path& folder)
      : config(read_configs(folder)),
        checkpoint(folder),
        weights(model::collect_weights(checkpoint, config)) {}

  model::ModelConfig config;
  model::Checkpoint checkpoint;
  DecoderWeights weights;
};

ModelFolder::ModelFolder(const fs::path& folder) : parts_(std::make_unique<Parts>(folder)) {}
ModelFolder::ModelFolder(ModelFolder&&) noexcept = default;
ModelFolder& ModelFolder::operator=(ModelFolder&&) noexcept = default;
ModelFolder::~ModelFolder() = default;

const ModelFolder::Parts& ModelFolder::parts() const {
  return detail::not_moved_from("model folder", parts_);
}

const DecoderSettings& ModelFolder::settings() const { return parts().config.settings; }
const DecoderWeights& ModelFolder::weights() const { return parts().weights; }
const std::string& ModelFolder::model_type() const { return parts().config.model_type; }
DType ModelFolder::stored_dtype() const { return parts().weights.embedding.dtype; }
std::optional<std::int64_t> ModelFolder::bos_id() const { return parts().config.bos_id; }
const std::vector<std::int64_t>& ModelFolder::eos_ids() const { return parts().config.eos_ids; }

}  // namespace attn
