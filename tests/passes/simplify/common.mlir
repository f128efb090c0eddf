#loc = loc(unknown)
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"} loc(unknown)) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.exp"(%arg0) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc1)
    %1 = "nn.exp"(%arg0) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc2)
    %2 = "nn.tanh"(%1) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc)
    %3 = "nn.add"(%0, %1) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc)
    %4 = "nn.log"(%arg0) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc)
    %5 = "nn.sub"(%0, %4) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc)
    return %3, %5 : tensor<2x4xf32>, tensor<2x4xf32> loc(#loc)
  } loc(#loc)
} loc(#loc)
#loc1 = loc("m.dsl":1:1 to :5)
#loc2 = loc("m.dsl":2:1 to :5)
// -----
#loc = loc(unknown)
module {
  func.func @main(%arg0: tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "x", nn.role = "input"} loc(unknown)) -> (tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y0", nn.role = "output"}, tensor<2x4xf32> {nn.line = 0 : i64, nn.name = "y1", nn.role = "output"}) {
    %0 = "nn.exp"(%arg0) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc3)
    %1 = "nn.add"(%0, %0) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc)
    %2 = "nn.log"(%arg0) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc)
    %3 = "nn.sub"(%0, %2) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc(#loc)
    return %1, %3 : tensor<2x4xf32>, tensor<2x4xf32> loc(#loc)
  } loc(#loc)
} loc(#loc)
#loc1 = loc("m.dsl":1:1 to :5)
#loc2 = loc("m.dsl":2:1 to :5)
#loc3 = loc(fused[#loc1, #loc2])
