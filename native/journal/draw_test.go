package journal

import (
	"bytes"
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
