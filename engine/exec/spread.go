// Sharing one operation among the threads of a team. Products share their own work in
// package kernel; what treats every row by itself is shared here, by rows.

package exec

import "github.com/ravnest/ravnest/engine/kernel"

// leastShared is the floats of a result from which sharing pays.
var leastShared = 1 << 15

// spread is an operation cut into ranges of rows, or a sum into ranges, one for each thread.
type spread struct {
	parts  []frame
	o      op
	grad   bool // gradInput of arg to dst, else forward
	arg    int
	dst    []float32
	addend []float32 // added to dst, if set
}

// Tile implements kernel.Task.
func (s *spread) Tile(_, i int) {
	if s.addend != nil {
		n := len(s.parts)
		from, to := i*len(s.dst)/n, (i+1)*len(s.dst)/n
		kernel.AddTo(s.dst[from:to], s.addend[from:to])
		return
	}
	f := &s.parts[i]
	if !s.grad {
		s.o.forward(f)
		return
	}
	all := s.parts[len(s.parts)-1]
	per := len(s.dst) / (all.from + all.rows)
	s.o.gradInput(f, s.arg, s.dst[f.from*per:][:f.rows*per])
}

// sharing is the team, or nobody where a kernel on so many floats is not worth sharing.
func (f *frame) sharing(floats int) *kernel.Team {
	if floats < leastShared {
		return nil
	}
	return f.team
}

// run does the task s on all threads if there is enough of it, else on this one.
func (f *frame) run(s *spread, shared bool, floats int) {
	n := min(f.team.Threads(), f.rows)
	if !shared || n == 1 || floats < leastShared {
		if s.grad {
			s.o.gradInput(f, s.arg, s.dst)
		} else {
			s.o.forward(f)
		}
		return
	}
	s.parts = f.e.parts[:n]
	for i := range s.parts {
		p := &s.parts[i]
		*p = *f
		p.from, p.rows = i*f.rows/n, (i+1)*f.rows/n-i*f.rows/n
		p.row0 += p.from
		p.team, p.scratch = nil, nil
	}
	f.team.Run(n, s)
}

// forward runs a node.
func (e *Exec) forward(o op, node int) {
	f, s := &e.f, &e.spread
	f.of(node)
	shared, _ := o.rowwise()
	*s = spread{o: o}
	f.run(s, shared, f.rows*e.p.vals[e.p.g.Result(node)].per)
}

// gradInput computes the gradient of a node's input arg.
func (e *Exec) gradInput(o op, arg int, dst []float32) {
	f, s := &e.f, &e.spread
	_, shared := o.rowwise()
	*s = spread{o: o, grad: true, arg: arg, dst: dst}
	f.run(s, shared, len(dst))
}

// addTo adds x to dst.
func (e *Exec) addTo(dst, x []float32) {
	team := e.f.sharing(len(dst))
	if team.Threads() == 1 {
		kernel.AddTo(dst, x)
		return
	}
	e.spread = spread{parts: e.parts, dst: dst, addend: x}
	team.Run(len(e.parts), &e.spread)
}
