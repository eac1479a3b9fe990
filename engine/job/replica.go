// What a job says about replicas: how many there are, how often they are averaged, and how.

package job

import (
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/strict"
)

// DefaultReduceFactor is the most updates of a round where a job does not say. From 8 to 32 the loss
// differs less than with the seed (BENCHMARKS.md, Replicas), and the more there are, the less averaging
// costs: at 32 it takes a thirtieth of the time where it takes as long as an update of all. But a run
// stops and saves between rounds only, and where a machine is lost the units of the round at hand begin
// anew, half a round as a rule. With volunteers who come and go rounds of 32 repeat up to three times as
// much as those of 8 and still get further in an hour; where somebody leaves every few minutes those of
// 16 get furthest (BENCHMARKS.md, Churn). Longer ones are for who knows that nobody leaves.
const DefaultReduceFactor = 32

// What is averaged.
const (
	// Parameters are averaged at the end of each round: for replicas far from one another.
	Parameters = "parameters"
	// Gradients: each batch is split over the replicas and their gradients are added up before
	// each update, which gives the losses of one replica, up to rounding. For near links.
	Gradients = "gradients"
)

// What becomes of the optimizer's state when parameters are averaged.
const (
	AverageState = "average" // it is averaged too
	KeepState    = "keep"    // every replica keeps its own
	ResetState   = "reset"   // it begins anew with every round
)

// The names that the fields of an Average may take.
var (
	AverageOf     = []string{Parameters, Gradients}
	AverageStates = []string{AverageState, KeepState, ResetState}
	OuterRules    = []string{"none", "nesterov"}
)

// Average is the arithmetic of an average. Zero fields take the defaults of Spec.Averaging.
type Average struct {
	Of string `json:"of,omitempty"` // one of AverageOf
	// Bits of each element of a sum: of the changes of parameters, or of gradients. 28 are
	// float32's precision; fewer are less traffic, rounded at random. Running statistics and
	// the optimizer's state always have 28.
	Bits      int    `json:"bits,omitempty"`
	Optimizer string `json:"optimizer,omitempty"` // one of AverageStates
	Outer     Outer  `json:"outer,omitzero"`
}

// Outer is the rule that applies the averaged change to the parameters (DiLoCo, arXiv
// 2311.08105): none adds it, nesterov takes it as the gradient of SGD with momentum.
type Outer struct {
	Name     string  `json:"name,omitempty"` // one of OuterRules
	LR       float64 `json:"lr,omitempty"`
	Momentum float64 `json:"momentum,omitempty"`
}

// Count is a number of replicas, or Auto.
type Count int

// Auto leaves the number of replicas to the host, which chooses by who is there.
const Auto Count = -1

const auto = "auto"

func (c Count) String() string {
	if c == Auto {
		return auto
	}
	return fmt.Sprint(int(c))
}

// Set reads a command line's number, or "auto".
func (c *Count) Set(s string) error {
	if s == auto {
		*c = Auto
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return fmt.Errorf("want a number from 1 to %d, or %s", order.MaxReplicas, auto)
	}
	*c = Count(n)
	return nil
}

// MarshalJSON writes Auto as "auto".
func (c Count) MarshalJSON() ([]byte, error) {
	if c == Auto {
		return json.Marshal(auto)
	}
	return json.Marshal(int(c))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (c *Count) UnmarshalJSON(b []byte) error {
	if string(b) == `"`+auto+`"` {
		*c = Auto
		return nil
	}
	var n int
	if err := json.Unmarshal(b, &n); err != nil || n < 0 || string(b) == "null" {
		return fmt.Errorf("replicas %.40s: want a number from 1 to %d, or %q", b, order.MaxReplicas, auto)
	}
	*c = Count(n)
	return nil
}

// Auto tells whether the host chooses the number of replicas and has not yet.
func (s Spec) Auto() bool { return s.Replicas == Auto }

// Share tells whether n clusters can share the job's replicas: each trains at least one.
func (s Spec) Share(n int) error {
	if r := s.Replica(); !s.Auto() && n > r {
		return fmt.Errorf("%d clusters cannot share %d replica(s), since each trains at least one: set replicas to %d or more", n, r, n)
	}
	return nil
}

// In is the job in the last period of a record: with so many replicas as that has. A job
// whose number of replicas is its own has no record, and is what it is.
func (s Spec) In(record []order.Period) (Spec, error) {
	switch {
	case !s.Auto() && len(record) > 0:
		return s, fmt.Errorf("%w: a record of the number of replicas, but the job says %d of them", ErrInvalid, s.Replica())
	case s.Auto() && len(record) == 0:
		return s, fmt.Errorf("%w: replicas %s: no record says how many there are", ErrInvalid, auto)
	case !s.Auto():
		return s, nil
	}
	s.Periods, s.Replicas = record, Count(record[len(record)-1].Replicas)
	if s.Replicas < 1 || s.Replicas > order.MaxReplicas {
		return s, fmt.Errorf("%w: %d replicas are outside 1..%d", ErrInvalid, s.Replicas, order.MaxReplicas)
	}
	if s.Gradients() && int(s.Replicas) > s.BatchSize {
		return s, fmt.Errorf("%w: replicas %d: a batch of %d rows cannot be split over so many", ErrInvalid, s.Replicas, s.BatchSize)
	}
	return s, nil
}

// Replica is the number of replicas.
func (s Spec) Replica() int { return max(int(s.Replicas), 1) }

// reduce is the number of updates of a round where there are several replicas, and whether it is
// the most, up to which order.Run divides evenly.
func (s Spec) reduce() (updates int, even bool) {
	switch {
	case s.Average.Of == Gradients:
		return 1, false
	case s.ReduceFactor == 0:
		return DefaultReduceFactor, true
	}
	return s.ReduceFactor, false
}

// Gradients tells whether batches are split over several replicas.
func (s Spec) Gradients() bool { return s.Replica() > 1 && s.Average.Of == Gradients }

// Averaging is Average with its defaults filled in.
func (s Spec) Averaging() Average {
	a := s.Average
	def := func(v *string, to string) {
		if *v == "" {
			*v = to
		}
	}
	def(&a.Of, Parameters)
	def(&a.Optimizer, AverageState)
	def(&a.Outer.Name, "none")
	if a.Bits == 0 {
		a.Bits = 28
	}
	if a.Outer.Name == "nesterov" {
		if a.Outer.LR == 0 {
			a.Outer.LR = 0.7
		}
		if a.Outer.Momentum == 0 {
			a.Outer.Momentum = 0.9
		}
	}
	return a
}

// zeros refuses explicit values that would be taken for ones that are left out.
func (a Average) zeros(has strict.Fields) error {
	for _, z := range []struct {
		path string
		zero bool
	}{
		{"average.of", a.Of == ""},
		{"average.bits", a.Bits == 0},
		{"average.optimizer", a.Optimizer == ""},
		{"average.outer.name", a.Outer.Name == ""},
		{"average.outer.lr", a.Outer.LR == 0},
		{"average.outer.momentum", a.Outer.Momentum == 0},
	} {
		if has[z.path] && z.zero {
			return fmt.Errorf("%s is empty or zero: leave it out to have its default", z.path)
		}
	}
	return nil
}

// Bits that a sum may have.
const minBits, maxBits = 2, 32

func (s Spec) checkReplicas(f *faults) {
	if !s.Auto() {
		f.num("replicas", int(s.Replicas), 0, order.MaxReplicas)
	}
	many := s.Auto() || s.Replica() > 1 || len(s.Periods) > 0
	f.num("in_flight", s.InFlight, 0, order.MaxReplicas)
	a := s.Averaging()
	f.in("average of", a.Of, AverageOf)
	f.num("average bits", a.Bits, minBits, maxBits)
	f.in("average optimizer", a.Optimizer, AverageStates)
	f.in("average outer", a.Outer.Name, OuterRules)
	f.real("average outer lr", a.Outer.LR, 0, 100)
	f.real("average outer momentum", a.Outer.Momentum, 0, 1)
	switch {
	case a.Outer.Name == "none" && (a.Outer.LR != 0 || a.Outer.Momentum != 0):
		f.bad("average outer none has no lr or momentum")
	case a.Outer.Name != "none" && !many:
		f.bad("average outer %s needs replicas, 2 or more: with one nothing is averaged", a.Outer.Name)
	}
	if many && s.Schedule == Async {
		f.bad("schedule async has one replica, the job has %s: choose sync, whose pipeline replicas fill, or set replicas to 1", s.Replicas)
	}
	if !many || s.Average.Of != Gradients {
		return
	}
	if s.ReduceFactor > 1 {
		f.bad("reduce_factor %d: gradients are averaged at every update; leave it out, or average parameters", s.ReduceFactor)
	}
	if a.Optimizer != AverageState || a.Outer.Name != "none" {
		f.bad("average of gradients has one optimizer for all replicas: its state is not %s, and there is no outer rule %s", a.Optimizer, a.Outer.Name)
	}
	if int(s.Replicas) > s.BatchSize {
		f.bad("replicas %d: a batch of %d rows cannot be split over so many", s.Replicas, s.BatchSize)
	}
}
