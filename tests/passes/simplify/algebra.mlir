module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<1.000000e+00> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
    %1 = "nn.constant"() {value = dense<0.000000e+00> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
    %2 = "nn.mul"(%arg0, %0) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %3 = "nn.add"(%2, %1) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %4 = "nn.sub"(%3, %1) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %5 = "nn.div"(%4, %0) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    %6 = "nn.neg"(%5) : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %7 = "nn.neg"(%6) : (tensor<2x4xf32>) -> tensor<2x4xf32>
    %8 = "nn.mul"(%7, %1) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    return %8 : tensor<2x4xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<0.000000e+00> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
    %1 = "nn.mul"(%arg0, %0) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    return %1 : tensor<2x4xf32>
  }
}
