package kernel

import "math/big"

// bigFMA is x*y+z by arbitrary precision, rounded once.
func bigFMA(x, y, z float32) float32 {
	p := new(big.Float).SetPrec(200).Mul(big.NewFloat(float64(x)), big.NewFloat(float64(y)))
	p.Add(p, big.NewFloat(float64(z)))
	f, _ := p.Float32()
	return f
}
