module {
  func.func @main(%arg0: tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<2> : tensor<i32>} : () -> tensor<i32>
    %1 = "nn.gather"(%arg0, %0) {batch = 0 : i64, outside = 0.000000e+00 : f64} : (tensor<3x4xf32>, tensor<i32>) -> tensor<4xf32>
    %2 = "nn.constant"() {value = dense<[[3, 1], [2, 0]]> : tensor<2x2xi32>} : () -> tensor<2x2xi32>
    %3 = "nn.gather"(%arg0, %2) {batch = 0 : i64, outside = -1.000000e+00 : f64} : (tensor<3x4xf32>, tensor<2x2xi32>) -> tensor<2x2x4xf32>
    %4 = "nn.constant"() {value = dense<[0, 2, 1]> : tensor<3xi32>} : () -> tensor<3xi32>
    %5 = "nn.gather"(%arg0, %4) {batch = 0 : i64, outside = 0.000000e+00 : f64} : (tensor<3x4xf32>, tensor<3xi32>) -> tensor<3x4xf32>
    return %1, %3, %5 : tensor<4xf32>, tensor<2x2x4xf32>, tensor<3x4xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.view"(%arg0) {offsets = array<i64: 2, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4>, strides = array<i64: 0, 1>} : (tensor<3x4xf32>) -> tensor<4xf32>
    %1 = "nn.view"(%arg0) {offsets = array<i64: 3, 0>, outside = -1.000000e+00 : f64, shape = array<i64: 2, 2, 4>, strides = array<i64: -1, -2, 0, 0, 0, 1>} : (tensor<3x4xf32>) -> tensor<2x2x4xf32>
    %2 = "nn.constant"() {value = dense<[0, 2, 1]> : tensor<3xi32>} : () -> tensor<3xi32>
    %3 = "nn.gather"(%arg0, %2) {batch = 0 : i64, outside = 0.000000e+00 : f64} : (tensor<3x4xf32>, tensor<3xi32>) -> tensor<3x4xf32>
    return %0, %1, %3 : tensor<4xf32>, tensor<2x2x4xf32>, tensor<3x4xf32>
  }
}
