// Which weights a micro-batch was computed with: its backward pass uses those of its forward
// pass, however many updates came between.

package stage

// versions are the weights that are in use: the newest, and those that micro-batches in
// flight were computed with.
type versions struct {
	newest []float32
	all    [][]float32 // buffers; newest is one of them
	bySlot [][]float32 // of the micro-batch in each slot; nil: none
}

func newVersions(params []float32, slots int) versions {
	return versions{newest: params, all: [][]float32{params}, bySlot: make([][]float32, slots)}
}

// take gives the newest weights to the micro-batch in a slot.
func (v *versions) take(slot int) []float32 {
	v.bySlot[slot] = v.newest
	return v.newest
}

// of is the weights of the micro-batch in a slot.
func (v *versions) of(slot int) []float32 { return v.bySlot[slot] }

// release tells that a slot's micro-batch is done with its weights.
func (v *versions) release(slot int) { v.bySlot[slot] = nil }

// writable makes weights that can be updated in place the newest. Those that a micro-batch
// in flight still needs are left alone, and a copy is updated.
func (v *versions) writable() []float32 {
	if v.inUse(v.newest) {
		next := v.spare()
		copy(next, v.newest)
		v.newest = next
	}
	return v.newest
}

func same(a, b []float32) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func (v *versions) inUse(p []float32) bool {
	for _, u := range v.bySlot {
		if u != nil && same(u, p) {
			return true
		}
	}
	return false
}

// spare finds a buffer that no micro-batch in flight uses.
func (v *versions) spare() []float32 {
	for _, p := range v.all {
		if !same(p, v.newest) && !v.inUse(p) {
			return p
		}
	}
	p := make([]float32, len(v.newest))
	v.all = append(v.all, p)
	return p
}
