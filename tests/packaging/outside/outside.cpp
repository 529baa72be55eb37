#include <weft/weft.h>

#include <iostream>

int main() {
  weft::Tensor w = weft::parameter(weft::full({3, 2}, 0.5));
  weft::Tensor x = weft::from_vector<float>({1, 2, 3}, {1, 3});
  weft::Tensor loss = weft::sum(weft::square(weft::matmul(x, w)));
  weft::backward(loss);
  std::cout << loss.item() << ' ' << weft::grad(w).to_vector<float>().back() << '\n';
}
