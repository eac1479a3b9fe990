package host

import (
	"errors"
	"fmt"
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestOwnDoing: where the job itself comes to a number that is not finite, the run machine is told so, and
// blames nobody; any other error is not that.
func TestOwnDoing(t *testing.T) {
	diverged := fmt.Errorf("training again from step 3: %w", stage.ErrDiverged)
	if err := diverges(diverged); !errors.Is(err, server.ErrDiverged) || !errors.Is(err, stage.ErrDiverged) {
		t.Errorf("%v is not the job's", err)
	}
	for _, err := range []error{nil, stage.ErrRound, errors.New("no room")} {
		if got := diverges(err); !errors.Is(got, err) || errors.Is(got, server.ErrDiverged) {
			t.Errorf("%v became %v", err, got)
		}
	}
}
