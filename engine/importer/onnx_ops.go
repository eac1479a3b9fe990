// The operators of ONNX.

package importer

import (
	"github.com/ravnest/ravnest/engine/format/onnx"
)

var onnxOperators map[string]func(l *lowering, n *onnx.Node)

func init() {
	onnxOperators = map[string]func(l *lowering, n *onnx.Node){
		"Conv": onnxConv, "ConvTranspose": onnxConvTranspose, "Gemm": gemm, "MatMul": onnxMatMul,
		"BatchNormalization": onnxBatchNorm, "LayerNormalization": onnxLayerNorm, "InstanceNormalization": onnxInstanceNorm, "GroupNormalization": onnxGroupNorm,
		"RMSNormalization": onnxRMSNorm, "Dropout": onnxDropout,
		"MaxPool": onnxPool("max_pool"), "AveragePool": onnxPool("avg_pool"), "GlobalAveragePool": onnxGlobalPool("mean"), "GlobalMaxPool": onnxGlobalPool("amax"),
		"Softmax": onnxSoftmax("softmax"), "LogSoftmax": onnxSoftmax("log_softmax"),
		"Gelu": func(l *lowering, n *onnx.Node) {
			l.call("gelu", tensorArg("self", n, 0), textArg("approximate", attrText(n, "approximate", "none")))
		},
		"LeakyRelu": func(l *lowering, n *onnx.Node) {
			l.call("leaky_relu", tensorArg("self", n, 0), floatArg("negative_slope", attrFloat(n, "alpha", 0.01)))
		},
		"Elu": func(l *lowering, n *onnx.Node) {
			l.call("elu", tensorArg("self", n, 0), floatArg("alpha", attrFloat(n, "alpha", 1)))
		},
		"Celu": func(l *lowering, n *onnx.Node) {
			l.call("celu", tensorArg("self", n, 0), floatArg("alpha", attrFloat(n, "alpha", 1)))
		},
		"Selu": onnxSelu, "HardSigmoid": onnxHardSigmoid, "Clip": onnxClip, "PRelu": onnxPRelu, "Pow": onnxPow,
		"Add": onnxBinary("add"), "Sub": onnxBinary("sub"), "Mul": onnxBinary("mul"), "Div": onnxBinary("div"),
		"Min": onnxFold("min", false), "Max": onnxFold("max", false), "Sum": onnxFold("add", false), "Mean": onnxFold("add", true),
		"And": onnxLogic("logical_and"), "Or": onnxLogic("logical_or"), "Xor": onnxLogic("logical_xor"), "Not": onnxCall("logical_not"), "Mod": onnxBinary("remainder"),
		"Equal": onnxCompare("eq"), "Less": onnxCompare("lt"), "LessOrEqual": onnxCompare("le"), "Greater": onnxCompare("gt"), "GreaterOrEqual": onnxCompare("ge"),
		"Where": onnxWhere, "Cast": onnxCast, "CastLike": onnxCastLike, "IsNaN": onnxIsNaN, "Identity": func(l *lowering, n *onnx.Node) { l.set(n, l.need(n, 0)) },
		"Constant": onnxConstant, "ConstantOfShape": constantOfShape, "Shape": onnxShape, "Size": onnxSize, "Range": onnxRange,
		"Reshape": onnxReshape, "Flatten": onnxFlatten, "Squeeze": onnxSqueeze, "Unsqueeze": onnxUnsqueeze, "Transpose": onnxTranspose,
		"Expand": onnxExpand, "Tile": onnxTile, "Slice": onnxSlice, "Split": onnxSplit, "Concat": onnxConcat, "SplitToSequence": onnxSplitToSequence, "SequenceAt": onnxSequenceAt, "Pad": onnxPad,
		"Gather": onnxGather, "GatherND": onnxGatherND, "GridSample": onnxGridSample, "Col2Im": onnxCol2Im, "GatherElements": onnxGatherElements,
		"ReduceMean": onnxReduce("mean"), "ReduceSum": onnxReduce("sum"), "ReduceMax": onnxReduce("amax"), "ReduceMin": onnxReduce("amin"),
		"ReduceL2": onnxReduce("l2"), "ReduceSumSquare": onnxReduce("squares"), "ReduceL1": onnxReduce("l1"), "ReduceLogSum": onnxReduce("log"),
		"ReduceLogSumExp": onnxReduce("logsumexp"), "ReduceProd": onnxReduce("prod"),
		"CumSum": onnxCumSum, "Trilu": onnxTrilu, "Einsum": onnxEinsum, "Resize": onnxResize, "DepthToSpace": onnxDepthToSpace,
	}
	for op, f := range map[string]string{
		"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh", "HardSwish": "hardswish", "Softplus": "softplus", "Softsign": "softsign", "Mish": "mish",
		"Swish": "silu", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Reciprocal": "reciprocal", "Abs": "abs", "Neg": "neg", "Floor": "floor", "Sign": "sign", "Erf": "erf", "Sin": "sin", "Cos": "cos", "Atan": "atan",
		"Ceil": "ceil", "Round": "round", "Tan": "tan", "Sinh": "sinh", "Cosh": "cosh", "Asin": "asin", "Acos": "acos",
	} {
		onnxOperators[op] = onnxCall(f)
	}
	recurrentONNX()
	functionONNX()
	fusedONNX()
}
