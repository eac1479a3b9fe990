package pt2_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/pt2"
)

// TestPolynomial: sizes that are computed from one number, and what is none.
func TestPolynomial(t *testing.T) {
	const n = "Symbol('s77', positive=True, integer=True)"
	for expr, want := range map[string][]int64{
		n:                             {0, 1},
		"Add(" + n + ", Integer(-1))": {-1, 1},
		"Add(Mul(Integer(2), " + n + "), " + n + ", Integer(3))": {3, 3},
		"Mul(" + n + ", " + n + ")":                              {0, 0, 1},
		"Pow(Add(" + n + ", Integer(1)), Integer(2))":            {1, 2, 1},
		"Add(" + n + ", Mul(Integer(-1), " + n + "))":            {0},
		"Pow(" + n + ", Integer(-1))":                            nil,
		"Pow(" + n + ", Integer(9))":                             nil,
		"Pow(Integer(99999), Integer(4))":                        nil,
		"FloorDiv(" + n + ", Integer(2))":                        nil,
		"Symbol('s1', integer=True)":                             nil,
		"Add(":                                                   nil,
		"Add(" + n:                                               nil,
		strings.Repeat("Add(", 100) + n:                          nil,
		n + n:                                                    nil,
		"Integer(12345678901234567890)":                          nil,
	} {
		got := pt2.Size{Expr: expr}.Polynomial(func(s string) bool { return s == "s77" })
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", expr, got, want)
		}
	}
}
