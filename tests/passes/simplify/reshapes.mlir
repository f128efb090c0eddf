module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<4x2xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.reshape"(%arg0) {shape = array<i64: 8>} : (tensor<2x4xf32>) -> tensor<8xf32>
    %1 = "nn.reshape"(%0) {shape = array<i64: 4, 2>} : (tensor<8xf32>) -> tensor<4x2xf32>
    %2 = "nn.reshape"(%1) {shape = array<i64: 2, 4>} : (tensor<4x2xf32>) -> tensor<2x4xf32>
    %3 = "nn.reshape"(%arg0) {shape = array<i64: 8>} : (tensor<2x4xf32>) -> tensor<8xf32>
    %4 = "nn.reshape"(%3) {shape = array<i64: 4, 2>} : (tensor<8xf32>) -> tensor<4x2xf32>
    return %2, %4 : tensor<2x4xf32>, tensor<4x2xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<4x2xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.reshape"(%arg0) {shape = array<i64: 4, 2>} : (tensor<2x4xf32>) -> tensor<4x2xf32>
    return %arg0, %0 : tensor<2x4xf32>, tensor<4x2xf32>
  }
}
