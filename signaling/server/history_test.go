package server

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// A curve is bounded, covers the whole run, and keeps its mean.
func TestCurve(t *testing.T) {
	for _, n := range []int{0, 1, maxPoints - 1, maxPoints, maxPoints + 1, 100_000} {
		var c curve
		for i := range n {
			c.add(float64(i), float64(i))
		}
		if len(c.points) >= maxPoints || (n > 0 && len(c.points) == 0) {
			t.Errorf("%d values: %d points", n, len(c.points))
		}
		for i, p := range c.points {
			// Point i stands for the values from i*each on.
			first, last := i*c.each, (i+1)*c.each-1
			if want := float64(first+last) / 2; p[0] != float64(last) || p[1] != want {
				t.Fatalf("%d values: point %d is %v, want %v", n, i, p, want)
			}
		}
		if left := n - len(c.points)*c.each; left < 0 || left >= max(c.each, 1) {
			t.Errorf("%d values: %d of them are in no point", n, left)
		}
	}
}

func TestHistory(t *testing.T) {
	var h history
	now := time.UnixMicro(1000)
	for range 2 * maxNotes {
		h.take(now, Warning{Err: errors.New("disk full")})
	}
	if len(h.notes) != maxNotes || h.notes[0].At != 1000+maxNotes || h.notes[maxNotes-1].At != 1000+2*maxNotes-1 {
		t.Errorf("%d notes, from %d", len(h.notes), h.notes[0].At)
	}
	for i := range 100 {
		h.take(now.Add(time.Duration(i)*50*time.Millisecond), Refused{Err: errors.New("no")})
	}
	if n := h.notes[maxNotes-6].Kind; h.notes[maxNotes-5].Kind != "refused" || n != "warning" {
		t.Errorf("a hundred refusals in five seconds: the sixth note from behind is of kind %s", n)
	}
	if text := h.notes[maxNotes-1].Text; text != "refused somebody: no" {
		t.Errorf("somebody without a name is %q", text)
	}
	h.take(now, Loss{Loss: proto.Loss{Step: 3, Loss: 0.5}})
	h.take(now, Loss{Loss: proto.Loss{Step: 4, Loss: proto.Real(math.NaN())}})
	h.take(now, Loss{Loss: proto.Loss{Step: 5, Loss: proto.Real(math.Inf(1))}})
	h.take(now, Val{Val: proto.Val{Step: 5, Correct: 1, Total: 2}})
	if len(h.losses.points) != 1 || h.losses.points[0] != [2]float64{3, 0.5} || len(h.vals.points) != 1 {
		t.Errorf("curves %v, %v", h.losses.points, h.vals.points)
	}
	h.take(now, Recovering{Reason: "eve left", Step: 3, Reached: 6})
	h.take(now, Started{Resume: 3, After: 1500 * time.Millisecond})
	if n := h.notes[maxNotes-2:]; n[0].Text != "eve left; steps 3 to 5 are trained again" || n[1].Text != "training resumes from step 3, 1.5 s later" {
		t.Errorf("a loss is told as %+v", n)
	}
	h.take(now, Planned{Run: "again-1", Generation: 1})
	if h.run != "again-1" || len(h.losses.points) != 0 {
		t.Error("a new run keeps the older one's curve")
	}
	for k := range 4 { // two stages, each twice
		h.take(now, Progress{Name: fmt.Sprint("node_", k%2), Progress: proto.Progress{Out: int64(k), Raw: int64(10 * k)}})
	}
	if c := h.after(0); c.Out != 5 || c.Raw != 50 {
		t.Errorf("%d bytes sent, %d raw, want 5 and 50", c.Out, c.Raw)
	}
	h.take(now, Loss{Loss: proto.Loss{Step: 3, Loss: 1}})
	h.take(now, Loss{Loss: proto.Loss{Step: 4, Loss: 1}})
	h.take(now, Planned{Run: "again-2", Generation: 2, Resume: 4})
	h.take(now, Progress{Name: "node_7", Progress: proto.Progress{Out: 1, Raw: 2}})
	if c := h.after(0); c.Out != 6 || c.Raw != 52 || len(c.Losses) != 1 {
		t.Errorf("the second attempt from step 4: %d bytes sent, losses %v", c.Out, c.Losses)
	}
	h.take(now, Planned{Run: "again-1", Generation: 1})
	if c := h.after(0); c.Out != 0 {
		t.Error("a new run counts the bytes that an older one sent")
	}
}
