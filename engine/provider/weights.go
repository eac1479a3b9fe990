// The weights that a run begins with, where its job has some.

package provider

import (
	"context"
	"fmt"

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Weights is the kind of an assignment's weights: the whole model's state dict as a
// safetensors file.
const Weights = "safetensors"

// fetchWeights reads the weights that an assignment names, nil if it names none. need is
// what the stage takes besides, ram what is lent, in bytes; 0 is any number.
func fetchWeights(ctx context.Context, blob func(context.Context, proto.Ref) ([]byte, error), a *proto.Assign, need, ram int64) (state.Dict, error) {
	ref, ok := a.Weights[Weights]
	if !ok {
		return nil, nil
	}
	if need += 2 * ref.Size; ram > 0 && need > ram { // the file and what is read of it
		return nil, fmt.Errorf("%w: stage %d and the weights that it begins with need %.1f MB, %.1f MB are offered", ErrMemory, a.Stage, float64(need)/1e6, float64(ram)/1e6)
	}
	b, err := blob(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("fetching the weights to begin with: %w", err)
	}
	d, _, err := safetensors.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("the weights to begin with: %w", err)
	}
	return d, nil
}
