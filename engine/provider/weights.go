// Fetching the initial weights, if the job names some.

package provider

import (
	"fmt"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// Weights is the kind of an assignment's weights: the whole model's state dict as a
// safetensors file.
const Weights = "safetensors"

// weights fetches the assignment's initial weights. It returns nil if there are none or the
// assignment resumes from a checkpoint. need is the rest of the stage's memory, in bytes.
func (f *fetcher) weights(need int64) (state.Dict, error) {
	ref, ok := f.r.a.Weights[Weights]
	if !ok || f.r.a.Resume != nil {
		return nil, nil
	}
	const what = "the initial weights"
	b, err := f.get(what, ref, need+ref.Size) // both the file and its decoded tensors
	if err != nil {
		return nil, err
	}
	d, _, err := safetensors.Read(f.r.cfg.reader(b), int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return d, nil
}
