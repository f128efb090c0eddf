module {
  func.func @main(%arg0: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<4xf32> {nn.line = 0 : i64, nn.name = "g", nn.role = "param"}, %arg3: tensor<3xf32> {nn.line = 0 : i64, nn.name = "rows", nn.role = "param"}, %arg4: tensor<f32> {nn.line = 0 : i64, nn.name = "one", nn.role = "param"}, %arg5: tensor<4xf32> {nn.line = 0 : i64, nn.name = "trained", nn.role = "param"}, %arg6: tensor<5xf32> {nn.line = 0 : i64, nn.name = "narrow", nn.role = "param"}, %arg7: tensor<5x4xf16> {nn.line = 0 : i64, nn.name = "h", nn.role = "param"}, %arg8: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "v", nn.role = "param"}) -> (tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "rows", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "along_rows", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "one", nn.role = "output"}, tensor<4xf32> {nn.line = 0 : i64, nn.name = "trained", nn.role = "param"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "by_trained", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "twice", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "wider", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "still", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "first", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "second", nn.role = "output"}, tensor<3x4xf16> {nn.line = 0 : i64, nn.name = "half", nn.role = "output"}) {
    %0 = "nn.contract"(%arg0, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %1 = "nn.cos"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %2 = "nn.contract"(%1, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %3 = "nn.cast"(%arg0) {dtype = f16} : (tensor<3x5xf32>) -> tensor<3x5xf16>
    %4 = "nn.contract"(%3, %arg7) {dtype = f16, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf16>, tensor<5x4xf16>) -> tensor<3x4xf16>
    %5 = "nn.cast"(%arg2) {dtype = f16} : (tensor<4xf32>) -> tensor<4xf16>
    %6 = "nn.view"(%5) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf16>) -> tensor<3x4xf16>
    %7 = "nn.mul"(%4, %6) : (tensor<3x4xf16>, tensor<3x4xf16>) -> tensor<3x4xf16>
    %8 = "nn.tanh"(%0) : (tensor<3x4xf32>) -> tensor<3x4xf32>
    %9 = "nn.view"(%arg2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %10 = "nn.mul"(%8, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %11 = "nn.neg"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %12 = "nn.contract"(%11, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %13 = "nn.view"(%arg3) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 1, 0>} : (tensor<3xf32>) -> tensor<3x4xf32>
    %14 = "nn.mul"(%12, %13) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %15 = "nn.exp"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %16 = "nn.contract"(%15, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %17 = "nn.view"(%arg4) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64>} : (tensor<f32>) -> tensor<3x4xf32>
    %18 = "nn.mul"(%16, %17) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %19 = "nn.constant"() {value = dense<1.000000e+00> : tensor<4xf32>} : () -> tensor<4xf32>
    %20 = "nn.add"(%arg5, %19) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %21 = "nn.abs"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %22 = "nn.contract"(%21, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %23 = "nn.view"(%arg5) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %24 = "nn.mul"(%22, %23) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %25 = "nn.mul"(%0, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %26 = "nn.mul"(%25, %0) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %27 = "nn.sqrt"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %28 = "nn.view"(%arg6) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 5, 4>, strides = array<i64: 1, 0>} : (tensor<5xf32>) -> tensor<5x4xf32>
    %29 = "nn.contract"(%27, %28) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %30 = "nn.mul"(%29, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %31 = "nn.contract"(%arg8, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %32 = "nn.mul"(%31, %13) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %33 = "nn.tanh"(%2) : (tensor<3x4xf32>) -> tensor<3x4xf32>
    %34 = "nn.mul"(%2, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    return %10, %14, %18, %20, %24, %26, %30, %32, %33, %34, %7 : tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf16>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}, %arg1: tensor<5x4xf32> {nn.line = 0 : i64, nn.name = "w", nn.role = "param"}, %arg2: tensor<4xf32> {nn.line = 0 : i64, nn.name = "g", nn.role = "param"}, %arg3: tensor<3xf32> {nn.line = 0 : i64, nn.name = "rows", nn.role = "param"}, %arg4: tensor<f32> {nn.line = 0 : i64, nn.name = "one", nn.role = "param"}, %arg5: tensor<4xf32> {nn.line = 0 : i64, nn.name = "trained", nn.role = "param"}, %arg6: tensor<5xf32> {nn.line = 0 : i64, nn.name = "narrow", nn.role = "param"}, %arg7: tensor<5x4xf16> {nn.line = 0 : i64, nn.name = "h", nn.role = "param"}, %arg8: tensor<3x5xf32> {nn.line = 0 : i64, nn.name = "v", nn.role = "param"}) -> (tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "rows", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "along_rows", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "one", nn.role = "output"}, tensor<4xf32> {nn.line = 0 : i64, nn.name = "trained", nn.role = "param"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "by_trained", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "twice", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "wider", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "still", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "first", nn.role = "output"}, tensor<3x4xf32> {nn.line = 0 : i64, nn.name = "second", nn.role = "output"}, tensor<3x4xf16> {nn.line = 0 : i64, nn.name = "half", nn.role = "output"}) {
    %0 = "nn.contract"(%arg0, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %1 = "nn.cos"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %2 = "nn.contract"(%1, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %3 = "nn.cast"(%arg0) {dtype = f16} : (tensor<3x5xf32>) -> tensor<3x5xf16>
    %4 = "nn.contract"(%3, %arg7) {dtype = f16, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf16>, tensor<5x4xf16>) -> tensor<3x4xf16>
    %5 = "nn.cast"(%arg2) {dtype = f16} : (tensor<4xf32>) -> tensor<4xf16>
    %6 = "nn.view"(%5) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf16>) -> tensor<3x4xf16>
    %7 = "nn.mul"(%4, %6) : (tensor<3x4xf16>, tensor<3x4xf16>) -> tensor<3x4xf16>
    %8 = "nn.tanh"(%0) : (tensor<3x4xf32>) -> tensor<3x4xf32>
    %9 = "nn.view"(%arg2) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %10 = "nn.mul"(%8, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %11 = "nn.neg"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %12 = "nn.contract"(%11, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %13 = "nn.view"(%arg3) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 1, 0>} : (tensor<3xf32>) -> tensor<3x4xf32>
    %14 = "nn.mul"(%12, %13) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %15 = "nn.exp"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %16 = "nn.contract"(%15, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %17 = "nn.view"(%arg4) {offsets = array<i64>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64>} : (tensor<f32>) -> tensor<3x4xf32>
    %18 = "nn.mul"(%16, %17) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %19 = "nn.constant"() {value = dense<1.000000e+00> : tensor<4xf32>} : () -> tensor<4xf32>
    %20 = "nn.add"(%arg5, %19) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %21 = "nn.abs"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %22 = "nn.contract"(%21, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %23 = "nn.view"(%arg5) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 3, 4>, strides = array<i64: 0, 1>} : (tensor<4xf32>) -> tensor<3x4xf32>
    %24 = "nn.mul"(%22, %23) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %25 = "nn.mul"(%0, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %26 = "nn.mul"(%25, %0) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %27 = "nn.sqrt"(%arg0) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    %28 = "nn.view"(%arg6) {offsets = array<i64: 0>, outside = 0.000000e+00 : f64, shape = array<i64: 5, 4>, strides = array<i64: 1, 0>} : (tensor<5xf32>) -> tensor<5x4xf32>
    %29 = "nn.contract"(%27, %28) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %30 = "nn.mul"(%29, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %31 = "nn.contract"(%arg8, %arg1) {dtype = f32, lhs = array<i64: 0, 1>, out = array<i64: 0, 2>, rhs = array<i64: 1, 2>} : (tensor<3x5xf32>, tensor<5x4xf32>) -> tensor<3x4xf32>
    %32 = "nn.mul"(%31, %13) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    %33 = "nn.tanh"(%2) : (tensor<3x4xf32>) -> tensor<3x4xf32>
    %34 = "nn.mul"(%2, %9) : (tensor<3x4xf32>, tensor<3x4xf32>) -> tensor<3x4xf32>
    return %10, %14, %18, %20, %24, %26, %30, %32, %33, %34, %7 : tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf32>, tensor<3x4xf16>
  }
}
