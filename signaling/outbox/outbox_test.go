package outbox

import (
	"slices"
	"sync"
	"testing"
)

// TestOutbox: functions run in the order in which each caller pushes them, whatever else is
// pushed meanwhile, by the functions themselves too; Done waits for all of them, and nothing
// runs after Close.
func TestOutbox(t *testing.T) {
	const callers, each = 4, 200
	o := New()
	var got [callers][]int // written by the outbox's goroutine alone
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				o.Push(func() {
					got[c] = append(got[c], 2*i)
					o.Push(func() { got[c] = append(got[c], 2*i+1) })
				})
			}
		})
	}
	wg.Wait()
	more := make(chan struct{})
	o.Push(func() { o.Push(func() { close(more) }) }) // behind everything that was pushed so far
	<-more
	o.Close()
	o.Push(func() { t.Error("a function runs that was pushed after Close") })
	<-o.Done()
	for c := range callers {
		for _, half := range []int{0, 1} { // what the caller pushed, and what its functions pushed
			var part []int
			for _, n := range got[c] {
				if n%2 == half {
					part = append(part, n)
				}
			}
			if len(part) != each || !slices.IsSorted(part) {
				t.Errorf("caller %d, half %d: got %d functions of %d, in order: %v", c, half, len(part), each, slices.IsSorted(part))
			}
		}
	}
}
