module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<2x4xbf16> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.cast"(%arg0) {dtype = f64} : (tensor<2x4xf32>) -> tensor<2x4xf64>
    %1 = "nn.cast"(%0) {dtype = f32} : (tensor<2x4xf64>) -> tensor<2x4xf32>
    %2 = "nn.cast"(%arg0) {dtype = bf16} : (tensor<2x4xf32>) -> tensor<2x4xbf16>
    %3 = "nn.cast"(%2) {dtype = f32} : (tensor<2x4xbf16>) -> tensor<2x4xf32>
    %4 = "nn.cast"(%arg0) {dtype = f64} : (tensor<2x4xf32>) -> tensor<2x4xf64>
    %5 = "nn.cast"(%4) {dtype = bf16} : (tensor<2x4xf64>) -> tensor<2x4xbf16>
    return %1, %3, %5 : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xbf16>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<2x4xbf16> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}) {
    %0 = "nn.cast"(%arg0) {dtype = bf16} : (tensor<2x4xf32>) -> tensor<2x4xbf16>
    %1 = "nn.cast"(%0) {dtype = f32} : (tensor<2x4xbf16>) -> tensor<2x4xf32>
    return %arg0, %1, %0 : tensor<2x4xf32>, tensor<2x4xf32>, tensor<2x4xbf16>
  }
}
