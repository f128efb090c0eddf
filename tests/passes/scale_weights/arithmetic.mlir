module {
  func.func @main(%arg0: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<4xf32> {nn.line = 0 : i64, nn.name = "a", nn.role = "param"}, %arg3: tensor<4xf32> {nn.line = 0 : i64, nn.name = "b", nn.role = "param"}, %arg4: tensor<f32> {nn.line = 0 : i64, nn.name = "c", nn.role = "param"}) -> (tensor<4x3xf32> {nn.line = 0 : i64, nn.name = "y", nn.role = "output"}) {
    %0 = "nn.contract"(%arg0, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 2, 0>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<4x3xf32>
    %1 = "nn.view"(%arg2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 3>, strides = array<i64: 1, 0>} : (tensor<4xf32>) -> tensor<4x3xf32>
    %2 = "nn.div"(%0, %1) : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>
    %3 = "nn.view"(%arg3) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 3>, strides = array<i64: 1, 0>} : (tensor<4xf32>) -> tensor<4x3xf32>
    %4 = "nn.sub"(%3, %2) : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>
    %5 = "nn.neg"(%4) : (tensor<4x3xf32>) -> tensor<4x3xf32>
    %6 = "nn.view"(%arg4) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 3>, strides = array<i64>} : (tensor<f32>) -> tensor<4x3xf32>
    %7 = "nn.mul"(%6, %5) : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>
    %8 = "nn.exp"(%7) : (tensor<4x3xf32>) -> tensor<4x3xf32>
    return %8 : tensor<4x3xf32>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<4xf32> {nn.line = 0 : i64, nn.name = "a", nn.role = "param"}, %arg3: tensor<4xf32> {nn.line = 0 : i64, nn.name = "b", nn.role = "param"}, %arg4: tensor<f32> {nn.line = 0 : i64, nn.name = "c", nn.role = "param"}) -> (tensor<4x3xf32> {nn.line = 0 : i64, nn.name = "y", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<1.000000e+00> : tensor<4xf32>} : () -> tensor<4xf32>
    %1 = "nn.div"(%0, %arg2) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %2 = "nn.constant"() {value = dense<-1.000000e+00> : tensor<f32>} : () -> tensor<f32>
    %3 = "nn.view"(%2) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 4>, strides = array<i64>} : (tensor<f32>) -> tensor<4xf32>
    %4 = "nn.mul"(%1, %3) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %5 = "nn.constant"() {value = dense<-1.000000e+00> : tensor<f32>} : () -> tensor<f32>
    %6 = "nn.view"(%5) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 4>, strides = array<i64>} : (tensor<f32>) -> tensor<4xf32>
    %7 = "nn.mul"(%4, %6) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %8 = "nn.view"(%5) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 4>, strides = array<i64>} : (tensor<f32>) -> tensor<4xf32>
    %9 = "nn.mul"(%arg3, %8) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %10 = "nn.view"(%arg4) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 4>, strides = array<i64>} : (tensor<f32>) -> tensor<4xf32>
    %11 = "nn.mul"(%7, %10) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %12 = "nn.view"(%arg4) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 4>, strides = array<i64>} : (tensor<f32>) -> tensor<4xf32>
    %13 = "nn.mul"(%9, %12) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %14 = "nn.view"(%11) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 5, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<5x4xf32>
    %15 = "nn.mul"(%arg1, %14) : (tensor<5x4xf32>, tensor<5x4xf32>) -> tensor<5x4xf32>
    %16 = "nn.contract"(%arg0, %15) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 2, 0>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<4x3xf32>
    %17 = "nn.view"(%13) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 4, 3>, strides = array<i64: 1, 0>} : (tensor<4xf32>) -> tensor<4x3xf32>
    %18 = "nn.add"(%16, %17) : (tensor<4x3xf32>, tensor<4x3xf32>) -> tensor<4x3xf32>
    %19 = "nn.exp"(%18) : (tensor<4x3xf32>) -> tensor<4x3xf32>
    return %19 : tensor<4x3xf32>
  }
}
