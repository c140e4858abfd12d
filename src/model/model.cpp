#include <attn/model.hpp>

#include <system_error>
#include <utility>

#include "model/checkpoint.hpp"
#include "model/config.hpp"
#include "model/weights.hpp"

namespace fs = std::filesystem;

namespace attn {
namespace {

model::ModelConfig read_configs(const fs::path& folder) {
  model::ModelConfig config = model::read_config(folder / "config.json");
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

const DecoderSettings& ModelFolder::settings() const noexcept { return parts_->config.settings; }
const DecoderWeights& ModelFolder::weights() const noexcept { return parts_->weights; }
const std::string& ModelFolder::model_type() const noexcept { return parts_->config.model_type; }
DType ModelFolder::stored_dtype() const noexcept { return parts_->weights.embedding.dtype; }
std::optional<std::int64_t> ModelFolder::bos_id() const noexcept { return parts_->config.bos_id; }
const std::vector<std::int64_t>& ModelFolder::eos_ids() const noexcept {
  return parts_->config.eos_ids;
}

}  // namespace attn
