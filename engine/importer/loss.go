// Losses that a model computes itself: of each sample, or of the batch.

package importer

import (
	"math"
	"slices"

	"github.com/ravnest/ravnest/engine/format/pt2"
	"github.com/ravnest/ravnest/engine/graph"
)

var lossOperators = map[string]operator{
	"mse_loss": distanceLoss(squared), "l1_loss": distanceLoss(absolute), "smooth_l1_loss": distanceLoss(huber("beta")), "huber_loss": distanceLoss(huber("delta")),
	"cross_entropy_loss": crossEntropy, "nll_loss_nd": nllLoss, "nll_loss": nllLoss, "nll_loss2d": nllLoss,
	"binary_cross_entropy_with_logits": logitLoss, "binary_cross_entropy": binaryLoss, "kl_div": klDiv, "soft_margin_loss": softMargin, "poisson_nll_loss": poissonLoss,
	"triplet_margin_loss": tripletLoss, "margin_ranking_loss": rankingLoss, "hinge_embedding_loss": hingeLoss, "cosine_embedding_loss": cosineLoss,
}

// How PyTorch numbers what becomes of a loss of many elements.
const (
	reduceNone = iota
	reduceMean
	reduceSum
)

// loss defines what becomes of a loss of many elements: all of them, or their mean or sum, as the node says.
func (l *lowering) loss(n *pt2.Node, x *value) {
	switch l.integer(n, "reduction", reduceMean) {
	case reduceNone:
		l.define(x)
	case reduceMean:
		l.define(l.pool("mean", x, nil, false))
	default:
		l.define(l.pool("sum", x, nil, false))
	}
}

func squared(l *lowering, _ *pt2.Node, d *value) *value { return l.unary("pow", d, 2, 0) }

func absolute(l *lowering, _ *pt2.Node, d *value) *value { return l.unary("abs", d, 0, 0) }

// huber is a parabola up to a distance, which it divides by where the name is beta, and a line
// behind it.
func huber(name string) func(l *lowering, n *pt2.Node, d *value) *value {
	return func(l *lowering, n *pt2.Node, d *value) *value {
		k := l.scalar(n, name, 1)
		near := l.unary("clamp", d, -k, k) // near·(d - near/2) is both
		y := l.binary("mul", near, l.binary("sub", d, l.unary("affine", near, 0.5, 0)))
		if name == "beta" && k > 0 {
			y = l.unary("affine", y, 1/k, 0)
		}
		return y
	}
}

// distanceLoss is a loss of the differences, element by element.
func distanceLoss(f func(l *lowering, n *pt2.Node, d *value) *value) operator {
	return func(l *lowering, n *pt2.Node) {
		l.loss(n, f(l, n, l.binary("sub", l.tensor(n, "self"), l.tensor(n, "target"))))
	}
}

// ignored is the class that does not count by default.
const ignored = -100

// nll is minus the log probability of each sample's class [N, C, ...], 0 where it is ignored.
func (l *lowering) nll(n *pt2.Node, logs *value) {
	if len(logs.shape) < 2 {
		fail("of %v", logs.shape)
	}
	classes, weight, smooth := l.tensor(n, "target"), l.optional(n, "weight"), l.scalar(n, "label_smoothing", 0)
	how := l.integer(n, "reduction", reduceMean)
	c := logs.shape[1]
	var shares *value // of each class, [N, C, ...]
	var lacks *value  // a class that is ignored where all count
	switch {
	case slices.Equal(classes.shape, logs.shape) && !classes.whole:
		if shares = classes; smooth != 0 {
			shares = l.unary("affine", shares, 1-smooth, smooth/float64(c))
		}
	case len(classes.shape) == len(logs.shape)-1:
		shares = l.back(l.hot(classes, c), 1)
		no := float64(l.integer(n, "ignore_index", ignored))
		if no >= 0 && no < float64(c) {
			shares = l.binary("mul", shares, l.with(l.unary("ne", classes, no, 0), 1))
		}
		if how == reduceMean && l.entire {
			if weight != nil {
				fail("with weights of the classes, over the whole batch")
			}
			l.define(l.meanOfCounted(logs, shares, smooth))
			return
		}
		if how == reduceMean {
			l.countsAll(n, classes)
			lacks = l.unary("eq", classes, no, 0)
		}
		if smooth != 0 {
			counted := l.reduce("sum", shares, []int{1}, true) // 0 where a class is ignored
			shares = l.binary("add", l.unary("affine", shares, 1-smooth, 0), l.unary("affine", counted, smooth/float64(c), 0))
		}
	default:
		fail("of classes %v", classes.shape)
	}
	if weight != nil && lacks != nil {
		fail("with weights of the classes, by whose sum over the batch the mean is divided; compute the loss of each sample with reduction=\"none\", or give the loss to the job")
	}
	if weight != nil {
		shares = l.binary("mul", shares, perChannel(weight, len(logs.shape)))
	}
	y := l.unary("affine", l.reduce("sum", l.binary("mul", logs, shares), []int{1}, false), -1, 0)
	if lacks != nil {
		if note := "a class that does not count (-100, or ignore_index) has no loss: a run over data that hold one ends there"; !slices.Contains(l.notes, note) {
			l.notes = append(l.notes, note)
		}
		y = l.where(lacks, constant([]float64{math.NaN()}, []int{}, false), y)
	}
	l.loss(n, y)
}

// meanOfCounted is minus the mean log probability of classes of a whole batch, of which shares has ones.
func (l *lowering) meanOfCounted(logs, shares *value, smooth float64) *value {
	all := func(x *value) *value { return l.reduce("sum", x, plainOrder(len(x.shape)), false) }
	sum := all(l.binary("mask", logs, shares)) // others may be minus infinity
	if smooth != 0 {
		counted := l.reduce("sum", shares, []int{1}, false) // 0 where a class is ignored
		even := all(l.binary("mul", l.reduce("mean", logs, []int{1}, false), counted))
		sum = l.binary("add", l.unary("affine", sum, 1-smooth, 0), l.unary("affine", even, smooth, 0))
	}
	return l.unary("affine", l.binary("div", sum, all(shares)), -1, 0)
}

// countsAll refuses a mean over classes some of which may be ignored, unless they come from the data
// as they are. There a sample with such a class gets NaN for its loss, which ends a run with a word.
func (l *lowering) countsAll(n *pt2.Node, classes *value) {
	name := classes.name
	for p := l.producer(name); p != nil; p = l.producer(name) {
		switch p.Op.(type) {
		case *graph.Reshape, *graph.Permute, *graph.Slice:
			name = p.Inputs[0]
			continue
		}
		break
	}
	if slices.ContainsFunc(l.g.Inputs, func(in graph.Input) bool { return in.Name == name }) {
		return
	}
	fail("its mean leaves out the classes %d, of which samples may have different numbers; compute the loss of each sample with reduction=\"none\", or return the logits and give the loss to the job", l.integer(n, "ignore_index", ignored))
}

func nllLoss(l *lowering, n *pt2.Node) { l.nll(n, l.tensor(n, "self")) }

func crossEntropy(l *lowering, n *pt2.Node) {
	l.nll(n, l.logSoftmax(l.value(l.tensor(n, "self")), 1))
}

// logitLoss is log(1 + exp(-|x|)) + max(x, 0) - x·y; what is positive may count more.
func logitLoss(l *lowering, n *pt2.Node) {
	x, y := l.tensor(n, "self"), l.tensor(n, "target")
	loss := l.binary("sub", l.unary("softplus", x, 1, 20), l.binary("mul", x, y))
	if p := l.optional(n, "pos_weight"); p != nil { // + (p - 1)·y·log(1 + exp(-x))
		more := l.binary("mul", y, l.unary("softplus", l.unary("affine", x, -1, 0), 1, 20))
		loss = l.binary("add", loss, l.binary("mul", more, l.unary("affine", p, 1, -1)))
	}
	if w := l.optional(n, "weight"); w != nil {
		loss = l.binary("mul", loss, w)
	}
	l.loss(n, loss)
}

// binaryLoss is -y·log(x) - (1 - y)·log(1 - x), where no logarithm is below -100. Its gradient
// (x - y) / (x·(1 - x)) divides by no less than 1e-12: where x is 0 or 1, logarithms have none.
func binaryLoss(l *lowering, n *pt2.Node) {
	x, y := l.value(l.tensor(n, "self")), l.tensor(n, "target")
	given := l.detached(x)
	log := func(x *value) *value { return l.clamped(l.unary("log", x, 0, 0), -100, math.Inf(1)) }
	yes, no := l.binary("mul", y, log(given)), l.binary("mul", l.unary("rsub", y, 1, 1), log(l.unary("rsub", given, 1, 1)))
	loss := l.unary("affine", l.binary("add", yes, no), -1, 0)
	spread := l.clamped(l.binary("mul", given, l.unary("rsub", given, 1, 1)), 1e-12, math.Inf(1))
	slope := l.binary("div", l.binary("sub", given, l.detached(y)), spread)
	loss = l.binary("add", loss, l.binary("mul", slope, l.binary("sub", x, given))) // of which the value is 0
	if w := l.optional(n, "weight"); w != nil {
		loss = l.binary("mul", loss, w)
	}
	l.loss(n, loss)
}

// klDiv is y·(log y - x), 0 where y is 0.
func klDiv(l *lowering, n *pt2.Node) {
	x, y := l.tensor(n, "self"), l.tensor(n, "target")
	if l.flag(n, "log_target", false) {
		l.loss(n, l.binary("mul", l.unary("exp", y, 0, 0), l.binary("sub", y, x)))
		return
	}
	safe := l.where(l.unary("eq", y, 0, 0), constant([]float64{1}, []int{}, false), y)
	l.loss(n, l.binary("mul", y, l.binary("sub", l.unary("log", safe, 0, 0), x)))
}

// softMargin is log(1 + exp(-y·x)).
func softMargin(l *lowering, n *pt2.Node) {
	l.loss(n, l.unary("softplus", l.unary("affine", l.binary("mul", l.tensor(n, "self"), l.tensor(n, "target")), -1, 0), 1, 20))
}

func poissonLoss(l *lowering, n *pt2.Node) {
	x, y, eps := l.tensor(n, "input"), l.tensor(n, "target"), l.scalar(n, "eps", 1e-8)
	if l.flag(n, "full", false) {
		fail("with full=True")
	}
	if l.flag(n, "log_input", true) {
		l.loss(n, l.binary("sub", l.unary("exp", x, 0, 0), l.binary("mul", y, x)))
		return
	}
	l.loss(n, l.binary("sub", x, l.binary("mul", y, l.unary("log", l.unary("affine", x, 1, eps), 0, 0))))
}

func (l *lowering) above0(x *value) *value { return l.clamped(x, 0, math.Inf(1)) }

// distance is the p-norm of a - b + eps over the last axis.
func (l *lowering) distance(a, b *value, p, eps float64, keep bool) *value {
	d := l.unary("affine", l.binary("sub", a, b), 1, eps)
	last := []int{len(d.shape) - 1}
	switch p {
	case 1:
		return l.reduce("sum", l.unary("abs", d, 0, 0), last, keep)
	case 2:
		return l.length(l.reduce("sum", l.unary("pow", d, 2, 0), last, keep))
	}
	fail("with the norm %v", p)
	return nil
}

func tripletLoss(l *lowering, n *pt2.Node) {
	a, p, q := l.tensor(n, "anchor"), l.tensor(n, "positive"), l.tensor(n, "negative")
	norm, eps := l.scalar(n, "p", 2), l.scalar(n, "eps", 1e-6)
	near, far := l.distance(a, p, norm, eps, false), l.distance(a, q, norm, eps, false)
	if l.flag(n, "swap", false) {
		far = l.binary("min", far, l.distance(p, q, norm, eps, false))
	}
	l.loss(n, l.above0(l.unary("affine", l.binary("sub", near, far), 1, l.scalar(n, "margin", 1))))
}

func rankingLoss(l *lowering, n *pt2.Node) {
	d := l.binary("mul", l.tensor(n, "target"), l.binary("sub", l.tensor(n, "input1"), l.tensor(n, "input2")))
	l.loss(n, l.above0(l.unary("affine", d, -1, l.scalar(n, "margin", 0))))
}

// hingeLoss is x where the target is 1, and how far it is below the margin where it is -1.
func hingeLoss(l *lowering, n *pt2.Node) {
	x, y := l.tensor(n, "self"), l.tensor(n, "target")
	below := l.above0(l.unary("rsub", x, 1, l.scalar(n, "margin", 1)))
	l.loss(n, l.binary("add", l.masked(below, l.unary("ne", y, 1, 0)), l.masked(x, l.unary("ne", y, -1, 0))))
}

func cosineLoss(l *lowering, n *pt2.Node) {
	a, b, y := l.tensor(n, "input1"), l.tensor(n, "input2"), l.tensor(n, "target")
	last := []int{len(a.shape) - 1}
	const eps = 1e-12
	square := func(x *value) *value {
		return l.unary("affine", l.reduce("sum", l.unary("pow", x, 2, 0), last, false), 1, eps)
	}
	root := l.unary("sqrt", l.binary("mul", square(a), square(b)), 0, 0)
	cos := l.binary("div", l.reduce("sum", l.binary("mul", a, b), last, false), root)
	same := l.masked(l.unary("rsub", cos, 1, 1), l.unary("eq", y, 1, 0))
	other := l.masked(l.above0(l.unary("affine", cos, 1, -l.scalar(n, "margin", 0))), l.unary("eq", y, -1, 0))
	l.loss(n, l.binary("add", same, other))
}
