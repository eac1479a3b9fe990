package average

// Step is one exchange of a ring all-reduce as one member sees it: it sends chunk Send to
// the next member while it receives chunk Recv from the one before. Where Reduce is set,
// what comes is combined with the member's own; else it replaces it.
type Step struct {
	Send, Recv int
	Reduce     bool
}

// Ring lists the 2(n-1) steps of member me of n: reduce-scatter, after which the member
// holds one combined chunk, then all-gather. Each member sends 2(n-1)/n of the data, the
// least that is possible (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms for
// clusters of workstations", 2009). A ring of one has no steps.
func Ring(n, me int) []Step {
	var steps []Step
	for phase, reduce := range []bool{true, false} {
		for t := range n - 1 {
			send := (me + phase - t + 2*n) % n
			steps = append(steps, Step{Send: send, Recv: (send - 1 + n) % n, Reduce: reduce})
		}
	}
	return steps
}

// Chunks divides blocks into n runs of nearly equal length: chunk i is the blocks from
// ends[i] to ends[i+1]. Some are empty where there are fewer blocks than members.
func Chunks(blocks, n int) (ends []int) {
	for i := range n + 1 {
		ends = append(ends, blocks*i/n)
	}
	return ends
}
