package stage_test

import (
	"runtime"
	"testing"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/zoo"
)

// heap is the bytes in use.
func heap() int {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// codecs is what an encoder and a decoder take, whatever goes through them later.
func codecs() int {
	before := heap()
	e, d := codec.NewEncoder(codec.FP32), codec.NewDecoder()
	n := heap() - before
	runtime.KeepAlive(e)
	runtime.KeepAlive(d)
	return n
}

// TestPromise: what a stage has allocated when it has trained and validated is what was
// promised before, but for a constant: the codecs, the plan itself, and the allocator, which
// rounds up large buffers to pages.
func TestPromise(t *testing.T) {
	const constant = 160 << 10
	rest := codecs() + constant
	for _, form := range [][2]string{{"", ""}, {"selective", ""}, {"full", ""}, {"", "bf16"}, {"4", ""}} {
		again, precision := form[0], form[1]
		w := newWorld(func(j *job.Spec) {
			j.Loss, j.Epochs, j.BatchSize, j.Recompute, j.Precision = "cross_entropy", 1, 128, again, precision
		})
		if again == "4" { // replicas, of which two are in flight
			w.job.Recompute, w.job.Replicas, w.job.InFlight, w.job.BatchSize = "", 4, 2, 64
		}
		w.g = zoo.GPT(zoo.GPTSorter)
		w.tx, w.vx = integers(256, 11, 0, 3, 1), integers(128, 11, 0, 3, 2)
		w.ty, w.vy = integers(256, 33, 0, 2, 3), integers(128, 33, 0, 2, 4)
		stages, err := w.g.Cut([]int{0})
		if err != nil {
			t.Fatal(err)
		}
		before := heap()
		c, err := stage.Compile(w.job, stages[0], stage.Placement{})
		if err != nil {
			t.Fatal(err)
		}
		s, err := stage.New(c, w.config(nil))
		if err != nil {
			t.Fatal(err)
		}
		kept := &dropped{}
		if err := s.Run(t.Context(), nil, kept); err != nil {
			t.Fatal(err)
		}
		got := heap() - before
		if want := s.Memory(); got < want || got > want+rest {
			t.Errorf("recompute %q, precision %q: %d bytes in use, %d promised", again, precision, got, want)
		}
		runtime.KeepAlive(s)
		runtime.KeepAlive(kept)
	}
}

// dropped is an observer that keeps nothing but the file of the last state.
type dropped struct{ file []byte }

func (*dropped) Loss(stage.Loss)            {}
func (*dropped) Validated(stage.Validation) {}
func (*dropped) Batch(int)                  {}
func (d *dropped) Keep(s stage.Saved) (err error) {
	d.file, err = s.Part.Bytes()
	return err
}
