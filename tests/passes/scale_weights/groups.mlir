module {
  func.func @main(%arg0: tensor<2x4x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<2x3x2x3xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<6xf32> {nn.line = 0 : i64, nn.name = "mean", nn.role = "state"}, %arg3: tensor<6xf32> {nn.line = 0 : i64, nn.name = "var", nn.role = "state"}, %arg4: tensor<6xf32> {nn.line = 0 : i64, nn.name = "gain", nn.role = "param"}, %arg5: tensor<6xf32> {nn.line = 0 : i64, nn.name = "bias", nn.role = "param"}) -> (tensor<2x6x3xf32> {nn.line = 0 : i64, nn.name = "y", nn.role = "output"}) {
    %0 = "nn.reshape"(%arg0) {shape = array<i64: 2, 2, 2, 5>} : (tensor<2x4x5xf32>) -> tensor<2x2x2x5xf32>
    %1 = "nn.conv"(%0, %arg1) {dilation = array<i64: 1>, dtype = f32, low = array<i64: 1>, size = array<i64: 3>, spacing = array<i64: 1>, stride = array<i64: 2>} : (tensor<2x2x2x5xf32>, tensor<2x3x2x3xf32>) -> tensor<2x2x3x3xf32>
    %2 = "nn.reshape"(%1) {shape = array<i64: 2, 6, 3>} : (tensor<2x2x3x3xf32>) -> tensor<2x6x3xf32>
    %3 = "nn.view"(%arg2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 6, 3>, strides = array<i64: 0, 1, 0>} : (tensor<6xf32>) -> tensor<2x6x3xf32>
    %4 = "nn.sub"(%2, %3) : (tensor<2x6x3xf32>, tensor<2x6x3xf32>) -> tensor<2x6x3xf32>
    %5 = "nn.constant"() {value = dense<9.99999974E-6> : tensor<6xf32>} : () -> tensor<6xf32>
    %6 = "nn.add"(%arg3, %5) : (tensor<6xf32>, tensor<6xf32>) -> tensor<6xf32>
    %7 = "nn.rsqrt"(%6) : (tensor<6xf32>) -> tensor<6xf32>
    %8 = "nn.view"(%7) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 6, 3>, strides = array<i64: 0, 1, 0>} : (tensor<6xf32>) -> tensor<2x6x3xf32>
    %9 = "nn.mul"(%4, %8) : (tensor<2x6x3xf32>, tensor<2x6x3xf32>) -> tensor<2x6x3xf32>
    %10 = "nn.view"(%arg4) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 6, 3>, strides = array<i64: 0, 1, 0>} : (tensor<6xf32>) -> tensor<2x6x3xf32>
    %11 = "nn.mul"(%9, %10) : (tensor<2x6x3xf32>, tensor<2x6x3xf32>) -> tensor<2x6x3xf32>
    %12 = "nn.view"(%arg5) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 6, 3>, strides = array<i64: 0, 1, 0>} : (tensor<6xf32>) -> tensor<2x6x3xf32>
    %13 = "nn.add"(%11, %12) : (tensor<2x6x3xf32>, tensor<2x6x3xf32>) -> tensor<2x6x3xf32>
    %14 = "nn.tanh"(%13) : (tensor<2x6x3xf32>) -> tensor<2x6x3xf32>
    return %14 : tensor<2x6x3xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<2x4x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<2x3x2x3xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<6xf32> {nn.line = 0 : i64, nn.name = "mean", nn.role = "state"}, %arg3: tensor<6xf32> {nn.line = 0 : i64, nn.name = "var", nn.role = "state"}, %arg4: tensor<6xf32> {nn.line = 0 : i64, nn.name = "gain", nn.role = "param"}, %arg5: tensor<6xf32> {nn.line = 0 : i64, nn.name = "bias", nn.role = "param"}) -> (tensor<2x6x3xf32> {nn.line = 0 : i64, nn.name = "y", nn.role = "output"}) {
    %0 = "nn.reshape"(%arg0) {shape = array<i64: 2, 2, 2, 5>} : (tensor<2x4x5xf32>) -> tensor<2x2x2x5xf32>
    %1 = "nn.reshape"(%arg2) {shape = array<i64: 2, 3>} : (tensor<6xf32>) -> tensor<2x3xf32>
    %2 = "nn.neg"(%1) : (tensor<2x3xf32>) -> tensor<2x3xf32>
    %3 = "nn.constant"() {value = dense<9.99999974E-6> : tensor<6xf32>} : () -> tensor<6xf32>
    %4 = "nn.add"(%arg3, %3) : (tensor<6xf32>, tensor<6xf32>) -> tensor<6xf32>
    %5 = "nn.rsqrt"(%4) : (tensor<6xf32>) -> tensor<6xf32>
    %6 = "nn.reshape"(%5) {shape = array<i64: 2, 3>} : (tensor<6xf32>) -> tensor<2x3xf32>
    %7 = "nn.mul"(%2, %6) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    %8 = "nn.reshape"(%arg4) {shape = array<i64: 2, 3>} : (tensor<6xf32>) -> tensor<2x3xf32>
    %9 = "nn.mul"(%6, %8) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    %10 = "nn.mul"(%7, %8) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    %11 = "nn.reshape"(%arg5) {shape = array<i64: 2, 3>} : (tensor<6xf32>) -> tensor<2x3xf32>
    %12 = "nn.add"(%10, %11) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32>
    %13 = "nn.view"(%9) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 3, 2, 3>, strides = array<i64: 1, 0, 0, 0, 0, 1, 0, 0>} : (tensor<2x3xf32>) -> tensor<2x3x2x3xf32>
    %14 = "nn.mul"(%arg1, %13) : (tensor<2x3x2x3xf32>, tensor<2x3x2x3xf32>) -> tensor<2x3x2x3xf32>
    %15 = "nn.conv"(%0, %14) {dilation = array<i64: 1>, dtype = f32, low = array<i64: 1>, size = array<i64: 3>, spacing = array<i64: 1>, stride = array<i64: 2>} : (tensor<2x2x2x5xf32>, tensor<2x3x2x3xf32>) -> tensor<2x2x3x3xf32>
    %16 = "nn.reshape"(%15) {shape = array<i64: 2, 6, 3>} : (tensor<2x2x3x3xf32>) -> tensor<2x6x3xf32>
    %17 = "nn.view"(%12) {offsets = array<i64: 0, 0>, outside = 0.000000e+00 : f64, shape = array<i64: 2, 2, 3, 3>, strides = array<i64: 0, 1, 0, 0, 0, 0, 1, 0>} : (tensor<2x3xf32>) -> tensor<2x2x3x3xf32>
    %18 = "nn.reshape"(%17) {shape = array<i64: 2, 6, 3>} : (tensor<2x2x3x3xf32>) -> tensor<2x6x3xf32>
    %19 = "nn.add"(%16, %18) : (tensor<2x6x3xf32>, tensor<2x6x3xf32>) -> tensor<2x6x3xf32>
    %20 = "nn.tanh"(%19) : (tensor<2x6x3xf32>) -> tensor<2x6x3xf32>
    return %20 : tensor<2x6x3xf32>
  }
}
