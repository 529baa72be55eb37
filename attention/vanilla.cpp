#include "weft/attention/vanilla.h"

#include "weft/attention/dot_product.h"

namespace weft {

VanillaSelfAttention::VanillaSelfAttention(const SelfAttentionOptions& options)
    : SelfAttention(options, {.name = "VanillaSelfAttention", .max_mask_rank = 3, .head_axis = false}, dot_product) {
  WEFT_CHECK(options.heads.value_or(1) == 1, "VanillaSelfAttention: there is one head, got heads = {}; use MultiHeadSelfAttention",
             *options.heads);
}

MultiHeadSelfAttention::MultiHeadSelfAttention(const SelfAttentionOptions& options)
    : SelfAttention(options, {.name = "MultiHeadSelfAttention"}, dot_product) {
  WEFT_CHECK(options.heads.has_value(), "MultiHeadSelfAttention: heads must be given");
}

}  // namespace weft
