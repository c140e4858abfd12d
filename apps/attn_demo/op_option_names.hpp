// What the library calls the arguments of functions, and the options of op that set them.
#pragma once

#include "apps/support/option_names.hpp"

namespace attn::apps::demo {

inline constexpr OptionName op_option_names[] = {{"dim", "--axis"},
                                                 {"x", "--input"},
                                                 {"log_p", "--input"},
                                                 {"logits", "--input"},
                                                 {"temperature", "--temperature"},
                                                 {"alpha", "--alpha"},
                                                 {"target", "--target"},
                                                 {"weight", "--weight"},
                                                 {"label_smoothing", "--label-smoothing"},
                                                 {"ignore_index", "--ignore-index"},
                                                 {"top_k", "--top-k"},
                                                 {"top_p", "--top-p"},
                                                 {"min_p", "--min-p"},
                                                 {"options.epsilon", "--epsilon"},
                                                 {"scale", "--scale-file"},
                                                 {"bias", "--bias-file"},
                                                 {"tables.cos", "--cos"},
                                                 {"tables.sin", "--sin"},
                                                 {"position_ids", "--position-ids"}};

}  // namespace attn::apps::demo
