package stage

import (
	"testing"
	"time"
)

func TestMeterCountsWhatIsGoingOn(t *testing.T) {
	now := 10 * time.Second
	m := meter{now: func() time.Duration { return now }}
	if m.read() != 0 {
		t.Errorf("before anything: %v", m.read())
	}
	m.start()
	now += 3 * time.Second
	if m.read() != 3*time.Second {
		t.Errorf("while it runs: %v, want 3s", m.read())
	}
	now += time.Second
	m.stop()
	now += time.Minute
	if m.read() != 4*time.Second {
		t.Errorf("after it: %v, want 4s", m.read())
	}
	var none meter
	none.start()
	none.stop()
	if none.read() != 0 {
		t.Error("without a clock something is measured")
	}
}
