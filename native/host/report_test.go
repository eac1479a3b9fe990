package host

import (
	"testing"

	"github.com/ravnest/ravnest/signaling/server"
)

func TestRedone(t *testing.T) {
	for want, e := range map[string]server.Recovering{
		"the run goes on": {},
		"the run goes on from step 51; 9 steps are repeated": {Step: 51, Reached: 60},
		"the run goes on from step 51":                       {Step: 51, Reached: 51},
		"nothing had been saved yet; 60 steps are repeated":  {Reached: 60},
		"the run goes on from step 7":                        {Step: 7},
	} {
		if got := redone(e); got != want {
			t.Errorf("%+v: %q, want %q", e, got, want)
		}
	}
}
