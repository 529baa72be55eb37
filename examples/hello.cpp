#include <weft/weft.h>

#include <iostream>

using namespace weft;

int main() {
  manual_seed(1);
  LanguageModel model = make_language_model("transformer", {.vocab_size = 16, .dim = 32, .depth = 2, .heads = 4, .context = 16});
  AdamW optimizer(parameters(model), {.lr = 3e-3});
  for (int step = 0; step <= 200; ++step) {
    Tensor half = randint(16, {32, 8});     // eight random tokens,
    Tensor text = concat({half, half}, 1);  // said twice: the second time they can be known
    Tensor logits = model(slice(text, 1, 0, 15));
    Tensor loss = cross_entropy(slice(logits, 1, 7, 15), half);
    backward(loss);
    optimizer.step();
    optimizer.zero_grad();
    if (step % 50 == 0) std::cout << "step " << step << "  loss " << loss.item() << '\n';
  }
}
