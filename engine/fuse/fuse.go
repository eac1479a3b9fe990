// Package fuse joins the state dicts of a pipeline's stages into the one of the whole
// model, which PyTorch loads.
package fuse

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ravnest/ravnest/engine/state"
)

// ErrKeys is wrapped by every error that says the shards do not make up the model.
var ErrKeys = errors.New("the stages' weights do not make up the model")

// maxListed bounds the keys that one error names.
const maxListed = 8

// Fuse joins shards, the state dicts of stage 0, 1, ..., into one with exactly the
// names of order, in that order. The tensors are shared with the shards, not copied.
//
// Shards may share a tensor, as tied weights are, if it has the same bits in each. A name that
// no shard holds, that one holds twice, or that the model does not have, is an error; all of
// them are counted and the first few named with their shard.
func Fuse(order []string, shards []state.Dict) (state.Dict, error) {
	var bad []string
	place := make(map[string]int, len(order))
	for i, name := range order {
		if j, ok := place[name]; ok {
			bad = append(bad, fmt.Sprintf("%q stands twice in the model's order, at %d and %d", name, j, i))
			continue
		}
		place[name] = i
	}
	out := make(state.Dict, len(order))
	from := make([]int, len(order)) // 1 + the shard that holds it, 0: none yet
	for s, shard := range shards {
		for _, t := range shard {
			i, ok := place[t.Name]
			switch {
			case !ok:
				bad = append(bad, fmt.Sprintf("shard %d has %q, which the model does not have", s, t.Name))
			case from[i] == s+1:
				bad = append(bad, fmt.Sprintf("shard %d has %q twice", s, t.Name))
			case from[i] != 0:
				if !t.Equal(out[i]) {
					bad = append(bad, fmt.Sprintf("shard %d has %q with other numbers than shard %d", s, t.Name, from[i]-1))
				}
			default:
				if err := t.Validate(); err != nil {
					return nil, fmt.Errorf("shard %d: %w", s, err)
				}
				out[i], from[i] = t, s+1
			}
		}
	}
	for i, name := range order {
		if from[i] != 0 || place[name] != i {
			continue
		}
		near := ""
		if i > 0 && from[i-1] != 0 {
			near = fmt.Sprintf(" (the key before it is from shard %d)", from[i-1]-1)
		}
		bad = append(bad, fmt.Sprintf("no shard has %q%s", name, near))
	}
	if n := len(bad); n > maxListed {
		bad = append(bad[:maxListed], fmt.Sprintf("and %d more", n-maxListed))
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrKeys, strings.Join(bad, "; "))
	}
	return out, out.Validate()
}
