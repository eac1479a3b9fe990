package pt2

import "testing"

// TestByHand: one forward method more than modules is a torch.autograd.Function's.
func TestByHand(t *testing.T) {
	const top = "File \"/src/net.py\", line 10, in forward\n    return self.body(x)\n"
	for _, c := range []struct {
		name, trace, stack string
		want               bool
	}{
		{"a module", top + "File \"/lib/torch/nn/modules/linear.py\", line 1, in forward\n    return F.linear(x)\n", "a,,net.Net;b,body,torch.nn.modules.linear.Linear", false},
		{"a function", top + "File \"/src/net.py\", line 3, in forward\n    return torch.sign(x)\n", "a,,net.Net", true},
		{"a class in front of", "File \"/src/net.py\", line 10, in forward\n    return super().forward(x)\nFile \"/src/net.py\", line 3, in forward\n    return torch.sign(x)\n", "a,,net.Net", false},
		{"a slice of a list", top + "File \"/lib/torch/nn/modules/container.py\", line 1, in forward\n    x = module(x)\nFile \"/src/net.py\", line 3, in forward\n    return torch.sign(x)\n", "a,,net.Net;b,list.0.1,net.Part", false},
		{"a function in a container", top + "File \"/lib/torch/nn/modules/container.py\", line 1, in forward\n    x = module(x)\nFile \"/src/net.py\", line 3, in forward\n    return torch.sign(x)\n", "a,,net.Net;b,body,net.Block", true},
		{"a layer that is made where it is called", top + "File \"/lib/torch/nn/modules/activation.py\", line 3, in forward\n    return F.softmax(x)\n", "a,,net.Net", false},
		{"no modules", top, "", false},
	} {
		if got := byHand(c.trace, c.stack); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
