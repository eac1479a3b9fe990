// Augmentation: changes to inputs before they enter the model.

package data

import (
	"context"
	"fmt"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
)

// Rows are inputs that are read by row number.
type Rows interface {
	Len() int
	Gather(dst []float32, rows []int32)
}

// Augmented changes rows of one shape as a job says. The random part is a function of the seed,
// the epoch and the row number alone, so a row is the same whoever reads it and however often.
type Augmented struct {
	in    Rows
	a     job.Augment
	seed  uint64
	epoch int

	divide float32
	parts  []augmented
	n      int       // elements of a row
	row    []float32 // of a part
}

// augmented is a part of a row that changes: an input of the model.
type augmented struct {
	from                    int // its first element
	channels, height, width int
	mean, std               []float32 // by channel; nil: nothing
}

// images picks the inputs that augmentation is about: of several the images, that is those with
// three axes, else the only one.
func images(shapes [][]int) (own [][]int, from []int) {
	at := 0
	for _, s := range shapes {
		if len(shapes) == 1 || len(s) == 3 {
			own, from = append(own, s), append(from, at)
		}
		at += product(s)
	}
	return own, from
}

// CheckAugment returns an error if rows of inputs of these shapes cannot be augmented so. Of
// several inputs the images are augmented, all of a row in the same way.
func CheckAugment(a job.Augment, shapes [][]int) error {
	own, _ := images(shapes)
	if len(own) == 0 && a.On() {
		return fmt.Errorf("augment is for images [channels, height, width]; the rows of the inputs are %v", shapes)
	}
	for _, s := range own {
		if err := checkAugment(a, s); err != nil {
			return err
		}
	}
	return nil
}

func checkAugment(a job.Augment, shape []int) error {
	image := len(shape) == 3
	if (a.Crop > 0 || a.Flip) && !image {
		return fmt.Errorf("augment crop and flip are for images [channels, height, width]; a row of the inputs is %v", shape)
	}
	if image && a.Crop > max(shape[1], shape[2]) {
		return fmt.Errorf("augment crop %d is more than the images' %d x %d", a.Crop, shape[1], shape[2])
	}
	channels := 1
	if image {
		channels = shape[0]
	}
	for _, v := range []struct {
		name string
		n    int
	}{{"mean", len(a.Mean)}, {"std", len(a.Std)}} {
		if v.n > 1 && v.n != channels {
			return fmt.Errorf("augment has a %s for %d channels, a row of the inputs is %v: give %d or 1", v.name, v.n, shape, channels)
		}
	}
	return nil
}

// NewAugmented augments rows of inputs whose shapes CheckAugment accepts; seed is the job's.
func NewAugmented(in Rows, a job.Augment, shapes [][]int, seed uint64) *Augmented {
	r := &Augmented{in: in, a: a, seed: seed, epoch: -1, divide: float32(a.Divide)}
	for _, s := range shapes {
		r.n += product(s)
	}
	own, from := images(shapes)
	most := 0
	for i, shape := range own {
		p := augmented{from: from[i], channels: 1, height: 1, width: product(shape)}
		if len(shape) == 3 {
			p.channels, p.height, p.width = shape[0], shape[1], shape[2]
		}
		each := func(v []float64) []float32 {
			if len(v) == 0 {
				return nil
			}
			out := make([]float32, p.channels)
			for c := range out {
				out[c] = float32(v[min(c, len(v)-1)])
			}
			return out
		}
		p.mean, p.std = each(a.Mean), each(a.Std)
		most = max(most, product(shape))
		r.parts = append(r.parts, p)
	}
	r.row = make([]float32, most)
	return r
}

// Another is the same for another reader: one alone can read an Augmented at a time. What it reads must
// be of use to both.
func (r *Augmented) Another() *Augmented {
	a := *r
	a.epoch, a.row = -1, make([]float32, len(r.row))
	return &a
}

// Len returns the number of rows.
func (r *Augmented) Len() int { return r.in.Len() }

// Hold records the epoch and holds the rows that it reads. Epoch -1 is a pass without random
// changes.
func (r *Augmented) Hold(ctx context.Context, epoch, from int, rows []int32) error {
	r.epoch = epoch
	if p, ok := r.in.(interface {
		Hold(ctx context.Context, epoch, from int, rows []int32) error
	}); ok {
		return p.Hold(ctx, epoch, from, rows)
	}
	return nil
}

// Gather copies augmented rows to dst.
func (r *Augmented) Gather(dst []float32, rows []int32) {
	r.in.Gather(dst, rows)
	for i, row := range rows {
		for k := range r.parts {
			p := &r.parts[k]
			v := dst[i*r.n+p.from:][:p.channels*p.height*p.width]
			if r.epoch >= 0 && (r.a.Crop > 0 || r.a.Flip) {
				r.move(p, v, row)
			}
			r.normalise(p, v)
		}
	}
}

// move crops and flips one image.
func (r *Augmented) move(p *augmented, v []float32, row int32) {
	s := kernel.NewStream(r.seed, kernel.DomainAugment, uint64(r.epoch), 0)
	draw := s.Block(uint64(row)) // four numbers for each row: down, right, flip
	crop := r.a.Crop
	below := func(u uint32) int { return int(uint64(u) * uint64(2*crop+1) >> 32) }
	down, right := below(draw[0])-crop, below(draw[1])-crop
	flip := r.a.Flip && draw[2]>>31 == 1
	if down == 0 && right == 0 && !flip {
		return
	}
	copy(r.row, v)
	for c := range p.channels {
		for y := range p.height {
			out := v[(c*p.height+y)*p.width:][:p.width]
			from := y + down
			if from < 0 || from >= p.height {
				clear(out)
				continue
			}
			in := r.row[(c*p.height+from)*p.width:][:p.width]
			for x := range out {
				at := x
				if flip { // of the cropped image
					at = p.width - 1 - x
				}
				if at += right; at >= 0 && at < p.width {
					out[x] = in[at]
				} else {
					out[x] = 0
				}
			}
		}
	}
}

// normalise divides, subtracts and divides, rounding each time as torchvision does.
func (r *Augmented) normalise(p *augmented, v []float32) {
	if r.divide != 0 {
		for i := range v {
			v[i] /= r.divide
		}
	}
	n := p.height * p.width
	for c := range p.channels {
		w := v[c*n:][:n]
		if p.mean != nil {
			for i := range w {
				w[i] -= p.mean[c]
			}
		}
		if p.std != nil {
			for i := range w {
				w[i] /= p.std[c]
			}
		}
	}
}
