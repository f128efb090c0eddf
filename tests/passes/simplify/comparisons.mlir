module {
  func.func @main(%arg0: tensor<4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<4xi1> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<4xi1> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<4xi1> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}, tensor<4xi1> {nn.line = 0 : i64, nn.name = "y3", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<1.000000e+00> : tensor<4xf32>} : () -> tensor<4xf32>
    %1 = "nn.constant"() {value = dense<0.000000e+00> : tensor<4xf32>} : () -> tensor<4xf32>
    %2 = "nn.compare"(%arg0, %1) {predicate = "gt"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %3 = "nn.select"(%2, %0, %1) : (tensor<4xi1>, tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %4 = "nn.compare"(%3, %1) {predicate = "eq"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %5 = "nn.compare"(%3, %0) {predicate = "ge"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %6 = "nn.compare"(%3, %1) {predicate = "ge"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %7 = "nn.cast"(%2) {dtype = i32} : (tensor<4xi1>) -> tensor<4xi32>
    %8 = "nn.constant"() {value = dense<0> : tensor<4xi32>} : () -> tensor<4xi32>
    %9 = "nn.compare"(%7, %8) {predicate = "ne"} : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi1>
    return %4, %5, %6, %9 : tensor<4xi1>, tensor<4xi1>, tensor<4xi1>, tensor<4xi1>
  }
}
// -----
module {
  func.func @main(%arg0: tensor<4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"}) -> (tensor<4xi1> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<4xi1> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}, tensor<4xi1> {nn.line = 0 : i64, nn.name = "y2", nn.role = "output"}, tensor<4xi1> {nn.line = 0 : i64, nn.name = "y3", nn.role = "output"}) {
    %0 = "nn.constant"() {value = dense<0.000000e+00> : tensor<4xf32>} : () -> tensor<4xf32>
    %1 = "nn.compare"(%arg0, %0) {predicate = "gt"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xi1>
    %2 = "nn.not"(%1) : (tensor<4xi1>) -> tensor<4xi1>
    %3 = "nn.constant"() {value = dense<true> : tensor<4xi1>} : () -> tensor<4xi1>
    return %2, %1, %3, %1 : tensor<4xi1>, tensor<4xi1>, tensor<4xi1>, tensor<4xi1>
  }
}
