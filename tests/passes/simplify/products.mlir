module {
  func.func @main(%arg0: tensor<5x2x3xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "input"}) -> (tensor<4x2x3xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4x3xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.contract"(%arg0, %arg1) {dtype = f32, lhs = array<i64: 0, 1, 2>, out = array<i64: 1, 2, 3>, rhs = array<i64: 0, 3>} : (tensor<5x2x3xf32>, tensor<5x4xf32>) -> tensor<2x3x4xf32>
    %1 = "nn.view"(%0) {offsets = array<i64: 0, 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 2, 3>, strides = array<i64: 0, 1, 0, 0, 0, 1, 1, 0, 0>} : (tensor<2x3x4xf32>) -> tensor<4x2x3xf32>
    %2 = "nn.neg"(%1) : (tensor<4x2x3xf32>) -> tensor<4x2x3xf32>
    %3 = "nn.neg"(%arg0) : (tensor<5x2x3xf32>) -> tensor<5x2x3xf32>
    %4 = "nn.contract"(%3, %arg1) {dtype = f32, lhs = array<i64: 0, 1, 2>, out = array<i64: 1, 2, 3>, rhs = array<i64: 0, 3>} : (tensor<5x2x3xf32>, tensor<5x4xf32>) -> tensor<2x3x4xf32>
    %5 = "nn.view"(%4) {offsets = array<i64: 0, 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 4, 3>, strides = array<i64: 1, 0, 0, 0, 0, 1, 0, 1, 0>} : (tensor<2x3x4xf32>) -> tensor<2x4x3xf32>
    return %2, %5 : tensor<4x2x3xf32>, tensor<2x4x3xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<5x2x3xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "input"}) -> (tensor<4x2x3xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4x3xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.contract"(%arg0, %arg1) {dtype = f32, lhs = array<i64: 0, 1, 2>, out = array<i64: 3, 1, 2>, rhs = array<i64: 0, 3>} : (tensor<5x2x3xf32>, tensor<5x4xf32>) -> tensor<4x2x3xf32>
    %1 = "nn.neg"(%0) : (tensor<4x2x3xf32>) -> tensor<4x2x3xf32>
    %2 = "nn.neg"(%arg0) : (tensor<5x2x3xf32>) -> tensor<5x2x3xf32>
    %3 = "nn.contract"(%2, %arg1) {dtype = f32, lhs = array<i64: 0, 1, 2>, out = array<i64: 1, 2, 3>, rhs = array<i64: 0, 3>} : (tensor<5x2x3xf32>, tensor<5x4xf32>) -> tensor<2x3x4xf32>
    %4 = "nn.view"(%3) {offsets = array<i64: 0, 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 4, 3>, strides = array<i64: 1, 0, 0, 0, 0, 1, 0, 1, 0>} : (tensor<2x3x4xf32>) -> tensor<2x4x3xf32>
    return %1, %4 : tensor<4x2x3xf32>, tensor<2x4x3xf32>
  }
}
