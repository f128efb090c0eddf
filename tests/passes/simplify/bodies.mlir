module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}) {
    %0 = "nn.scan"(%arg0) ({
    ^bb0(%arg1: tensor<i32>, %arg2: tensor<2x4xf32>):
      %1 = "nn.exp"(%arg2) : (tensor<2x4xf32>) -> tensor<2x4xf32>
      %2 = "nn.sin"(%arg2) : (tensor<2x4xf32>) -> tensor<2x4xf32>
      %3 = "nn.constant"() {value = dense<1.000000e+00> : tensor<2x4xf32>} : () -> tensor<2x4xf32>
      %4 = "nn.mul"(%2, %3) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
      "nn.yield"(%4) : (tensor<2x4xf32>) -> ()
    }) {backward = false, carries = 1 : i64, constants = 0 : i64, trip = 3 : i64} : (tensor<2x4xf32>) -> tensor<2x4xf32>
    return %0 : tensor<2x4xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}) {
    %0 = "nn.scan"(%arg0) ({
    ^bb0(%arg1: tensor<i32>, %arg2: tensor<2x4xf32>):
      %1 = "nn.sin"(%arg2) : (tensor<2x4xf32>) -> tensor<2x4xf32>
      "nn.yield"(%1) : (tensor<2x4xf32>) -> ()
    }) {backward = false, carries = 1 : i64, constants = 0 : i64, trip = 3 : i64} : (tensor<2x4xf32>) -> tensor<2x4xf32>
    return %0 : tensor<2x4xf32>
  }
}
