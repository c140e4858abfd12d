#include "model/normalizer.hpp"

#include "model/unicode.hpp"

namespace attn::model {
namespace {

struct Apply {
  std::string_view text;
  MatchSteps& steps;

  std::string operator()(TextForm form) const {
    switch (form) {
      case TextForm::nfc: return to_nfc(text);
      case TextForm::nfd: return to_nfd(text);
      case TextForm::lowercase: return to_lower(text);
    }
    return std::string(text);
  }
  std::string operator()(const Prepend& prepend) const {
    return text.empty() ? std::string() : prepend.text + std::string(text);
  }
  std::string operator()(const Replace& replace) const {
    std::string result;
    std::size_t end = 0;
    for (const Range& match : replace.pattern.find_all(text, steps)) {
      result += text.substr(end, match.begin - end);
      result += replace.content;
      end = match.end;
    }
    return result += text.substr(end);
  }
  std::string operator()(const BertNormalizer& bert) const { return bert(text); }
};

}  // namespace

const BertNormalizer* Normalizer::bert() const noexcept {
  for (const Step& step : steps_) {
    if (const auto* const bert = std::get_if<BertNormalizer>(&step)) return bert;
  }
  return nullptr;
}

std::string Normalizer::operator()(std::string_view text, MatchSteps& steps) const {
  std::string normalized(text);
  for (const Step& step : steps_) normalized = std::visit(Apply{normalized, steps}, step);
  return normalized;
}

}  // namespace attn::model
