package kernel

// SumSquares is the sum of the squares of x. A square of a float32 is exact in float64, so the
// result depends on the order only: eight lanes, joined by a fixed tree.
func SumSquares(x []float32) float64 {
	var a0, a1, a2, a3, a4, a5, a6, a7 float64
	square := func(v float32) float64 { return float64(float64(v) * float64(v)) }
	for ; len(x) >= 8; x = x[8:] {
		v := (*[8]float32)(x)
		a0 += square(v[0])
		a1 += square(v[1])
		a2 += square(v[2])
		a3 += square(v[3])
		a4 += square(v[4])
		a5 += square(v[5])
		a6 += square(v[6])
		a7 += square(v[7])
	}
	for i, v := range x {
		switch s := square(v); i {
		case 0:
			a0 += s
		case 1:
			a1 += s
		case 2:
			a2 += s
		case 3:
			a3 += s
		case 4:
			a4 += s
		case 5:
			a5 += s
		default:
			a6 += s
		}
	}
	return ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7))
}
