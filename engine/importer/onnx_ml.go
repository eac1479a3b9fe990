// What scikit-learn's models become (the domain ai.onnx.ml): their numbers are attributes of nodes.
// Linear models become a product with weights that are trained.

package importer

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/format/onnx"
)

const mlDomain = "ai.onnx.ml"

// mlAdvice says why others are refused.
var mlAdvice = map[string]string{
	"TreeEnsembleClassifier": "trees are not trained by gradients", "TreeEnsembleRegressor": "trees are not trained by gradients", "TreeEnsemble": "trees are not trained by gradients",
	"SVMClassifier": "support vectors are not trained by gradients", "SVMRegressor": "support vectors are not trained by gradients",
}

// plainML is the graph with the nodes of linear models and of what comes before them in other words.
func plainML(g *onnx.Graph) error {
	var nodes []onnx.Node
	taken := map[string]bool{}
	for _, t := range g.Tensors {
		taken[t.Name] = true
	}
	for i := range g.Nodes {
		n := &g.Nodes[i]
		if n.Domain != mlDomain {
			nodes = append(nodes, *n)
			continue
		}
		name := cmp.Or(n.Name, n.Op)
		for k := 2; taken[name+".weight"] || taken[name+".bias"] || taken[name+".scale"]; k++ {
			name = fmt.Sprintf("%s_%d", cmp.Or(n.Name, n.Op), k)
		}
		taken[name+".weight"] = true
		more, err := mlNode(g, n, name)
		if err != nil {
			return fmt.Errorf("%w: %s.%s: %w", ErrUnsupported, mlDomain, n.Op, err)
		}
		nodes = append(nodes, more...)
	}
	g.Nodes = nodes
	return nil
}

// floatsOf are an attribute's numbers.
func floatsOf(n *onnx.Node, name string) []float32 {
	a := n.Attr(name)
	if a == nil {
		return nil
	}
	v := make([]float32, len(a.Floats))
	for i, x := range a.Floats {
		v[i] = float32(x)
	}
	return v
}

// mlNode is a node in other words. Those that there are none for stay, and are refused later.
func mlNode(g *onnx.Graph, n *onnx.Node, name string) ([]onnx.Node, error) {
	if len(n.Inputs) == 0 || len(n.Outputs) == 0 {
		return []onnx.Node{*n}, nil
	}
	tensor := func(what string, shape []int, v []float32) string {
		g.Tensors = append(g.Tensors, onnx.Floats(name+what, shape, v))
		return name + what
	}
	switch n.Op {
	case "Scaler": // (x - offset)·scale; they are not trained
		offset, scale := floatsOf(n, "offset"), floatsOf(n, "scale")
		if len(offset) == 0 || len(scale) == 0 {
			return nil, fmt.Errorf("%d offsets and %d scales", len(offset), len(scale))
		}
		mid := name + ":centred"
		return []onnx.Node{
			{Name: name, Op: "Sub", Inputs: []string{n.Inputs[0], tensor("/offset", []int{len(offset)}, offset)}, Outputs: []string{mid}},
			{Name: name, Op: "Mul", Inputs: []string{mid, tensor("/scale", []int{len(scale)}, scale)}, Outputs: n.Outputs[:1]},
		}, nil
	case "LinearRegressor":
		if how := attrText(n, "post_transform", "NONE"); how != "NONE" {
			return nil, fmt.Errorf("with post_transform %q", how)
		}
		return linearML(n, name, attrInt(n, "targets", 1), n.Outputs[0], tensor)
	case "LinearClassifier":
		return classifierML(n, name, tensor)
	case "ZipMap":
		return []onnx.Node{{Name: name, Op: "Identity", Inputs: n.Inputs[:1], Outputs: n.Outputs[:1]}}, nil
	case "ArrayFeatureExtractor": // elements of the last axis
		if len(n.Inputs) == 2 {
			return []onnx.Node{{Name: name, Op: "Gather", Inputs: n.Inputs, Outputs: n.Outputs[:1], Attrs: []onnx.Attr{onnx.OfInt("axis", -1)}}}, nil
		}
	}
	if why, ok := mlAdvice[n.Op]; ok {
		return nil, fmt.Errorf("%s", why)
	}
	return []onnx.Node{*n}, nil
}

// linearML is a product with weights and a bias.
func linearML(n *onnx.Node, name string, rows int, out string, tensor func(what string, shape []int, v []float32) string) ([]onnx.Node, error) {
	w, b := floatsOf(n, "coefficients"), floatsOf(n, "intercepts")
	if rows < 1 || len(w) == 0 || len(w)%rows != 0 || len(b) != 0 && len(b) != rows {
		return nil, fmt.Errorf("%d coefficients and %d intercepts for %d answers", len(w), len(b), rows)
	}
	in := []string{n.Inputs[0], tensor(".weight", []int{rows, len(w) / rows}, w)}
	if len(b) > 0 {
		in = append(in, tensor(".bias", []int{rows}, b))
	}
	return []onnx.Node{{Name: name, Op: "Gemm", Inputs: in, Outputs: []string{out}, Attrs: []onnx.Attr{onnx.OfInt("transB", 1)}}}, nil
}

// classifierML gives a label and the scores of all classes.
func classifierML(n *onnx.Node, name string, tensor func(what string, shape []int, v []float32) string) ([]onnx.Node, error) {
	labels := n.Attr("classlabels_ints")
	rows := len(floatsOf(n, "intercepts"))
	if labels == nil || len(labels.Ints) != rows || rows < 2 {
		return nil, fmt.Errorf("with %d rows of coefficients for other classes, or labels that are texts", rows)
	}
	if !slices.IsSorted(labels.Ints) || labels.Ints[0] != 0 || labels.Ints[rows-1] != int64(rows-1) {
		return nil, fmt.Errorf("with the labels %v; they have to be 0 to %d", labels.Ints, rows-1)
	}
	scores, logits := "", name+":logits"
	if len(n.Outputs) > 1 {
		scores = n.Outputs[1]
	}
	nodes, err := linearML(n, name, rows, logits, tensor)
	if err != nil {
		return nil, err
	}
	nodes = append(nodes, onnx.Node{Name: name, Op: "ArgMax", Inputs: []string{logits}, Outputs: n.Outputs[:1], Attrs: []onnx.Attr{onnx.OfInt("axis", 1), onnx.OfInt("keepdims", 0)}})
	if scores == "" {
		return nodes, nil
	}
	end := onnx.Node{Name: name, Inputs: []string{logits}, Outputs: []string{scores}}
	switch how := attrText(n, "post_transform", "NONE"); how {
	case "NONE":
		end.Op = "Identity"
	case "LOGISTIC":
		end.Op = "Sigmoid"
	case "SOFTMAX":
		end.Op, end.Attrs = "Softmax", []onnx.Attr{onnx.OfInt("axis", -1)}
	default:
		return nil, fmt.Errorf("with post_transform %q", how)
	}
	return append(nodes, end), nil
}
