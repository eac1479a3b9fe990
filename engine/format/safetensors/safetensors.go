// Package safetensors reads and writes state dicts in the safetensors format.
//
// The format: the length of a JSON header (8 bytes, little-endian), the header, and the
// elements of all tensors without a gap. The header maps each name to dtype, shape and
// data_offsets [begin, end) into what follows it; the entry "__metadata__" maps strings
// to strings. Nothing in it is code.
//
// Bytes are deterministic: entries stand in the dict's order, the header is padded with
// spaces to a multiple of 8, and int64 elements come before float32 ones (as the
// reference orders them), so that every element lies aligned to its size.
package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/state"
)

// MaxHeader bounds the header. The reference allows 100 MB; 65,536 tensors with names
// of a usual length need a tenth of this.
const MaxHeader = 16 << 20

const metaKey = "__metadata__"

// ErrFormat is wrapped by every error that says a file is not what the format allows.
var ErrFormat = errors.New("invalid safetensors file")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Entry is one tensor of a file.
type Entry struct {
	Name  string
	DType state.DType
	Shape []int
	Elems int

	begin int64 // in the file
}

// File is an open file: its directory, checked, and a way to its elements.
type File struct {
	Entries []Entry // in the header's order
	Meta    map[string]string
	r       io.ReaderAt
}

// Open reads and checks the header of a file of size bytes. Every element type that
// state.DType has is accepted, others are refused by name.
func Open(r io.ReaderAt, size int64) (*File, error) {
	var lead [8]byte
	if size < 8 {
		return nil, bad("%d bytes, shorter than the length of its header", size)
	}
	if err := readAt(r, lead[:], 0); err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	n := binary.LittleEndian.Uint64(lead[:])
	if n > MaxHeader {
		return nil, bad("a header of %d bytes, at most %d are read", n, MaxHeader)
	}
	if int64(n) > size-8 {
		return nil, bad("a header of %d bytes in a file of %d: it is cut short", n, size)
	}
	head := make([]byte, n)
	if err := readAt(r, head, 8); err != nil {
		return nil, fmt.Errorf("safetensors header: %w", err)
	}
	f := &File{r: r}
	if err := f.header(head, size-8-int64(n)); err != nil {
		return nil, err
	}
	return f, nil
}

// Head reads and checks the header of a file of size bytes from its beginning, and no more: what the
// file holds is known then, and its elements are behind in r. The file has no way to them.
func Head(r io.Reader, size int64) (*File, error) {
	var lead [8]byte
	if _, err := io.ReadFull(r, lead[:]); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	n := binary.LittleEndian.Uint64(lead[:])
	if n > MaxHeader || int64(n) > size-8 {
		return nil, bad("a header of %d bytes in a file of %d, at most %d are read", n, size, MaxHeader)
	}
	head := make([]byte, n)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrFormat, err)
	}
	f := &File{}
	return f, f.header(head, size-8-int64(n))
}

// header decodes and checks the directory of a file with data bytes of elements.
func (f *File) header(head []byte, data int64) error {
	if !utf8.Valid(head) {
		return bad("the header is not UTF-8")
	}
	if len(head) == 0 || head[0] != '{' {
		return bad("the header does not begin with {")
	}
	d := json.NewDecoder(bytes.NewReader(head))
	d.DisallowUnknownFields()
	if _, err := d.Token(); err != nil {
		return bad("header: %w", err)
	}
	seen := map[string]bool{}
	for d.More() {
		tok, err := d.Token()
		if err != nil {
			return bad("header: %w", err)
		}
		name, _ := tok.(string) // the decoder allows no other key
		if seen[name] {
			return bad("%q occurs twice", name)
		}
		seen[name] = true
		if name == metaKey {
			if err := d.Decode(&f.Meta); err != nil {
				return bad("%s: %w", metaKey, err)
			}
			continue
		}
		if len(f.Entries) == state.MaxTensors {
			return bad("more than %d tensors", state.MaxTensors)
		}
		e, err := entry(d, name, data)
		if err != nil {
			return err
		}
		f.Entries = append(f.Entries, e)
	}
	if _, err := d.Token(); err != nil {
		return bad("header: %w", err)
	}
	if len(bytes.Trim(head[d.InputOffset():], " ")) > 0 {
		return bad("the header goes on after its JSON value")
	}
	// In the order of the data each tensor must begin where the last one ends.
	byData := make([]*Entry, len(f.Entries))
	for i := range f.Entries {
		byData[i] = &f.Entries[i]
	}
	slices.SortStableFunc(byData, func(a, b *Entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.Elems, b.Elems))
	})
	end := int64(0)
	for _, e := range byData {
		if e.begin != end {
			return bad("tensor %q begins at byte %d of the data, the one before it ends at %d", e.Name, e.begin, end)
		}
		end += e.bytes()
		e.begin += 8 + int64(len(head))
	}
	if end != data {
		return bad("the tensors take %d bytes of data, the file has %d", end, data)
	}
	return nil
}

// unread says why types that other writers emit are not read.
var unread = map[string]string{
	"C64":     ": numbers must be real",
	"F4":      ": elements must fill bytes",
	"F6_E2M3": ": elements must fill bytes",
	"F6_E3M2": ": elements must fill bytes",
}

// entry decodes the value of one name.
func entry(d *json.Decoder, name string, data int64) (Entry, error) {
	if err := state.CheckName(name); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	var v struct {
		DType   *string `json:"dtype"`
		Shape   []int   `json:"shape"`
		Offsets []int64 `json:"data_offsets"`
	}
	if err := d.Decode(&v); err != nil {
		return Entry{}, bad("tensor %q: %w", name, err)
	}
	if v.DType == nil || v.Shape == nil || len(v.Offsets) != 2 {
		return Entry{}, bad("tensor %q needs dtype, shape and two data_offsets", name)
	}
	e := Entry{Name: name, Shape: v.Shape, begin: v.Offsets[0]}
	var ok bool
	if e.DType, ok = state.ParseDType(*v.DType); !ok {
		return Entry{}, bad("tensor %q has dtype %.40q, which is not read here%s", name, *v.DType, unread[*v.DType])
	}
	var err error
	if e.Elems, err = state.Elems(v.Shape); err != nil {
		return Entry{}, fmt.Errorf("%w: tensor %q: %w", ErrFormat, name, err)
	}
	begin, end := v.Offsets[0], v.Offsets[1]
	if begin < 0 || end < begin || end > data {
		return Entry{}, bad("tensor %q: offsets [%d, %d) are outside the data of %d bytes", name, begin, end, data)
	}
	if end-begin != e.bytes() {
		return Entry{}, bad("tensor %q: %d bytes between its offsets, shape %v of %v has %d", name, end-begin, v.Shape, e.DType, e.bytes())
	}
	return e, nil
}

// Elements is the bytes of all elements, which are all that follows the header.
func (f *File) Elements() (n int64) {
	for i := range f.Entries {
		n += f.Entries[i].bytes()
	}
	return n
}

func (e *Entry) bytes() int64 { return int64(e.Elems) * int64(e.DType.Size()) }

// Get finds an entry by name.
func (f *File) Get(name string) (Entry, bool) {
	for _, e := range f.Entries {
		if e.Name == name {
			return e, true
		}
	}
	return Entry{}, false
}

// Raw reads the little-endian elements of e as they stand in the file.
func (f *File) Raw(e Entry) *io.SectionReader { return io.NewSectionReader(f.r, e.begin, e.bytes()) }

// Tensor reads e, converting its elements to float32 or int64 as state.DType says.
func (f *File) Tensor(e Entry) (state.Tensor, error) {
	t := state.Tensor{Name: e.Name, Shape: e.Shape}
	t.Grow(e.DType, e.Elems)
	buf := make([]byte, min(1<<16, e.bytes()))
	for off, end := e.begin, e.begin+e.bytes(); off < end; off += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end-off)]
		if err := readAt(f.r, buf, off); err != nil {
			return state.Tensor{}, fmt.Errorf("safetensors: tensor %q: %w", e.Name, err)
		}
		if err := t.DecodeChecked(e.DType, buf); err != nil {
			return state.Tensor{}, fmt.Errorf("safetensors: tensor %q: %w", e.Name, err)
		}
	}
	return t, nil
}

// Read reads a state dict in the header's order, and the file's metadata (nil where
// there is none). F32 and I64 are read as they are, F16 and BF16 widened to float32;
// other types, which a state dict cannot hold exactly as they are, are refused.
func Read(r io.ReaderAt, size int64) (state.Dict, map[string]string, error) {
	f, err := Open(r, size)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range f.Entries {
		switch e.DType {
		case state.F32, state.I64, state.F16, state.BF16:
		default:
			return nil, nil, bad("tensor %q has dtype %v; weights are read from F32, F16, BF16 and I64", e.Name, e.DType)
		}
	}
	d := make(state.Dict, len(f.Entries))
	for i, e := range f.Entries {
		if d[i], err = f.Tensor(e); err != nil {
			return nil, nil, err
		}
	}
	return d, f.Meta, nil
}

// Parse is Read from memory.
func Parse(b []byte) (state.Dict, map[string]string, error) {
	return Read(bytes.NewReader(b), int64(len(b)))
}

// readAt fills p from off. A short read is an error, whatever the reader calls it.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	if n, err := r.ReadAt(p, off); n < len(p) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}

// Write writes d, which Validate must accept, with its metadata (nil for none).
func Write(w io.Writer, d state.Dict, meta map[string]string) error {
	if err := d.Validate(); err != nil {
		return err
	}
	var head bytes.Buffer
	head.Write(make([]byte, 8))
	head.WriteByte('{')
	sep := func() {
		if head.Len() > 9 {
			head.WriteByte(',')
		}
	}
	if len(meta) > 0 {
		head.WriteString(quote(metaKey) + ":{")
		for i, k := range slices.Sorted(maps.Keys(meta)) {
			if !utf8.ValidString(k) || !utf8.ValidString(meta[k]) {
				return bad("metadata %q is not UTF-8", k)
			}
			if i > 0 {
				head.WriteByte(',')
			}
			head.WriteString(quote(k) + ":" + quote(meta[k]))
		}
		head.WriteByte('}')
	}
	ints := 0
	for _, t := range d {
		ints += 8 * len(t.I64)
	}
	offI, offF := 0, ints
	for _, t := range d {
		if t.Name == metaKey {
			return bad("a tensor cannot be named %s", metaKey)
		}
		sep()
		dtype, begin, end := "F32", offF, offF+4*len(t.F32)
		if t.F32 == nil {
			dtype, begin, end = "I64", offI, offI+8*len(t.I64)
			offI = end
		} else {
			offF = end
		}
		fmt.Fprintf(&head, `%s:{"dtype":%q,"shape":[`, quote(t.Name), dtype)
		for i, n := range t.Shape {
			if i > 0 {
				head.WriteByte(',')
			}
			fmt.Fprint(&head, n)
		}
		fmt.Fprintf(&head, `],"data_offsets":[%d,%d]}`, begin, end)
	}
	head.WriteByte('}')
	for head.Len()%8 != 0 {
		head.WriteByte(' ')
	}
	n := head.Len() - 8
	if n > MaxHeader {
		return bad("the header would be %d bytes, at most %d are read back", n, MaxHeader)
	}
	binary.LittleEndian.PutUint64(head.Bytes(), uint64(n))
	if _, err := w.Write(head.Bytes()); err != nil {
		return err
	}
	buf := make([]byte, 0, 1<<16)
	for _, ints := range []bool{true, false} {
		for _, t := range d {
			if (t.I64 != nil) != ints {
				continue
			}
			if err := t.WriteData(w, buf); err != nil {
				return err
			}
		}
	}
	return nil
}

// quote is s as a JSON string, with nothing escaped that need not be.
func quote(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string always encodes
	}
	return string(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
}
