module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x1xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<4x2x1xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.reduce"(%arg0) {axes = array<i64: 1>, kind = "sum"} : (tensor<2x4xf32>) -> tensor<2xf32>
    %1 = "nn.reshape"(%0) {shape = array<i64: 2, 1>} : (tensor<2xf32>) -> tensor<2x1xf32>
    %2 = "nn.constant"() {value = dense<4.000000e+00> : tensor<2x1xf32>} : () -> tensor<2x1xf32>
    %3 = "nn.div"(%1, %2) : (tensor<2x1xf32>, tensor<2x1xf32>) -> tensor<2x1xf32>
    %4 = "nn.view"(%3) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 4>, strides = array<i64: 1, 0, 0, 0>} : (tensor<2x1xf32>) -> tensor<2x4xf32>
    %5 = "nn.sub"(%arg0, %4) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %6 = "nn.view"(%3) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 4>, strides = array<i64: 1, 0, 0, 0>} : (tensor<2x1xf32>) -> tensor<2x4xf32>
    %7 = "nn.mul"(%5, %6) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %8 = "nn.exp"(%3) : (tensor<2x1xf32>) -> tensor<2x1xf32>
    %9 = "nn.reshape"(%arg0) {shape = array<i64: 1, 2, 4>} : (tensor<2x4xf32>) -> tensor<1x2x4xf32>
    %10 = "nn.view"(%9) {offsets = array<i64: 0, 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 2, 1>, strides = array<i64: 0, 0, 1, 0, 1, 0, 1, 0, 0>} : (tensor<1x2x4xf32>) -> tensor<4x2x1xf32>
    return %7, %8, %10 : tensor<2x4xf32>, tensor<2x1xf32>, tensor<4x2x1xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x1xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<4x2x1xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.reduce"(%arg0) {axes = array<i64: 1>, kind = "sum"} : (tensor<2x4xf32>) -> tensor<2xf32>
    %1 = "nn.constant"() {value = dense<4.000000e+00> : tensor<2xf32>} : () -> tensor<2xf32>
    %2 = "nn.div"(%0, %1) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
    %3 = "nn.view"(%2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 4>, strides = array<i64: 1, 0>} : (tensor<2xf32>) -> tensor<2x4xf32>
    %4 = "nn.sub"(%arg0, %3) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %5 = "nn.mul"(%4, %3) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %6 = "nn.exp"(%2) : (tensor<2xf32>) -> tensor<2xf32>
    %7 = "nn.reshape"(%6) {shape = array<i64: 2, 1>} : (tensor<2xf32>) -> tensor<2x1xf32>
    %8 = "nn.view"(%arg0) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 2, 1>, strides = array<i64: 0, 1, 0, 1, 0, 0>} : (tensor<2x4xf32>) -> tensor<4x2x1xf32>
    return %5, %7, %8 : tensor<2x4xf32>, tensor<2x1xf32>, tensor<4x2x1xf32>
  }
}
