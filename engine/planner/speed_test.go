package planner

import "testing"

func TestSpeed(t *testing.T) {
	for v, want := range map[float64]string{8799.4: "8799 samples/s", 99.96: "100 samples/s", 2.7349: "2.73 samples/s", 0.01234: "0.0123 samples/s", 0: "0 samples/s"} {
		if got := Speed(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
