// Fetching the initial weights, if the job names some.

package provider

import (
	"fmt"
	"math"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
)

// Weights is the kind of an assignment's weights: the whole model's state dict as a
// safetensors file.
const Weights = "safetensors"

// weights fetches the assignment's initial weights and keeps those that are needed: the whole model's
// may be larger than what is lent. It returns nil if there are none or the assignment resumes from
// a checkpoint.
func (f *fetcher) weights(needed func(name string) bool) (state.Dict, error) {
	ref, ok := f.r.a.Weights[Weights]
	if !ok || f.r.a.Resume != nil {
		return nil, nil
	}
	const what = "the initial weights"
	most := f.r.cfg.RAM
	if most <= 0 {
		most = math.MaxInt64
	}
	s := safetensors.NewSieve(ref.Size, needed, most)
	if err := f.r.host.BlobTo(f.r.ctx, ref, s, f.have()); err != nil {
		return nil, fmt.Errorf("%w: fetching %s: %w", errBlob, what, err)
	}
	f.done += ref.Size
	d, err := s.Dict()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return d, nil
}
