package journal

import (
	"testing"
	"time"
)

// TestRate: what took no time to speak of has no speed.
func TestRate(t *testing.T) {
	for took, want := range map[time.Duration]float64{0: 0, 9 * time.Millisecond: 0, 10 * time.Millisecond: 6400, 2 * time.Second: 32, -time.Second: 0} {
		if got := rate(64, took); got != want {
			t.Errorf("64 samples in %v are %v samples/s, want %v", took, got, want)
		}
	}
}
