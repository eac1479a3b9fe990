package journal

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/project"
)

// TestDraw checks that the progress line is shortened to less than the terminal's width.
func TestDraw(t *testing.T) {
	p := example(t)
	var out bytes.Buffer
	r := New(p, "test", console.Terminal(&out, func() int { return 20 }))
	r.dirty = true
	r.Tick(time.Now())
	if want := "\r\x1b[Kepoch 0/"; !bytes.HasPrefix(out.Bytes(), []byte(want)) || out.Len() != len("\r\x1b[K")+19 {
		t.Errorf("drew %q", out.String())
	}
}

// TestTick: beside a terminal a line comes at once and then some four times a second, elsewhere
// twice a minute.
func TestTick(t *testing.T) {
	p := example(t)
	for _, tty := range []bool{true, false} {
		var out bytes.Buffer
		to := console.New(&out)
		if tty {
			to = console.Terminal(&out, nil)
		}
		r := New(p, "test", to)
		now := time.Unix(1e9, 0)
		r.started, r.dirty = now, true
		for range 601 { // a minute
			r.Tick(now)
			now = now.Add(100 * time.Millisecond)
		}
		if got, want := bytes.Count(out.Bytes(), []byte("epoch ")), map[bool]int{true: 201, false: 2}[tty]; got != want {
			t.Errorf("terminal %v: %d lines a minute, want %d", tty, got, want)
		}
	}
}

func example(t *testing.T) *project.Project {
	t.Helper()
	p := opened(t, "cnn", 2)
	return p
}

// TestLineOfAPass: the line of a validation pass has its epoch, step and loss, also where a report tells of
// later batches first, and the newest loss where the one before it has not come.
func TestLineOfAPass(t *testing.T) {
	p := example(t)
	p.Job.Epochs = 3
	var out bytes.Buffer
	r := New(p, "test", console.New(&out))
	if err := r.Open(); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	r.Begin(now, 0)
	n := int64(r.batches)
	for i := range 2*n - 1 {
		r.Loss(now, int(i/n), i, float64(i+1))
	}
	for epoch := range 2 {
		r.Val(now, Validation{Epoch: epoch, Step: int64(epoch+1) * n, Correct: 1, Total: 2})
	}
	var want bytes.Buffer
	for _, s := range []int64{n, 2*n - 1} {
		fmt.Fprintf(&want, "epoch %d/3  step %d/%d  loss %.4f  val 50.00 %%", (s+n-1)/n, (s+n-1)/n*n, 3*n, float64(s))
		if line, rest, _ := strings.Cut(out.String(), "\n"); !strings.HasPrefix(line, want.String()) {
			t.Errorf("%q, want %q", line, want.String())
		} else {
			out.Reset()
			out.WriteString(rest)
		}
		want.Reset()
	}
	if err := r.Close(); err != nil || len(r.atPass) > 0 {
		t.Errorf("%v, %v", err, r.atPass)
	}
}
