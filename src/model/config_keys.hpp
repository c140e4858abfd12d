// Keys of config.json that ask for a computation that the library does not do.
#pragma once

#include <string_view>

#include "io/json.hpp"

namespace attn::model {

/// Throws Error(unsupported), which names the key and its value, if config.json changes the
/// computation of a model of this type by a key that read_config() does not use. Such a key may be
/// missing or null, or have the value that changes nothing.
void refuse_other_computations(const io::JsonObject& json, std::string_view model_type);

}  // namespace attn::model
