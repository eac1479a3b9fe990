package kernel

// Kernels that no operation of the graph uses yet: the golden tests of package kernel_test
// compare them with PyTorch.
var (
	LogSoftmax              = logSoftmax
	LogSoftmaxGrad          = logSoftmaxGrad
	BatchNormGradInputFixed = batchNormGradInputFixed
)
