package order

// Pace is when the stages of a synchronous pipeline start forward passes: how far each runs
// ahead of its backward passes.
//
// Fewer micro-batches than fill the pipeline leave gaps, and what counts is that the gaps do
// not move. Where a backward pass takes two forward passes, micro-batches that start at the
// root three of them apart, or a multiple of three, never meet in a stage. So they get places
// three apart: those of one update of each unit in flight in a row, and then as many empty
// places as it takes until the first of them is through. How far a stage is ahead is counted
// in places.
type Pace struct {
	Stages int
	Group  int // micro-batches in flight at most: of an update of each unit in flight
	Each   int // of which so many are of one replica: all are through before its next begins
	More   int // that stages run ahead beyond what fills them: it hides the delay of links
}

// pace is that of a run.
func (r Run) pace(stages int) Pace {
	p := Pace{Stages: stages, Group: r.group(), Each: 1}
	m := r.UpdateFrequency * min(r.MicroBatches, r.BatchSize)
	if !r.Splits() {
		p.Each = m
	}
	if r.InFlight > 0 {
		p.More = max(0, r.units()-stages) * m
	}
	return p
}

// Place is that of the n-th forward pass of a round.
func (p Pace) Place(n int) int {
	return n/p.Group*max(p.Group, p.Stages+p.Each-1) + n%p.Group
}

// Ahead is how many places from the oldest micro-batch in flight a forward pass of a stage
// still comes before a backward pass. The leaf turns round at once.
func (p Pace) Ahead(stage int) int {
	behind, d := p.Stages-1-stage, p.Stages-1
	if behind == 0 {
		return 1
	}
	return 1 + (behind*(d+p.More)+d-1)/d
}

// Depth is the most micro-batches in flight in a stage.
func (p Pace) Depth(stage int) int { return min(p.Ahead(stage), p.Group) }
