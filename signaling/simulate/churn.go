package simulate

// The volunteers: how fast their machines and links are, how long they stay, and how they
// leave.

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Session lengths. Javadi, Kondo, Vincent and Anderson ("Discovering Statistical Models
// of Availability in Large Distributed Systems: An Empirical Study of SETI@home", IEEE
// TPDS 22(11), 2011) find that the hosts whose availability is random fall into classes
// with exponential, Weibull and Pareto sessions. The Weibull class here uses the fit for all
// random hosts together, as quoted by later simulators of volunteer computing: shape 0.393,
// scale 2.964 h, with a mean of 10.4 h and a median of 1.2 h. The shares of the classes, the
// Pareto shape and the common mean of all classes are our own choices and not the paper's.
const (
	weibullShape = 0.393
	weibullScale = 2.964 // hours
	paretoShape  = 1.5

	weibullShare     = 0.5
	exponentialShare = 0.3 // the rest is Pareto
)

// MeanSession returns the mean of the Weibull class.
func MeanSession() time.Duration {
	return time.Duration(weibullScale * math.Gamma(1+1/weibullShape) * float64(time.Hour))
}

// session draws the length of a session, from a distribution with this mean.
func session(rng *rand.Rand, mean time.Duration) time.Duration {
	u := 1 - rng.Float64() // (0, 1]
	x := 0.0               // of mean 1
	switch class := rng.Float64(); {
	case class < weibullShare:
		x = math.Pow(-math.Log(u), 1/weibullShape) / math.Gamma(1+1/weibullShape)
	case class < weibullShare+exponentialShare:
		x = -math.Log(u)
	default:
		x = (paretoShape - 1) / paretoShape * math.Pow(u, -1/paretoShape)
	}
	return time.Duration(min(x*float64(mean), float64(10*365*24*time.Hour)))
}

// How a session ends, and how long until another volunteer replaces it. Our own choices.
const (
	politeShare = 0.5  // says goodbye: a closed tab, Ctrl-C
	closedShare = 0.35 // the connection closes: a killed process
	// The rest falls silent: a laptop that sleeps, a network that is gone.
	emptyPlace = 2 * time.Minute // mean, exponential
)

// way is how a volunteer leaves.
type way int

const (
	polite way = iota
	closed
	silent
)

func goes(rng *rand.Rand) way {
	switch u := rng.Float64(); {
	case u < politeShare:
		return polite
	case u < politeShare+closedShare:
		return closed
	}
	return silent
}

// volunteer is a machine and its link. The distributions are our own choice: log-normal
// around the figures of a laptop at home.
type volunteer struct {
	Compute  float64 // FLOP/s
	Up, Down float64 // bit/s
	RAM      float64 // bytes it lends
	Latency  time.Duration
	Stays    time.Duration
	Goes     way
	Away     time.Duration // until another volunteer replaces it
}

// draw returns the n-th volunteer of a simulation, which depends on seed, n and mean only.
func draw(seed uint64, n int, mean time.Duration) volunteer {
	rng := rand.New(rand.NewPCG(seed, uint64(n)))
	about := func(median, sigma float64) float64 { return median * math.Exp(sigma*rng.NormFloat64()) }
	v := volunteer{
		Compute: min(about(40e9, 0.6), 1e12),
		Up:      min(max(about(20e6, 0.8), 0.5e6), 1e9),
		RAM:     min(max(about(2e9, 0.7), 0.25e9), 64e9),
		Latency: time.Duration(min(max(about(25e-3, 0.6), 1e-3), 1) * float64(time.Second)),
	}
	v.Down = min(5*v.Up, 1e9)
	v.Stays, v.Goes = session(rng, mean), goes(rng)
	v.Away = time.Duration(rng.ExpFloat64() * float64(emptyPlace))
	return v
}

// hello returns the volunteer's hello.
func (v volunteer) hello() proto.Hello {
	return proto.Hello{
		Agent: "simulated", Platform: "linux/amd64", Class: proto.ClassFMA, RAM: int64(v.RAM), Threads: 1,
		Bench: proto.Bench{GEMM: v.Compute / 1e9, Conv: v.Compute / 1e9, Up: v.Up, Down: v.Down},
	}
}
