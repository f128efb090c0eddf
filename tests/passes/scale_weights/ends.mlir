module {
  func.func @main(%arg0: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<4xf32> {nn.line = 0 : i64, nn.name = "g", nn.role = "param"}, %arg3: tensor<4xf32> {nn.line = 0 : i64, nn.name = "b", nn.role = "param"}) -> (tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "y", nn.role = "output"}) {
    %0 = "nn.contract"(%arg0, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %1 = "nn.view"(%arg2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %2 = "nn.mul"(%0, %1) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %3 = "nn.view"(%arg3) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %4 = "nn.add"(%2, %3) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %5 = "nn.reduce"(%arg0) {axes = array<i64: 1>, kind = "sum"} : (tensor<3x5xf32>) -> tensor<3xf32>
    %6 = "nn.view"(%5) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 1, 0>} : (tensor<3xf32>) -> tensor<3x4xf32>
    %7 = "nn.exp"(%6) : (tensor<3x4xf32>) -> tensor<3x4xf32>
    %8 = "nn.mul"(%4, %7) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %9 = "nn.mul"(%8, %1) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    return %9 : tensor<3x4xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<4xf32> {nn.line = 0 : i64, nn.name = "g", nn.role = "param"}, %arg3: tensor<4xf32> {nn.line = 0 : i64, nn.name = "b", nn.role = "param"}) -> (tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "y", nn.role = "output"}) {
    %0 = "nn.view"(%arg2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %1 = "nn.view"(%arg2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 5, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<5x4xf32>
    %2 = "nn.mul"(%arg1, %1) : (tensor<5x4xf32>, tensor<5x4xf32>) -> tensor<5x4xf32>
    %3 = "nn.contract"(%arg0, %2) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %4 = "nn.view"(%arg3) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %5 = "nn.add"(%3, %4) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %6 = "nn.reduce"(%arg0) {axes = array<i64: 1>, kind = "sum"} : (tensor<3x5xf32>) -> tensor<3xf32>
    %7 = "nn.view"(%6) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 1, 0>} : (tensor<3xf32>) -> tensor<3x4xf32>
    %8 = "nn.exp"(%7) : (tensor<3x4xf32>) -> tensor<3x4xf32>
    %9 = "nn.mul"(%5, %8) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %10 = "nn.mul"(%9, %0) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    return %10 : tensor<3x4xf32>
  }
}
