module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<4xi32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}, tensor<f32> {nn.line = 0 : i64, nn.name = "y3", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<0.000000e+00> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
    %1 = "nn.exp"(%0) : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %2 = "nn.constant"() {value = dense<[1, 2, 3, 4]> : tensor<4xi32>} : () -> tensor<4xi32>
    %3 = "nn.constant"() {value = dense<[10, 20, 30, 40]> : tensor<4xi32>} : () -> tensor<4xi32>
    %4 = "nn.add"(%2, %3) : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi32>
    %5 = "nn.constant"() {value = dense<true> : tensor<2x4xi1>} : () -> tensor<2x4xi1>
    %6 = "nn.sin"(%arg0) : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %7 = "nn.select"(%5, %arg0, %6) : (tensor<2x4xi1>, tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %8 = "nn.constant"() {value = dense<3.000000e+00> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
    %9 = "nn.reduce"(%8) {axes = array<i64: 0, 1>, kind = "sum"} : (tensor<2x4xf32>) -> tensor<f32>
    %10 = "nn.mul"(%arg0, %1) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    return %10, %4, %7, %9 : tensor<2x4xf32>, tensor<4xi32>, tensor<2x4xf32>, tensor<f32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<4xi32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}, tensor<f32> {nn.line = 0 : i64, nn.name = "y3", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<[11, 22, 33, 44]> : tensor<4xi32>} : () -> tensor<4xi32>
    %1 = "nn.constant"() {value = dense<2.400000e+01> : tensor<f32>} : () -> tensor<f32>
    return %arg0, %0, %arg0, %1 : tensor<2x4xf32>, tensor<4xi32>, tensor<2x4xf32>, tensor<f32>
  }
}
