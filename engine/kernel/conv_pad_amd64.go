//go:build !purego

package kernel

// padLanes are the lanes of a vector of a padCopy, 0 if there is no kernel, and the ints of its
// masks, which are bits of one with AVX-512.
func padLanes() (lanes, ints int) {
	switch {
	case vecAVX512:
		return 16, 1
	case vecAVX2:
		return 8, 8
	}
	return 0, 0
}

func (p *padCopy) run(src []float32, masks []int32, dst []float32) {
	s, m, d := &src[0], &masks[0], &dst[0]
	switch {
	case p.lanes == 16 && p.stride == 1:
		pad1Z(p.planes, p.top, p.lines, p.bottom, p.vectors, s, p.at, p.splane, p.spitch, m, d, p.dplane, p.dpitch, p.odd)
	case p.lanes == 16:
		pad2Z(p.planes, p.top, p.lines, p.bottom, p.vectors, s, p.at, p.splane, p.spitch, m, d, p.dplane, p.dpitch, p.odd)
	case p.stride == 1:
		pad1Y(p.planes, p.top, p.lines, p.bottom, p.vectors, s, p.at, p.splane, p.spitch, m, d, p.dplane, p.dpitch, p.odd)
	default:
		pad2Y(p.planes, p.top, p.lines, p.bottom, p.vectors, s, p.at, p.splane, p.spitch, m, d, p.dplane, p.dpitch, p.odd)
	}
}
