module {
  func.func @main(%arg0: tensor<1x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<1x4xf32> {nn.line = 0 : i64, nn.name = "z", nn.role = "input"}) -> (tensor<1x1x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<1x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.view"(%arg0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 1, 1, 4>, strides = array<i64: 0, 1, 0, 0, 0, 1>} : (tensor<1x4xf32>) -> tensor<1x1x4xf32>
    %1 = "nn.view"(%arg1) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 1, 1, 4>, strides = array<i64: 0, 1, 0, 0, 0, 1>} : (tensor<1x4xf32>) -> tensor<1x1x4xf32>
    %2 = "nn.add"(%0, %1) : (tensor<1x1x4xf32>, tensor<1x1x4xf32>) -> tensor<1x1x4xf32>
    %3 = "nn.reduce"(%arg0) {axes = array<i64: 0>, kind = "sum"} : (tensor<1x4xf32>) -> tensor<4xf32>
    %4 = "nn.view"(%3) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 1, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<1x4xf32>
    %5 = "nn.mul"(%arg1, %4) : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    return %2, %5 : tensor<1x1x4xf32>, tensor<1x4xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<1x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<1x4xf32> {nn.line = 0 : i64, nn.name = "z", nn.role = "input"}) -> (tensor<1x1x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<1x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.add"(%arg0, %arg1) : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    %1 = "nn.view"(%0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 1, 1, 4>, strides = array<i64: 0, 1, 0, 0, 0, 1>} : (tensor<1x4xf32>) -> tensor<1x1x4xf32>
    %2 = "nn.reduce"(%arg0) {axes = array<i64: 0>, kind = "sum"} : (tensor<1x4xf32>) -> tensor<4xf32>
    %3 = "nn.view"(%2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 1, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<1x4xf32>
    %4 = "nn.mul"(%arg1, %3) : (tensor<1x4xf32>, tensor<1x4xf32>) -> tensor<1x4xf32>
    return %1, %4 : tensor<1x1x4xf32>, tensor<1x4xf32>
  }
}
