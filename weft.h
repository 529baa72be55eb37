// Everything: #include <weft/weft.h>.
#pragma once

#include "weft/autograd/gradcheck.h"
#include "weft/autograd/graph.h"
#include "weft/autograd/ops.h"
#include "weft/core/random.h"
#include "weft/core/tensor.h"
