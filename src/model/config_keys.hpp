// Keys of config.json that ask for a computation that the library does not do.
#pragma once

#include <span>
#include <string_view>

#include "io/json.hpp"

namespace attn::model {

/// Throws Error(unsupported), which names the key and its value, if config.json changes the
/// computation of its model by a key that is not among `keys_read`, those that the family's reader
/// understands. Such a key may be missing or null, or have the value that changes nothing.
void refuse_other_computations(const io::JsonObject& json,
                               std::span<const std::string_view> keys_read);
/// The same for the parameters of rotary positions.
void refuse_other_rope_keys(const io::JsonObject& parameters);

}  // namespace attn::model
