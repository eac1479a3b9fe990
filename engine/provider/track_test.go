package provider

import (
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// TestTrack: a cluster's step counts the batches of all clusters; at a round's end all stand
// at the same step, also where an epoch ends inside a round.
func TestTrack(t *testing.T) {
	base := track{run: order.Run{Train: 10, Val: 1, ValEvery: 1, BatchSize: 1, Epochs: 2, UpdateFrequency: 1, Replicas: 3, ReduceFactor: 2}} // rounds of 6 and 4 batches
	for own, want := range map[uint64][]int64{
		0b111: {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11},
		0b001: {3, 6, 9, 10, 13, 16, 19, 20},
		0b110: {2, 4, 5, 6, 8, 10, 12, 14, 15, 16},
		0b100: {5, 6, 10, 15, 16, 20},
	} {
		tr := base
		tr.own = order.Set(own)
		step := int64(0)
		if own == 0b111 {
			tr.own = 0
		}
		for i, w := range want {
			if step = tr.after(step); step != w {
				t.Errorf("replicas %b: after %d batches it stands at step %d, want %d", own, i+1, step, w)
				break
			}
		}
	}
	// Without validation rounds have 6, 6, 6 and 2 batches.
	for own, want := range map[uint64][]int64{
		0b001: {3, 6, 9, 12, 15, 18, 20},
		0b110: {2, 4, 5, 6, 8, 10, 11, 12, 14, 16, 17, 18, 20},
	} {
		tr := base
		tr.run.ValEvery, tr.own = 0, order.Set(own)
		step := int64(0)
		for i, w := range want {
			if step = tr.after(step); step != w {
				t.Errorf("replicas %b of rounds over epochs: after %d batches it stands at step %d, want %d", own, i+1, step, w)
				break
			}
		}
	}
	// From the second round on the cluster has other replicas.
	mine := &attempt{track: base}
	mine.track.own = 0b001
	if mine.Share(0b110); mine.track.own != 0b110 || mine.prog.Share != 2 {
		t.Errorf("%+v, %d replicas reported", mine.track, mine.prog.Share)
	}
	// Three replicas instead of two from the fourth batch on: 3, 4, 5, ... and 0 again.
	tr := base
	tr.run.Periods, tr.own = []order.Period{{Step: 0, Replicas: 1}, {Step: 3, Replicas: 3}}, 0b010
	step := int64(3)
	for i, w := range []int64{7, 9, 14, 16, 20} {
		if step = tr.after(step); step != w {
			t.Errorf("after a change, %d batches later it stands at step %d, want %d", i+1, step, w)
		}
	}
}
