package simulate

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestSessions compares drawn sessions with their documented distribution.
func TestSessions(t *testing.T) {
	if m := MeanSession().Hours(); math.Abs(m-10.35) > 0.05 {
		t.Errorf("the mean of the Weibull class is %.3f h", m)
	}
	const n, mean = 200000, time.Hour
	rng := rand.New(rand.NewPCG(1, 2))
	xs := make([]float64, n)
	for i := range xs {
		xs[i] = session(rng, mean).Hours()
	}
	for _, x := range []float64{0.01, 0.1, 0.3, 0.5, 1, 2, 5, 20} {
		weibull := 1 - math.Exp(-math.Pow(x*math.Gamma(1+1/weibullShape), weibullShape))
		pareto, least := 0.0, (paretoShape-1)/paretoShape
		if x > least {
			pareto = 1 - math.Pow(least/x, paretoShape)
		}
		want := weibullShare*weibull + exponentialShare*(1-math.Exp(-x)) + (1-weibullShare-exponentialShare)*pareto
		below := 0
		for _, v := range xs {
			if v <= x {
				below++
			}
		}
		if got := float64(below) / n; math.Abs(got-want) > 0.005 {
			t.Errorf("%.4f of the sessions are below %g of the mean, want %.4f", got, x, want)
		}
	}
}
