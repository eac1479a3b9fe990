package main

import "github.com/ravnest/ravnest/engine/kernel"

// products by M, K, N.
var products = [][3]int{
	{256, 256, 256},
	{512, 512, 512},
	{1024, 1024, 1024},
	{2048, 2048, 2048},
	{64, 576, 3136},
	{128, 1152, 784},
	{512, 512, 64},
	{64, 256, 10},
}

var directions = []string{"forward", "data", "weights"}

// convolutions are the distinct layers of ResNet-50 at 224x224, some of ResNet-18 at 64x64, whose
// last planes are small, those of the walkthrough's model, some with groups as ResNeXt's (4, 8 and 16 channels each) and some
// with a filter for each channel as MobileNet's and EfficientNet's.
func convolutions() []kernel.Conv {
	conv := func(n, c, hw, o, k, stride, pad, groups int) kernel.Conv {
		return kernel.Conv{
			N: n, C: c, H: hw, W: hw, O: o, KH: k, KW: k, SH: stride, SW: stride,
			PT: pad, PL: pad, PB: pad, PR: pad, DH: 1, DW: 1, Groups: groups,
		}
	}
	all := []kernel.Conv{conv(8, 3, 224, 64, 7, 2, 3, 1)}
	in := 64
	for i, width := range []int{64, 128, 256, 512} {
		hw, stride := 56>>i, 1
		from := hw
		if i > 0 {
			from, stride = 2*hw, 2
		}
		all = append(all,
			conv(8, in, from, width, 1, 1, 0, 1),
			conv(8, width, from, width, 3, stride, 1, 1),
			conv(8, width, hw, 4*width, 1, 1, 0, 1),
			conv(8, in, from, 4*width, 1, stride, 0, 1),
			conv(8, 4*width, hw, width, 1, 1, 0, 1))
		if i > 0 {
			all = append(all, conv(8, width, hw, width, 3, 1, 1, 1))
		}
		in = 4 * width
	}
	return append(all,
		conv(32, 64, 16, 64, 3, 1, 1, 1),
		conv(32, 256, 4, 512, 3, 2, 1, 1),
		conv(32, 256, 4, 512, 1, 2, 0, 1),
		conv(32, 512, 2, 512, 3, 1, 1, 1),
		conv(64, 1, 8, 16, 3, 1, 1, 1),
		conv(64, 16, 2, 32, 3, 1, 1, 1),
		conv(8, 128, 56, 128, 3, 1, 1, 32),
		conv(8, 256, 28, 256, 3, 1, 1, 32),
		conv(8, 256, 56, 256, 3, 2, 1, 32),
		conv(8, 512, 14, 512, 3, 1, 1, 32),
		conv(8, 64, 28, 64, 3, 1, 1, 8),
		conv(8, 384, 14, 384, 3, 1, 1, 24),
		conv(8, 32, 112, 32, 3, 1, 1, 32),
		conv(8, 96, 112, 96, 3, 2, 1, 96),
		conv(8, 144, 56, 144, 3, 1, 1, 144),
		conv(8, 120, 28, 120, 5, 2, 2, 120),
		conv(8, 192, 28, 192, 7, 1, 3, 192),
		conv(8, 128, 28, 128, 3, 1, 1, 128),
		conv(8, 128, 28, 128, 3, 2, 1, 128),
		conv(8, 128, 28, 128, 5, 1, 2, 128),
		conv(8, 512, 14, 512, 3, 1, 1, 512),
		conv(8, 512, 7, 512, 3, 1, 1, 512))
}
