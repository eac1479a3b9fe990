package kernel

import "testing"

// elemTSum is the scheme of vec_sum.go word for word.
func elemTSum(rows ...[]float32) float32 {
	var lane [16]float32
	for _, row := range rows {
		for p, v := range row {
			lane[p%16] += v
		}
	}
	for l := range 8 {
		lane[l] += lane[l+8]
	}
	for l := range 4 {
		lane[l] += lane[l+4]
	}
	for l := range 2 {
		lane[l] += lane[l+2]
	}
	return lane[0] + lane[1]
}

// elemTChannel collects the rows of channel j of x [n,c,hw], mapped.
func elemTChannel(n, c, hw, j int, f func(i int) float32) [][]float32 {
	var rows [][]float32
	for r := range n {
		row := make([]float32, hw)
		for p := range row {
			row[p] = f((r*c+j)*hw + p)
		}
		rows = append(rows, row)
	}
	return rows
}

func TestSum(t *testing.T) {
	for n := range 70 {
		x, y := elemTNormal(n, 1), elemTNormal(n, 2)
		xy := make([]float32, n)
		for i := range x {
			xy[i] = x[i] * y[i]
		}
		elemTSame(t, "sum", []float32{Sum(x)}, []float32{elemTSum(x)})
		elemTSame(t, "dot", []float32{Dot(x, y)}, []float32{elemTSum(xy)})
	}
}

var elemTShapes = [][3]int{
	{1, 1, 1},
	{64, 10, 1},
	{3, 33, 1},
	{5, 16, 1},
	{4, 3, 2},
	{7, 5, 4},
	{2, 3, 15},
	{3, 2, 16},
	{3, 4, 17},
	{2, 2, 31},
	{2, 3, 49},
	{1, 2, 100},
	{0, 3, 5},
	{0, 3, 1},
}

func TestSumChannels(t *testing.T) {
	for _, s := range elemTShapes {
		n, c, hw := s[0], s[1], s[2]
		x := elemTNormal(n*c*hw, 3)
		got, want := make([]float32, c), make([]float32, c)
		for j := range want {
			want[j] = elemTSum(elemTChannel(n, c, hw, j, func(i int) float32 { return x[i] })...)
		}
		SumChannels(got, x, AllChannels(n, c, hw), false)
		elemTSame(t, "sum of channels", got, want)
		old := elemTNormal(c, 4)
		copy(got, old)
		SumChannels(got, x, AllChannels(n, c, hw), true)
		AddTo(old, want)
		elemTSame(t, "accumulated sum of channels", got, old)
	}
}
