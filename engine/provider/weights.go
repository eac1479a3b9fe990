// The weights that a run begins with, where its job has some.

package provider

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// Weights is the kind of an assignment's weights: the whole model's state dict as a
// safetensors file.
const Weights = "safetensors"

// weights reads the weights that the assignment begins with, nil if it names none or goes
// on from a checkpoint. need is what the stage takes besides, in bytes.
func (f *fetcher) weights(need int64) (state.Dict, error) {
	ref, ok := f.r.a.Weights[Weights]
	if !ok || f.r.a.Resume != nil {
		return nil, nil
	}
	const what = "the weights to begin with"
	b, err := f.get(what, ref, need+ref.Size) // the file and what is read of it
	if err != nil {
		return nil, err
	}
	d, _, err := safetensors.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return d, nil
}
