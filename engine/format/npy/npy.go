// Package npy reads NumPy's files: .npy, one array, and .npz, a zip of them.
//
// A .npy file is a magic, the length of a header, the header (a Python dict literal that
// gives the type, the order of the axes and the shape) and the elements. Only such literals
// are read: nothing in a file is evaluated, and arrays of objects, which NumPy pickles, are
// refused by name.
package npy

import (
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/state"
)

// ErrFormat is wrapped by every error that says a file is not what the format allows.
var ErrFormat = errors.New("invalid npy file")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Limits of a file.
const (
	maxHeader = 64 << 10
	maxArrays = 1024
)

// dtypes are NumPy's types without their byte order.
var dtypes = map[string]state.DType{
	"b1": state.Bool, "u1": state.U8, "u2": state.U16, "u4": state.U32, "u8": state.U64,
	"i1": state.I8, "i2": state.I16, "i4": state.I32, "i8": state.I64, "f2": state.F16, "f4": state.F32, "f8": state.F64,
}

// ErrOrder is wrapped where the elements of an array do not lie as rows of little-endian numbers:
// only Read, which holds all of them in memory, puts them in order.
var ErrOrder = errors.New("its elements are not in the order of rows, or big-endian")

// Rows reads the head of one array of size bytes and returns where its rows are, in r.
func Rows(r io.ReaderAt, size int64) (*data.Raw, error) {
	s := io.NewSectionReader(r, 0, size)
	h, err := header(s)
	if err != nil {
		return nil, err
	}
	if len(h.shape) == 0 {
		return nil, bad("a scalar has no rows")
	}
	if h.big || h.fortran && len(h.shape) > 1 {
		return nil, ErrOrder
	}
	off, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, bad("%w", err)
	}
	n, err := state.Elems(h.shape)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if have, want := size-off, int64(n)*int64(h.dtype.Size()); have < want {
		return nil, bad("%d bytes of elements, its shape %v wants %d", have, h.shape, want)
	}
	return &data.Raw{Rows: h.shape[0], Shape: h.shape[1:], DType: h.dtype, R: r, Off: off}, nil
}

// Read reads one array as a table of rows.
func Read(r io.Reader) (*data.Table, error) {
	h, err := header(r)
	if err != nil {
		return nil, err
	}
	shape := h.shape
	if len(shape) == 0 {
		return nil, bad("a scalar has no rows")
	}
	if h.big {
		r = &swapper{r: r, size: h.dtype.Size()}
	}
	if !h.fortran || len(shape) == 1 {
		return data.ReadTable(data.Inputs, h.dtype, shape, r)
	}
	// The first axis runs fastest: it is an array in the usual order with the axes reversed.
	back := make([]int, len(shape))
	for i, d := range shape {
		back[len(shape)-1-i] = d
	}
	t, err := data.ReadTable(data.Inputs, h.dtype, back, r)
	if err != nil {
		return nil, err
	}
	n := t.Rows
	for _, d := range t.Shape {
		n *= d
	}
	t.U8, t.U16, t.F32, t.I32 = reorder(t.U8, shape, n), reorder(t.U16, shape, n), reorder(t.F32, shape, n), reorder(t.I32, shape, n)
	t.Rows, t.Shape = shape[0], shape[1:]
	return t, nil
}

// reorder puts n elements whose first axis runs fastest into the order in which the last
// does.
func reorder[T any](v []T, shape []int, n int) []T {
	if v == nil {
		return nil
	}
	out, at := make([]T, n), make([]int, len(shape))
	for i := range out {
		from, stride := 0, 1
		for k, d := range shape {
			from += at[k] * stride
			stride *= d
		}
		out[i] = v[from]
		for k := len(shape) - 1; k >= 0; k-- {
			if at[k]++; at[k] < shape[k] {
				break
			}
			at[k] = 0
		}
	}
	return out
}

type head struct {
	dtype        state.DType
	big, fortran bool
	shape        []int
}

func header(r io.Reader) (head, error) {
	var lead [8]byte
	if _, err := io.ReadFull(r, lead[:]); err != nil || string(lead[:6]) != "\x93NUMPY" {
		return head{}, bad("it does not begin as one")
	}
	size := 2
	switch lead[6] {
	case 1:
	case 2, 3:
		size = 4
	default:
		return head{}, bad("version %d, versions 1 to 3 are read", lead[6])
	}
	var raw [4]byte
	if _, err := io.ReadFull(r, raw[:size]); err != nil {
		return head{}, bad("header: %w", err)
	}
	n := binary.LittleEndian.Uint32(raw[:])
	if n > maxHeader {
		return head{}, bad("a header of %d bytes, at most %d are read", n, maxHeader)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return head{}, bad("header: %w", err)
	}
	return parse(string(text))
}

// parse reads a dict literal like {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }.
func parse(text string) (head, error) {
	var h head
	seen := map[string]bool{}
	rest := strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(rest, "{")
	if !ok {
		return h, bad("the header %.60q is not a dict", text)
	}
	for {
		rest = strings.TrimLeft(rest, " ,\n")
		if end, ok := strings.CutPrefix(rest, "}"); ok {
			if strings.TrimSpace(end) != "" || len(seen) != 3 {
				return h, bad("the header %.120q lacks something or goes on", text)
			}
			return h, nil
		}
		key, after, ok := quoted(rest)
		after, colon := strings.CutPrefix(strings.TrimSpace(after), ":")
		if !ok || !colon || seen[key] {
			return h, bad("the header %.120q is not a dict of three", text)
		}
		seen[key] = true
		after = strings.TrimSpace(after)
		var err error
		switch key {
		case "descr":
			after, err = h.descr(after)
		case "fortran_order":
			if after, ok = strings.CutPrefix(after, "True"); ok {
				h.fortran = true
			} else if after, ok = strings.CutPrefix(after, "False"); !ok {
				err = bad("fortran_order is neither True nor False")
			}
		case "shape":
			after, err = h.axes(after)
		default:
			err = bad("unknown key %.40q in the header", key)
		}
		if err != nil {
			return h, err
		}
		rest = after
	}
}

// quoted cuts a string in quotes off s.
func quoted(s string) (text, rest string, ok bool) {
	if s == "" || s[0] != '\'' && s[0] != '"' {
		return "", s, false
	}
	text, rest, ok = strings.Cut(s[1:], s[:1])
	return text, rest, ok && !strings.Contains(text, "\\")
}

func (h *head) descr(s string) (string, error) {
	text, rest, ok := quoted(s)
	if !ok {
		return "", bad("its elements are records: give one array for each field")
	}
	order, kind := byte('='), text
	if text != "" && strings.IndexByte("<>|=", text[0]) >= 0 {
		order, kind = text[0], text[1:]
	}
	if h.dtype, ok = dtypes[kind]; !ok {
		why := ""
		switch {
		case strings.HasPrefix(kind, "O"):
			why = ": objects are pickles, which are never read; save numbers"
		case strings.HasPrefix(kind, "c"):
			why = ": numbers must be real"
		case strings.HasPrefix(kind, "U") || strings.HasPrefix(kind, "S"):
			why = ": texts are not read; save their numbers, as numpy.unique(y, return_inverse=True) gives them"
		}
		return "", bad("elements of type %.20q are not read%s", text, why)
	}
	h.big = order == '>' && h.dtype.Size() > 1
	return rest, nil
}

func (h *head) axes(s string) (string, error) {
	s, open := strings.CutPrefix(s, "(")
	inner, rest, ok := strings.Cut(s, ")")
	if !ok || !open {
		return "", bad("the shape is not a tuple")
	}
	h.shape = []int{}
	for part := range strings.SplitSeq(inner, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		d, err := strconv.Atoi(strings.TrimSuffix(part, "L")) // Python 2
		if err != nil || d < 0 || len(h.shape) == state.MaxRank {
			return "", bad("the shape (%.60s) is not one", inner)
		}
		h.shape = append(h.shape, d)
	}
	if _, err := state.Elems(h.shape); err != nil {
		return "", fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return rest, nil
}

// swapper reverses the bytes of elements.
type swapper struct {
	r    io.Reader
	size int
}

func (s *swapper) Read(p []byte) (int, error) {
	if len(p) < s.size {
		return 0, io.ErrShortBuffer
	}
	n, err := io.ReadFull(s.r, p[:len(p)/s.size*s.size])
	for i := 0; i+s.size <= n; i += s.size {
		for a, b := i, i+s.size-1; a < b; a, b = a+1, b-1 {
			p[a], p[b] = p[b], p[a]
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
		if n%s.size != 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// Zip lists the arrays of a .npz file of size bytes, by their names without .npy.
func Zip(r io.ReaderAt, size int64) (map[string]*zip.File, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, bad("%w", err)
	}
	if len(z.File) > maxArrays {
		return nil, bad("%d arrays, at most %d are read", len(z.File), maxArrays)
	}
	m := map[string]*zip.File{}
	for _, f := range z.File {
		name, ok := strings.CutSuffix(f.Name, ".npy")
		if !ok || m[name] != nil {
			return nil, bad("entry %.80q is not an array, or stands twice", f.Name)
		}
		m[name] = f
	}
	return m, nil
}

// ReadZip reads the arrays of a .npz file of size bytes, by their names without .npy.
func ReadZip(r io.ReaderAt, size int64) (map[string]*data.Table, error) {
	files, err := Zip(r, size)
	if err != nil {
		return nil, err
	}
	m, room := map[string]*data.Table{}, int64(4*data.MaxBytes)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h, err := files[name].Open()
		if err != nil {
			return nil, bad("array %.80q: %w", name, err)
		}
		t, err := Read(h)
		_ = h.Close()
		if err != nil {
			return nil, fmt.Errorf("array %.80q: %w", name, err)
		}
		if room -= int64(t.Bytes()); room < 0 {
			return nil, bad("its arrays are larger than %d bytes together", int64(4*data.MaxBytes))
		}
		m[name] = t
	}
	return m, nil
}
