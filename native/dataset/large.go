// Data sets that do not fit in memory. Their rows are written to a temporary file first, or read
// from the user's own file in place, and cut into shards from there.

package dataset

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/images"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/text"
	"github.com/ravnest/ravnest/engine/format/tokenizer"
	"github.com/ravnest/ravnest/engine/format/webdataset"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/native/project"
)

// DefaultAbove is the size in bytes above which a data set is not held in memory.
const DefaultAbove = 256 << 20

// spool is a temporary file of rows of one shape. It is deleted when it is closed.
type spool struct {
	f     *os.File
	w     *bufio.Writer
	dtype state.DType
	rows  int
	shape []int // of a row
}

func newSpool(o *Options, dtype state.DType) (*spool, error) {
	f, err := os.CreateTemp(o.Scratch, ".ravnest-*")
	if err != nil {
		return nil, fmt.Errorf("making a file for what is read: %w", err)
	}
	_ = os.Remove(f.Name()) // where a file in use cannot be removed, Close does
	return &spool{f: f, w: bufio.NewWriterSize(o.watched(f), 1<<20), dtype: dtype}, nil
}

func (s *spool) Close() error {
	name := s.f.Name()
	err := s.f.Close()
	if rerr := os.Remove(name); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// raw ends the writing and returns the rows.
func (s *spool) raw() (*data.Raw, error) {
	if err := s.w.Flush(); err != nil {
		return nil, fmt.Errorf("writing what is read to a file: %w", err)
	}
	return &data.Raw{Rows: s.rows, Shape: s.shape, DType: s.dtype, R: s.f}, nil
}

// pairs are the inputs and targets of the training rows or of the validation rows.
type pairs struct{ x, y *spool }

// spooler writes images and their classes to temporary files.
type spooler struct {
	s     *Source
	o     *Options
	parts [2]*pairs
}

func (p *spooler) emit(val bool, shape []int, pixels []uint8, class int) error {
	k := 0
	if val {
		k = 1
	}
	if p.parts[k] == nil {
		x, err := newSpool(p.o, state.U8)
		if err != nil {
			return err
		}
		p.s.closers = append(p.s.closers, x)
		y, err := newSpool(p.o, state.I32)
		if err != nil {
			return err
		}
		p.s.closers = append(p.s.closers, y)
		x.shape, y.shape = slices.Clone(shape), []int{}
		p.parts[k] = &pairs{x, y}
	}
	x, y := p.parts[k].x, p.parts[k].y
	x.rows, y.rows = x.rows+1, y.rows+1
	if x.rows > data.MaxRows {
		return fmt.Errorf("%w: more than %d rows", data.ErrInvalid, data.MaxRows)
	}
	if _, err := x.w.Write(pixels); err != nil {
		return fmt.Errorf("writing what is read to a file: %w", err)
	}
	_, err := y.w.Write(binary.LittleEndian.AppendUint32(nil, uint32(class)))
	return err
}

// done gives the rows to the source: as tables in memory if they take at most above bytes, else
// as files.
func (p *spooler) done(above int64) error {
	var raws [4]*data.Raw
	size := int64(0)
	for k, q := range p.parts {
		if q == nil {
			continue
		}
		for i, s := range []*spool{q.x, q.y} {
			r, err := s.raw()
			if err != nil {
				return err
			}
			raws[2*k+i] = r
		}
		n := int64(q.x.rows)
		for _, d := range q.x.shape {
			n *= int64(d)
		}
		size += n
	}
	if raws[0] == nil {
		return fmt.Errorf("%w: it holds no images for training", ErrKind)
	}
	return p.s.take(raws, size, above)
}

// take gives the source rows of size bytes: as tables in memory if they take at most above
// bytes, else as they are.
func (s *Source) take(raws [4]*data.Raw, size, above int64) error {
	if size > above {
		s.raws = raws
		return nil
	}
	for i, r := range raws {
		if r == nil {
			continue
		}
		shape := append([]int{r.Rows}, r.Shape...)
		// Rows may overlap, as blocks of a text do. Those are read one by one.
		rows := make([]io.Reader, 1)
		n := int64(r.DType.Size())
		for _, d := range r.Shape {
			n *= int64(d)
		}
		if r.Stride == 0 || r.Stride == n {
			rows[0] = io.NewSectionReader(r.R, r.Off, n*int64(r.Rows))
		} else {
			rows = rows[:0]
			for k := range r.Rows {
				rows = append(rows, io.NewSectionReader(r.R, r.Off+int64(k)*r.Stride, n))
			}
		}
		t, err := data.ReadTable(data.Kind(i%2), r.DType, shape, bufio.NewReaderSize(io.MultiReader(rows...), 1<<16))
		if err != nil {
			return err
		}
		s.tables[i] = t
	}
	return nil
}

func (o *Options) above() int64 {
	if o.Above == nil {
		return DefaultAbove
	}
	return *o.Above
}

// imageFolder reads a folder of images.
func (s *Source) imageFolder(dir string, o Options) error {
	p := &spooler{s: s, o: &o}
	var err error
	if s.Classes, err = images.Each(os.DirFS(dir), o.Images, p.emit); err != nil {
		return err
	}
	return p.done(o.above())
}

// parts lists the files for training and for validation at path, which end in ext. path is such a
// file, or a folder: its files whose names begin with val or test are for validation, as are those
// in its folders of such names. Where there are both, test files are left out.
func parts(path, ext string) (lists [2][]string) {
	if strings.EqualFold(filepath.Ext(path), ext) {
		return [2][]string{{path}}
	}
	in := func(dir string) []string {
		es, _ := os.ReadDir(dir) // sorted
		var out []string
		for _, e := range es {
			if strings.EqualFold(filepath.Ext(e.Name()), ext) && !strings.HasPrefix(e.Name(), ".") {
				out = append(out, filepath.Join(dir, e.Name()))
			}
		}
		return out
	}
	for _, dir := range []string{"train", "data", "."} {
		lists[0] = append(lists[0], in(filepath.Join(path, dir))...)
	}
	var val [2][]string // for validation, for tests
	rest := lists[0][:0]
	for _, f := range lists[0] {
		switch base := filepath.Base(f); {
		case strings.HasPrefix(base, "val"):
			val[0] = append(val[0], f)
		case strings.HasPrefix(base, "test"):
			val[1] = append(val[1], f)
		default:
			rest = append(rest, f)
		}
	}
	lists[0] = rest
	for i, dirs := range [][]string{{"val", "valid", "validation"}, {"test"}} {
		for _, d := range dirs {
			val[i] = append(val[i], in(filepath.Join(path, d))...)
		}
	}
	if lists[1] = val[0]; len(val[0]) == 0 {
		lists[1] = val[1]
	}
	return lists
}

// webdataset reads tar files of samples.
func (s *Source) webdataset(lists [2][]string, o Options) error {
	p := &spooler{s: s, o: &o}
	r := webdataset.Reader{Options: o.Images}
	for k, files := range lists {
		for _, name := range files {
			err := open(name, func(f *os.File, _ int64) error {
				return r.Read(bufio.NewReaderSize(f, 1<<20), func(shape []int, pixels []uint8, class int) error {
					return p.emit(k == 1, shape, pixels, class)
				})
			})
			if err != nil {
				return fmt.Errorf("%s: %w", filepath.Base(name), err)
			}
		}
	}
	return p.done(o.above())
}

// tokenized writes the tokens of a text, as a tokenizer.json makes them, to a temporary file.
func (s *Source) tokenized(f io.Reader, o Options, block int) error {
	t, b, err := ReadTokenizer(o.Tokenizer)
	if err != nil {
		return err
	}
	dtype := state.U16
	if t.Size() > math.MaxUint16+1 {
		dtype = state.U32
	}
	sp, err := newSpool(&o, dtype)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, sp)
	tokens := int64(0)
	var ids []int32
	var buf []byte
	err = pieces(f, t, func(piece string, begins bool) error {
		if ids, err = t.Encode(ids[:0], piece, begins); err != nil {
			return err
		}
		buf = buf[:0]
		for _, id := range ids {
			if dtype == state.U16 {
				buf = binary.LittleEndian.AppendUint16(buf, uint16(id))
			} else {
				buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
			}
		}
		tokens += int64(len(ids))
		_, err := sp.w.Write(buf)
		return err
	})
	if err != nil {
		return err
	}
	r, err := sp.raw()
	if err != nil {
		return err
	}
	s.Tokens, s.Tokenizer = t.Size(), b
	return s.blocks(r.R, dtype, tokens, block, o.above())
}

// ReadTokenizer reads a tokenizer.json; b is the file.
func ReadTokenizer(path string) (t *tokenizer.Tokenizer, b []byte, err error) {
	f, _, err := project.OpenRegular(path, "tokenizer")
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if b, err = io.ReadAll(io.LimitReader(f, tokenizer.MaxBytes+1)); err == nil {
		t, err = tokenizer.Parse(b)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the tokenizer %s: %w", path, err)
	}
	return t, b, nil
}

// pieces cuts a text where a tokenizer never joins what is on both sides, so that each piece can
// be encoded by itself.
func pieces(f io.Reader, t *tokenizer.Tokenizer, give func(piece string, begins bool) error) error {
	const piece, most = 1 << 20, 64 << 20
	var have []byte
	begins := true
	for room := piece; ; {
		n := len(have)
		have = append(have, make([]byte, room-n)...)
		k, err := io.ReadFull(f, have[n:])
		have = have[:n+k]
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		if err != nil {
			if len(have) == 0 {
				return nil
			}
			return give(string(have), begins)
		}
		text := string(have)
		end, next := t.Cut(text, len(text))
		if end == 0 {
			if room *= 2; room > most {
				return fmt.Errorf("%w: %d bytes of text without a line break between two words, or of a tokenizer that needs the whole text at once", tokenizer.ErrText, len(have))
			}
			continue
		}
		if err := give(text[:end], begins); err != nil {
			return err
		}
		begins, room = false, max(piece, 2*(len(have)-next))
		have = append(have[:0], have[next:]...)
	}
}

// blocks makes rows of block tokens. The targets of a row are the same tokens, one further on.
func (s *Source) blocks(r io.ReaderAt, dtype state.DType, tokens int64, block int, above int64) error {
	rows := (tokens - 1) / int64(block)
	if rows < 1 || block < 1 {
		return fmt.Errorf("%w: %d tokens are too few for a row of %d and its targets", text.ErrFormat, tokens, block)
	}
	if rows > data.MaxRows {
		return fmt.Errorf("%w: %d rows of %d tokens, at most %d rows are read", text.ErrFormat, rows, block, data.MaxRows)
	}
	width := int64(dtype.Size())
	x := &data.Raw{Rows: int(rows), Shape: []int{block}, DType: dtype, R: r, Stride: int64(block) * width}
	y := *x
	y.Off = width
	return s.take([4]*data.Raw{x, &y}, 2*rows*int64(block)*width, above)
}

// keep opens a file that rows are read from until the source is closed.
func (s *Source) keep(path string) (*os.File, int64, error) {
	f, size, err := project.OpenRegular(path, "data file")
	if err == nil {
		s.closers = append(s.closers, f)
	}
	return f, size, err
}

// largeFile reads a file in place if it is too large for memory and of a kind that allows it. It
// reports whether it did.
func (s *Source) largeFile(path, ext string, o Options) (bool, error) {
	info, err := os.Stat(path)
	if err != nil || info.Size() <= o.above() || !info.Mode().IsRegular() {
		return false, nil
	}
	kind := o.Tokens
	switch {
	case ext == ".npz":
		return s.npz(path, o)
	case ext == ".npy" && len(o.Target) == 1:
		return s.arrays([4]string{path, o.Target[0]}, o, s.array)
	case ext == ".safetensors":
		f, size, err := s.keep(path)
		if err != nil {
			return true, err
		}
		st, err := safetensors.Open(f, size)
		if err != nil {
			return true, err
		}
		r, err := project.RawSafetensors(st, nil)
		s.raws = [4]*data.Raw{r.TrainX, r.TrainY, r.ValX, r.ValY}
		return true, err
	case ext == ".bin" && (kind == "" || kind == text.Uint16 || kind == text.Uint32), kind == text.Bytes || kind == "" && (ext == ".txt" || ext == ".text" || ext == ".md"):
		f, size, err := s.keep(path)
		if err != nil {
			return true, err
		}
		dtype := state.U8
		switch {
		case kind == text.Uint32:
			dtype = state.U32
		case ext == ".bin" && kind != text.Bytes:
			dtype = state.U16
		}
		if dtype == state.U8 {
			lead := make([]byte, 2)
			n, _ := f.ReadAt(lead, 0) // where that fails the rest fails, too
			if err := text.Begins(lead[:n]); err != nil {
				return true, err
			}
		}
		if size%int64(dtype.Size()) != 0 {
			return true, fmt.Errorf("%w: %d bytes, tokens of %v have %d each", text.ErrFormat, size, dtype, dtype.Size())
		}
		if err := s.blocks(f, dtype, size/int64(dtype.Size()), o.block(), 0); err != nil {
			return true, err
		}
		if s.Tokens = 256; dtype != state.U8 {
			st, err := s.raws[1].Survey(data.Targets, nil)
			if err != nil {
				return true, err
			}
			s.Tokens = int(st.Most) + 1
		}
		return true, nil
	}
	return false, nil
}

// Raw returns the rows of a data set that is not in memory.
func (s *Source) Raw() (project.RawSet, bool) {
	r := s.raws
	return project.RawSet{TrainX: r[0], TrainY: r[1], ValX: r[2], ValY: r[3]}, r[0] != nil
}

// split sets a share of the rows aside for validation, without reading them.
func (s *Source) split(share float64, seed uint64) error {
	x, y := s.raws[0], s.raws[1]
	if x.Rows != y.Rows {
		return fmt.Errorf("%w: %d rows of inputs, but %d of targets", data.ErrInvalid, x.Rows, y.Rows)
	}
	val, train, err := data.SplitRows(x.Rows, share, seed)
	if err != nil || len(val) == 0 {
		return err
	}
	for i, r := range []*data.Raw{x, y} {
		t, v := *r, *r
		t.Rows, t.Pick, v.Rows, v.Pick = len(train), train, len(val), val
		s.raws[i], s.raws[2+i] = &t, &v
	}
	return nil
}

// Close closes the files that rows are read from.
func (s *Source) Close() error {
	var errs []error
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	s.closers = nil
	return errors.Join(errs...)
}

// TokenizerJSON implements project.Tokenized.
func (s *Source) TokenizerJSON() []byte { return s.Tokenizer }
