package host

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestChoices: each way to leave somebody out parts every pair, but for the first, which leaves out
// nobody; and there are no more than can be tried.
func TestChoices(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 40 {
		var pairs [][2]string
		for range n {
			a := rng.IntN(12)
			pairs = append(pairs, [2]string{fmt.Sprint(a), fmt.Sprint((a + 1 + rng.IntN(11)) % 12)})
		}
		all := choices(pairs)
		if len(all) > 1<<maxBits+1 || len(all[0]) > 0 || n > 0 && len(all) < 2 {
			t.Fatalf("%d pairs: %d choices, first %v", n, len(all), all[0])
		}
		for _, out := range all[1:] {
			for _, p := range pairs {
				if !slices.Contains(out, p[0]) && !slices.Contains(out, p[1]) {
					t.Errorf("%v leaves both of %v in", out, p)
				}
			}
			if s := slices.Compact(slices.Sorted(slices.Values(out))); len(s) != len(out) {
				t.Errorf("%v has somebody twice", out)
			}
		}
	}
	if all := choices([][2]string{{"a", "b"}}); len(all) != 3 || all[1][0] != "a" || all[2][0] != "b" {
		t.Errorf("%v", all)
	}
	// One in doubt with somebody who lends ten: it, or all of these.
	var owner [][2]string
	for i := range 10 {
		owner = append(owner, [2]string{"a", fmt.Sprint(i)})
	}
	if all := choices(owner); len(all) != 3 || len(all[1]) != 1 || len(all[2]) != 10 {
		t.Errorf("%v", all)
	}
}
