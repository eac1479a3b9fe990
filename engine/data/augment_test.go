package data

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
)

// TestAugment: an image is a shifted, flipped, normalised piece of itself, by epoch and row alone.
func TestAugment(t *testing.T) {
	const c, h, w = 2, 4, 5
	in := &Table{Kind: Inputs, Rows: 6, Shape: []int{c, h, w}}
	for i := range 6 * c * h * w {
		in.U8 = append(in.U8, uint8(1+i))
	}
	a := job.Augment{Crop: 2, Flip: true}
	r := NewAugmented(in, a, [][]int{in.Shape}, 7)
	get := func(epoch int, rows ...int32) []float32 {
		if err := r.Hold(t.Context(), epoch, 0, rows); err != nil {
			t.Fatal(err)
		}
		dst := make([]float32, len(rows)*c*h*w)
		r.Gather(dst, rows)
		return dst
	}
	plain := all(in)
	seen := map[string]bool{}
	for epoch := range 20 {
		for row := range int32(6) {
			got := get(epoch, row)
			if !slices.Equal(got, get(epoch, 5, row)[c*h*w:]) {
				t.Fatalf("epoch %d, row %d is another one beside row 5", epoch, row)
			}
			var moved string
			for down := -2; down <= 2; down++ {
				for right := -2; right <= 2; right++ {
					for _, flip := range []bool{false, true} {
						if slices.Equal(got, shifted(plain[row*c*h*w:][:c*h*w], c, h, w, down, right, flip)) {
							moved = fmt.Sprint(down, right, flip)
						}
					}
				}
			}
			if moved == "" {
				t.Fatalf("epoch %d, row %d: %v is no piece of it", epoch, row, got)
			}
			seen[moved] = true
		}
	}
	if len(seen) < 40 { // of 50, in 120 draws
		t.Errorf("only %d different pieces: %v", len(seen), seen)
	}
	if !slices.Equal(get(-1, 0, 1, 2, 3, 4, 5), plain) {
		t.Error("validation rows are changed")
	}
	// torchvision: ToTensor (x/255), then Normalize ((x-mean)/std), in float32.
	r = NewAugmented(in, job.Augment{Divide: 255, Mean: []float64{0.485, 0.456}, Std: []float64{0.229, 0.224}}, [][]int{in.Shape}, 7)
	for i, v := range get(-1, 0) {
		m, s := float32(0.485), float32(0.229)
		if i >= h*w {
			m, s = 0.456, 0.224
		}
		x := plain[i] / 255
		if x -= m; math.Float32bits(v) != math.Float32bits(x/s) {
			t.Fatalf("element %d is %v, want %v", i, v, x/s)
		}
	}
}

func shifted(v []float32, c, h, w, down, right int, flip bool) []float32 {
	out := make([]float32, len(v))
	for k := range c {
		for y := range h {
			for x := range w {
				fy, fx := y+down, x+right
				if flip {
					fx = w - 1 - x + right
				}
				if fy >= 0 && fy < h && fx >= 0 && fx < w {
					out[(k*h+y)*w+x] = v[(k*h+fy)*w+fx]
				}
			}
		}
	}
	return out
}

// TestAugmentBits pins what is drawn: it is part of what a job means.
func TestAugmentBits(t *testing.T) {
	in := &Table{Kind: Inputs, Rows: 3, Shape: []int{1, 2, 2}, U8: []uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}
	r := NewAugmented(in, job.Augment{Crop: 1, Flip: true}, [][]int{in.Shape}, 42)
	var got []float32
	for epoch := range 3 {
		if err := r.Hold(t.Context(), epoch, 0, nil); err != nil {
			t.Fatal(err)
		}
		dst := make([]float32, 12)
		r.Gather(dst, iota32(3))
		got = append(got, dst...)
	}
	const want = "[0 0 2 1 0 8 0 0 11 12 0 0 0 0 1 2 5 6 7 8 12 0 0 0 0 3 0 0 0 0 5 0 9 10 11 12]"
	if s := fmt.Sprint(got); s != want {
		t.Errorf("%s, want %s", s, want)
	}
}

func TestCheckAugment(t *testing.T) {
	for _, c := range []struct {
		a     job.Augment
		shape []int
		want  string
	}{
		{job.Augment{Flip: true}, []int{11}, "are for images"},
		{job.Augment{Crop: 9}, []int{3, 8, 8}, "more than the images'"},
		{job.Augment{Mean: []float64{1, 2}}, []int{3, 8, 8}, "2 channels"},
		{job.Augment{Std: []float64{1, 2, 3}}, []int{11}, "3 channels"},
	} {
		if err := CheckAugment(c.a, [][]int{c.shape}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v of %v: %v, want %q", c.a, c.shape, err, c.want)
		}
	}
	if err := CheckAugment(job.Augment{Crop: 4, Flip: true, Divide: 255, Mean: []float64{1, 2, 3}, Std: []float64{1}}, [][]int{{3, 32, 32}}); err != nil {
		t.Error(err)
	}
}

// TestAnother: two readers of the same rows, in different epochs, do not disturb each other.
func TestAnother(t *testing.T) {
	in := &Table{Shape: []int{1, 4, 4}, Rows: 8, F32: make([]float32, 8*16)}
	for i := range in.F32 {
		in.F32[i] = float32(i)
	}
	rows := []int32{5, 0, 3}
	read := func(x *Augmented, epoch int) []float32 {
		if err := x.Hold(t.Context(), epoch, 0, rows); err != nil {
			t.Fatal(err)
		}
		dst := make([]float32, len(rows)*16)
		x.Gather(dst, rows)
		return dst
	}
	fresh := func() *Augmented { return NewAugmented(in, job.Augment{Crop: 1, Flip: true}, [][]int{{1, 4, 4}}, 7) }
	a, want := fresh(), read(fresh(), 0)
	b := a.Another()
	if err := a.Hold(t.Context(), 0, 0, rows); err != nil {
		t.Fatal(err)
	}
	if other := read(b, 1); slices.Equal(other, want) || !slices.Equal(other, read(fresh(), 1)) {
		t.Error("the other reader reads something else")
	}
	dst := make([]float32, len(want))
	if a.Gather(dst, rows); !slices.Equal(dst, want) {
		t.Error("the other reader has changed what this one reads")
	}
}
