// Arrays that do not fit in memory: NumPy's files, whose rows stay where they are, and those of
// MNIST and CIFAR, whose rows are written to a temporary file.

package dataset

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/cifar"
	"github.com/ravnest/ravnest/engine/format/idx"
	"github.com/ravnest/ravnest/engine/format/npy"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
)

// spool begins a temporary file of rows of a shape, which is closed with the source.
func (s *Source) spool(o Options, dtype state.DType, shape ...int) (*spool, error) {
	sp, err := newSpool(&o, dtype)
	if err != nil {
		return nil, err
	}
	s.closers, sp.shape = append(s.closers, sp), shape
	return sp, nil
}

// size is that of all rows in bytes.
func size(raws [4]*data.Raw) (n int64) {
	for _, r := range raws {
		if r != nil {
			row := int64(r.DType.Size())
			for _, d := range r.Shape {
				row *= int64(d)
			}
			n += row * int64(r.Rows)
		}
	}
	return n
}

// arrays takes the rows of arrays where they lie; open finds one by its name. It tells whether it
// did: not where they are so small, or lie in such an order, that they are read into memory.
func (s *Source) arrays(pick [4]string, o Options, open func(name string) (*data.Raw, error)) (bool, error) {
	var raws [4]*data.Raw
	for i, name := range pick {
		if name == "" {
			continue
		}
		r, err := open(name)
		if errors.Is(err, npy.ErrOrder) {
			return false, nil
		}
		if err != nil {
			return true, fmt.Errorf("array %.80q: %w", name, err)
		}
		raws[i] = r
	}
	if size(raws) <= o.above() {
		return false, nil
	}
	s.raws = raws
	return true, nil
}

// array finds the rows of a .npy file.
func (s *Source) array(path string) (*data.Raw, error) {
	f, size, err := s.keep(path)
	if err != nil {
		return nil, err
	}
	return npy.Rows(f, size)
}

// npz takes the rows of a .npz file where they lie, those of compressed arrays from a temporary
// file.
func (s *Source) npz(path string, o Options) (bool, error) {
	f, n, err := s.keep(path)
	if err != nil {
		return true, err
	}
	files, err := npy.Zip(f, n)
	if err != nil {
		return true, err
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	pick, err := chosen(names)
	if err != nil {
		return true, err
	}
	return s.arrays(pick, o, func(name string) (*data.Raw, error) { return s.zipped(f, files[name], o) })
}

func (s *Source) zipped(f *os.File, z *zip.File, o Options) (*data.Raw, error) {
	if z.UncompressedSize64 > maxUnpacked {
		return nil, fmt.Errorf("%w: an array of %d bytes, at most %d are unpacked", npy.ErrFormat, z.UncompressedSize64, int64(maxUnpacked))
	}
	n := int64(z.UncompressedSize64)
	if z.Method == zip.Store {
		off, err := z.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", npy.ErrFormat, err)
		}
		return npy.Rows(io.NewSectionReader(f, off, n), n)
	}
	r, err := z.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", npy.ErrFormat, err)
	}
	defer r.Close()
	sp, err := s.spool(o, state.U8)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(sp.w, r, n); err != nil {
		return nil, fmt.Errorf("%w: %w", npy.ErrFormat, err)
	}
	if err := sp.w.Flush(); err != nil {
		return nil, fmt.Errorf("writing what is read to a file: %w", err)
	}
	return npy.Rows(sp.f, n)
}

// mnist reads the files of MNIST and its successors.
func (s *Source) mnist(dir string, o Options) error {
	var raws [4]*data.Raw
	for i, names := range [][]string{
		{"train-images-idx3-ubyte", "train-images.idx3-ubyte"},
		{"train-labels-idx1-ubyte", "train-labels.idx1-ubyte"},
		{"t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"},
		{"t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"},
	} {
		p := first(dir, names...)
		if p == "" && i > 1 {
			raws[2], raws[3] = nil, nil // no validation
			break
		}
		if p == "" {
			return fmt.Errorf("%w: %s is missing", ErrKind, names[0])
		}
		err := open(p, func(f *os.File, _ int64) (err error) {
			return idx.Each(f, func(dtype state.DType, shape []int, elems io.Reader) error {
				raws[i], err = s.spooled(o, dtype, shape, elems)
				return err
			})
		})
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(p), err)
		}
		if r := raws[i]; i%2 == 0 && len(r.Shape) == 2 {
			r.Shape = append([]int{1}, r.Shape...) // one channel
		}
	}
	return s.take(raws, size(raws), o.above())
}

// spooled writes the elements of an array to a temporary file.
func (s *Source) spooled(o Options, dtype state.DType, shape []int, elems io.Reader) (*data.Raw, error) {
	n, err := state.Elems(shape)
	if err != nil || shape[0] > data.MaxRows {
		return nil, fmt.Errorf("%w: %v, at most %d rows are read", data.ErrInvalid, shape, data.MaxRows)
	}
	sp, err := s.spool(o, dtype, shape[1:]...)
	if err != nil {
		return nil, err
	}
	sp.rows = shape[0]
	want := int64(n) * int64(dtype.Size())
	// Only whole elements are read, so the buffer's size is a multiple of theirs.
	got, err := io.CopyBuffer(struct{ io.Writer }{sp.w}, io.LimitReader(elems, want), make([]byte, 1<<16))
	if err == nil && got != want {
		err = fmt.Errorf("%w: %d bytes of elements, its shape %v wants %d", data.ErrInvalid, got, shape, want)
	}
	if err != nil {
		return nil, err
	}
	return sp.raw()
}

// cifar reads files of CIFAR's.
func (s *Source) cifar(dir string, labels int, train []string, test, names string, o Options) error {
	p := &spooler{s: s, o: &o}
	for part, files := range [][]string{train, {test}} {
		for _, name := range files {
			path := first(dir, name)
			if path == "" {
				continue
			}
			err := open(path, func(f *os.File, _ int64) error {
				return cifar.Each(f, labels, func(pixels []uint8, class int) error { return p.emit(part == 1, cifar.Shape, pixels, class) })
			})
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	s.Classes = words(dir, names)
	return p.done(o.above())
}

// npyFolder reads arrays from a folder of .npy files.
func (s *Source) npyFolder(dir string, o Options) error {
	var names []string
	for _, ks := range keys {
		for _, k := range ks {
			if info, err := os.Stat(filepath.Join(dir, k+".npy")); err == nil && info.Mode().IsRegular() {
				names = append(names, k)
			}
		}
	}
	pick, err := chosen(names)
	if err != nil {
		return err
	}
	large, err := s.arrays(pick, o, func(name string) (*data.Raw, error) { return s.array(filepath.Join(dir, name+".npy")) })
	if large || err != nil {
		return err
	}
	m := map[string]*data.Table{}
	for _, k := range slices.Compact(slices.Sorted(slices.Values(pick[:]))) {
		if k == "" {
			continue
		}
		err := open(filepath.Join(dir, k+".npy"), func(f *os.File, _ int64) (err error) { m[k], err = npy.Read(f); return err })
		if err != nil && !errors.Is(err, project.ErrMissing) {
			return fmt.Errorf("%s.npy: %w", k, err)
		}
	}
	return s.named(m)
}
