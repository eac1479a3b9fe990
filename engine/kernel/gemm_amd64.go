//go:build !purego

// Dispatch to the generated microkernels of z_gemm_amd64.s.

package kernel

import "golang.org/x/sys/cpu"

// The instruction sets of this machine.
var (
	hasAVX512 = cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW && hasAVX2
	hasAVX2   = cpu.X86.HasAVX2 && cpu.X86.HasFMA && cpu.X86.HasBMI2
)

var tileAVX512 = &tiling{
	mr: 8, nv: 3, vw: 16, masks: true, strips: strips,
	kernel: &[8][3]micro{
		{gemmZ1x1, gemmZ1x2, gemmZ1x3},
		{gemmZ2x1, gemmZ2x2, gemmZ2x3},
		{gemmZ3x1, gemmZ3x2, gemmZ3x3},
		{gemmZ4x1, gemmZ4x2, gemmZ4x3},
		{gemmZ5x1, gemmZ5x2, gemmZ5x3},
		{gemmZ6x1, gemmZ6x2, gemmZ6x3},
		{gemmZ7x1, gemmZ7x2, gemmZ7x3},
		{gemmZ8x1, gemmZ8x2, gemmZ8x3},
	},
	window: &[8][3]windowMicro{
		{windowZ1x1, windowZ1x2, windowZ1x3},
		{windowZ2x1, windowZ2x2, windowZ2x3},
		{windowZ3x1, windowZ3x2, windowZ3x3},
		{windowZ4x1, windowZ4x2, windowZ4x3},
		{windowZ5x1, windowZ5x2, windowZ5x3},
		{windowZ6x1, windowZ6x2, windowZ6x3},
		{windowZ7x1, windowZ7x2, windowZ7x3},
		{windowZ8x1, windowZ8x2, windowZ8x3},
	},
	pack: &[8][3]micro{
		{gemmPackZ1x1, gemmPackZ1x2, gemmPackZ1x3},
		{gemmPackZ2x1, gemmPackZ2x2, gemmPackZ2x3},
		{gemmPackZ3x1, gemmPackZ3x2, gemmPackZ3x3},
		{gemmPackZ4x1, gemmPackZ4x2, gemmPackZ4x3},
		{gemmPackZ5x1, gemmPackZ5x2, gemmPackZ5x3},
		{gemmPackZ6x1, gemmPackZ6x2, gemmPackZ6x3},
		{gemmPackZ7x1, gemmPackZ7x2, gemmPackZ7x3},
		{gemmPackZ8x1, gemmPackZ8x2, gemmPackZ8x3},
	},
	lines: &lineKernels{
		least: 4, most: 7, vector: 16,
		kernel: [][2]lineKernel{
			{lineZ4x1, lineZ4x2},
			{lineZ5x1, lineZ5x2},
			{lineZ6x1, lineZ6x2},
			{lineZ7x1, lineZ7x2},
		},
		transpose: func(n int, src []float32, next, row, cols int, dst []float32, dnext, drow int) {
			trans16Strided(n, &src[0], 4*next, 4*row, cols, &dst[0], 4*dnext, 4*drow)
		},
	},
}

var tileAVX2 = &tiling{
	mr: 6, nv: 2, vw: 8, strips: strips,
	kernel: &[8][3]micro{
		{gemmY1x1, gemmY1x2},
		{gemmY2x1, gemmY2x2},
		{gemmY3x1, gemmY3x2},
		{gemmY4x1, gemmY4x2},
		{gemmY5x1, gemmY5x2},
		{gemmY6x1, gemmY6x2},
	},
	pack: &[8][3]micro{
		{gemmPackY1x1, gemmPackY1x2},
		{gemmPackY2x1, gemmPackY2x2},
		{gemmPackY3x1, gemmPackY3x2},
		{gemmPackY4x1, gemmPackY4x2},
		{gemmPackY5x1, gemmPackY5x2},
		{gemmPackY6x1, gemmPackY6x2},
	},
	lines: &lineKernels{
		least: 2, most: 3, vector: 8, short: true,
		kernel: [][2]lineKernel{
			{lineY2x1, lineY2x2},
			{lineY3x1, lineY3x2},
		},
		transpose: func(n int, src []float32, next, row, cols int, dst []float32, dnext, drow int) {
			if cols < 8 {
				for i := range n {
					transposeGo(dst[i*dnext:], drow, src[i*next:], row, 8, cols)
				}
				return
			}
			lines := rowOffsets(row)
			for i := range n {
				trans8(1, ptr(src, i*next), (*[8]int)(lines[:]), ptr(dst, i*dnext), 4*drow)
			}
		},
	},
}

func init() {
	switch {
	case hasBF16 && pairsPay():
		tile = tileBF16
	case hasAVX512:
		tile = tileAVX512
	case hasAVX2:
		tile = tileAVX2
	}
}

// tilings lists the tilings of this machine for tests.
func tilings() map[string]*tiling {
	m := map[string]*tiling{"portable": tilePortable}
	if hasBF16 {
		m["avx512bf16"] = tileBF16
	}
	if hasAVX512 {
		m["avx512"] = tileAVX512
	}
	if hasAVX2 {
		m["avx2"] = tileAVX2
	}
	return m
}

// finishAsm is finish for n columns from j on where AVX-512 has a loop for it, which tests hide
// with the other loops.
func (g *GemmArgs) finishAsm(i, m, j, n int) bool {
	if !vecAVX512 {
		return false
	}
	var row, col *float32
	if g.RowBias != nil {
		row = &g.RowBias[i:][:m][0]
	}
	if g.ColBias != nil {
		col = &g.ColBias[j:][:n][0]
	}
	relu := 0
	if g.ReLU {
		relu = 1
	}
	finishZ(m, n, ptr(g.C, i*g.LDC+j), 4*g.LDC, row, col, relu)
	return true
}

// packAsm is packGo in vectors of vw.
func (g *GemmArgs) packAsm(p []float32, vw, w, pc, kn, j, n int) {
	if g.rows != nil {
		for q := 0; q < n; q += vw {
			g.packWindow(p[q:], vw, w, pc, kn, j+q, min(vw, n-q))
		}
		return
	}
	for q := 0; q < w; q += vw {
		if vw == 16 && q+16 <= n {
			transpose(p[q:], w, g.B[pc+(j+q)*g.BJ:], g.BJ, 16, kn)
			continue
		}
		var cols [16]int
		for i := range vw { // repeat the last column
			cols[i] = 4 * (j + min(q+i, n-1)) * g.BJ
		}
		g.packColumns(p[q:], vw, w, pc, kn, &cols)
	}
}

// packColumns packs vw columns that are contiguous in k: kn floats of each, from B[from] on.
// cols are offsets in bytes.
func (g *GemmArgs) packColumns(p []float32, vw, w, from, kn int, cols *[16]int) {
	switch {
	case vw == 16:
		if kn >= 16 {
			trans16(kn/16, ptr(g.B, from), 4*16, cols, 16, &p[0], 4*16*w, 4*w)
		}
		if done := kn &^ 15; done < kn {
			trans16(1, ptr(g.B, from+done), 0, cols, kn-done, &p[done*w], 0, 4*w)
		}
	case kn >= 8:
		cols := (*[8]int)(cols[:])
		trans8(kn/8, ptr(g.B, from), cols, &p[0], 4*w)
		if kn%8 != 0 { // the last eight, overlapping
			trans8(1, ptr(g.B, from+kn-8), cols, &p[(kn-8)*w], 4*w)
		}
	default:
		for k := range kn {
			row := p[k*w:][:vw]
			for i := range row {
				row[i] = g.B[from+k+cols[i]/4]
			}
		}
	}
}

// packWindow packs n columns, one vector, from j on of the windows of a convolution.
func (g *GemmArgs) packWindow(p []float32, vw, w, pc, kn, j, n int) {
	cols, rows := g.cols[j:][:n], &g.rows[pc]
	one := contiguous(cols)
	two, off2 := one, 0
	if one < n {
		two += contiguous(cols[one:])
		off2 = int(cols[one]) - one
	}
	switch {
	case two == n && vw == 16:
		runsZ(kn, rows, &g.B[0], int(cols[0]), one, off2, n, &p[0], 4*w)
	case two == n:
		runsY(kn, rows, &g.B[0], int(cols[0]), one, off2, n, &p[0], 4*w)
	case g.run >= 8:
		var c [16]int
		for i := range vw {
			c[i] = 4 * int(cols[min(i, n-1)])
		}
		for k := 0; k < kn; {
			l := min(g.run-(pc+k)%g.run, kn-k)
			g.packColumns(p[k*w:], vw, w, int(g.rows[pc+k]), l, &c)
			k += l
		}
	case vw == 16:
		gatherZ(kn, rows, &g.B[0], &cols[0], n, &p[0], 4*w)
	default:
		gatherY(kn, rows, &g.B[0], &cols[0], n, &p[0], 4*w)
	}
}
