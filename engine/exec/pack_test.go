package exec

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// packPlainly is what pack has to agree with: of the buffers that live when one does, by offset, it
// passes by those that leave no room before them.
func packPlainly(ls []*life) int {
	slices.SortStableFunc(ls, func(a, b *life) int { return b.size - a.size })
	total := 0
	for i, l := range ls {
		var busy []*life
		for _, o := range ls[:i] {
			if o.born <= l.dies && l.born <= o.dies {
				busy = append(busy, o)
			}
		}
		slices.SortStableFunc(busy, func(a, b *life) int { return a.off - b.off })
		for _, o := range busy {
			if l.off+pad(l.size) <= o.off {
				break
			}
			l.off = max(l.off, o.off+pad(o.size))
		}
		total = max(total, l.off+pad(l.size))
	}
	return total
}

// TestPack: the offsets are those of the plain way, for chains, for values that all live at once, and
// for what lives whenever.
func TestPack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for name, draw := range map[string]func(i, n int) life{
		"chain":  func(i, _ int) life { return life{size: 64, born: i, dies: i + 1} },
		"sizes":  func(i, _ int) life { return life{size: 1 + r.IntN(999), born: i, dies: i + 1 + r.IntN(3)} },
		"wide":   func(i, n int) life { return life{size: 64, born: i, dies: n + i} },
		"nested": func(i, n int) life { return life{size: 1 + r.IntN(99), born: i, dies: 2*n - i} },
		"anywhere": func(_, n int) life {
			a, b := r.IntN(n), r.IntN(n)
			return life{size: 1 + r.IntN(999), born: min(a, b), dies: max(a, b)}
		},
		"few live long": func(i, n int) life {
			l := life{size: 1 + r.IntN(99), born: i, dies: i + 1}
			if r.IntN(20) == 0 {
				l.dies = n
			}
			return l
		},
	} {
		for _, n := range []int{1, 7, 1500} {
			var a, b []*life
			for i := range n {
				l, m := draw(i, n), life{}
				m = l
				a, b = append(a, &l), append(b, &m)
			}
			x, y := pack(a), packPlainly(b)
			if x != y {
				t.Fatalf("%s: %d buffers take %d floats, want %d", name, n, x, y)
			}
			for i := range a {
				if *a[i] != *b[i] {
					t.Fatalf("%s: buffer %d of %d is %+v, want %+v", name, i, n, *a[i], *b[i])
				}
			}
		}
	}
}

// BenchmarkPack places so many buffers that they live at once.
func BenchmarkPack(b *testing.B) {
	for b.Loop() {
		ls := make([]*life, 1<<15)
		for i := range ls {
			ls[i] = &life{size: 64, born: i, dies: len(ls) + i}
		}
		pack(ls)
	}
}
