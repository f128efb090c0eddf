module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x2xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<2x3xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.view"(%arg0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 2>, strides = array<i64: 0, 1, 1, 0>} : (tensor<2x4xf32>) -> tensor<4x2xf32>
    %1 = "nn.view"(%0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 4>, strides = array<i64: 0, 1, 1, 0>} : (tensor<4x2xf32>) -> tensor<2x4xf32>
    %2 = "nn.view"(%1) {offsets = array<i64: 0, 1>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 3>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x4xf32>) -> tensor<2x3xf32>
    %3 = "nn.view"(%2) {offsets = array<i64: 0, 1>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 2>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x3xf32>) -> tensor<2x2xf32>
    %4 = "nn.view"(%arg0) {offsets = array<i64: -1, 0>, outside = 7.000000e+00 : f64, shape = array<i64: 4, 4>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x4xf32>) -> tensor<4x4xf32>
    %5 = "nn.view"(%4) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 4>, strides = array<i64: 1, 0, 0, 1>} : (tensor<4x4xf32>) -> tensor<2x4xf32>
    %6 = "nn.view"(%arg0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 2>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x4xf32>) -> tensor<2x2xf32>
    %7 = "nn.view"(%6) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 3>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x2xf32>) -> tensor<2x3xf32>
    return %3, %5, %7 : tensor<2x2xf32>, tensor<2x4xf32>, tensor<2x3xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x2xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<2x3xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.view"(%arg0) {offsets = array<i64: 0, 2>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 2>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x4xf32>) -> tensor<2x2xf32>
    %1 = "nn.view"(%arg0) {offsets = array<i64: -1, 0>, outside = 7.000000e+00 : f64, shape = array<i64: 2, 4>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %2 = "nn.view"(%arg0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 2>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x4xf32>) -> tensor<2x2xf32>
    %3 = "nn.view"(%2) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 3>, strides = array<i64: 1, 0, 0, 1>} : (tensor<2x2xf32>) -> tensor<2x3xf32>
    return %0, %1, %3 : tensor<2x2xf32>, tensor<2x4xf32>, tensor<2x3xf32>
  }
}
