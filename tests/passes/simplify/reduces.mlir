module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<4xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.reduce"(%arg0) {axes = array<i64>, kind = "sum"} : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %1 = "nn.view"(%arg0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 5, 4>, strides = array<i64: 1, 0, 0, 0, 0, 1>} : (tensor<2x4xf32>) -> tensor<2x5x4xf32>
    %2 = "nn.reduce"(%1) {axes = array<i64: 1>, kind = "sum"} : (tensor<2x5x4xf32>) -> tensor<2x4xf32>
    %3 = "nn.reduce"(%1) {axes = array<i64: 0, 1>, kind = "max"} : (tensor<2x5x4xf32>) -> tensor<4xf32>
    return %0, %2, %3 : tensor<2x4xf32>, tensor<2x4xf32>, tensor<4xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<4xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<5.000000e+00> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
    %1 = "nn.mul"(%arg0, %0) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %2 = "nn.reduce"(%arg0) {axes = array<i64: 0>, kind = "max"} : (tensor<2x4xf32>) -> tensor<4xf32>
    return %arg0, %1, %2 : tensor<2x4xf32>, tensor<2x4xf32>, tensor<4xf32>
  }
}
