// einsum: sums of products written by their indices, as in NumPy: einsum("bhid,bhjd->bhij", {q, k}).
//
// Parsed once, then lowered to permute + matmul + sum, so that the gradient comes with the ops. Operands are taken from left to right; an
// index goes away at the first product after which nobody needs it.
//   ...       stands for any leading axes, which broadcast: "...i,...j->...ij"
//   ii        an index twice in one operand takes the diagonal
//   no "->"   the output holds the indices that occur once, in alphabetical order (behind "...")
#pragma once

#include <string_view>
#include <vector>

#include "weft/autograd/graph.h"

namespace weft {

/// Errors name the place in the equation: bad characters, a number of operands or axes that does not fit, sizes that differ, output
/// indices that no operand has or that stand twice.
Tensor einsum(std::string_view equation, const std::vector<Tensor>& operands, Location at = Location::current());

}  // namespace weft
