package loss

import (
	"math"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
)

// classes are the targets of a test.
type classes []int32

func (c classes) Gather([]float32, []int32) {}
func (c classes) Labelled() bool            { return true }
func (c classes) Labels(dst, rows []int32)  { copy(dst, c) }

// TestLong: the perplexity of a long pass counts every position, the last ones, too.
func TestLong(t *testing.T) {
	f, err := New(job.Spec{Loss: job.CrossEntropy, Metrics: []string{job.Perplexity}}, []int{2}, 4)
	if err != nil {
		t.Fatal(err)
	}
	s := Score{plain: 1 << 25, plainN: 1 << 25} // so many positions, of loss 1
	f.Count(&s, make([]float32, 8), classes{0, 1, 1, 0}, []int32{0, 1, 2, 3}, true)
	if got := s.plain - 1<<25; math.Abs(float64(got)-4*math.Ln2) > 1e-6 {
		t.Errorf("4 positions add %v, want 4 ln 2", got)
	}
}
