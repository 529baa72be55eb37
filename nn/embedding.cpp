#include "weft/nn/embedding.h"

namespace weft {

Embedding::Embedding(const EmbeddingOptions& options) {
  WEFT_CHECK(options.vocab_size >= 1 && options.dim >= 1, "Embedding: vocab_size and dim must be at least 1, got {} and {}",
             options.vocab_size, options.dim);
  weight = init::normal({options.vocab_size, options.dim}, options.std);
}

}  // namespace weft
