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
// clusters of workstations", 2009). A ring of one has no steps. What a member sends in a
// step after the first is what it received in the one before.
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

// Terms are the members whose terms are in the chunk that member me of n sends in a step: as
// many as have been combined, from the oldest on.
func Terms(n, me, step int) []int {
	var ms []int
	for i := min(step, n-1); i >= 0; i-- {
		ms = append(ms, (me-i+2*n)%n)
	}
	return ms
}

// Chunk is the elements [from, to) of chunk i, where n elements are divided into chunks of
// nearly equal length. Some are empty where there are fewer elements than chunks.
func Chunk(n, chunks, i int) (from, to int) { return n * i / chunks, n * (i + 1) / chunks }
