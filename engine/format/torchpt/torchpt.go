// Package torchpt reads and writes state dicts in the form of torch.save: a zip archive
// of a pickle and the bytes of the tensors. No code of a file is ever executed.
//
// Layout of an archive, all entries stored and not compressed, their data at multiples
// of 64 bytes:
//
//	archive/data.pkl    pickle, protocol 2: OrderedDict of name -> _rebuild_tensor_v2(
//	                    ('storage', torch.FloatStorage, N, 'cpu', numel), offset, size, stride, ...)
//	archive/byteorder   "little"
//	archive/data/N      the elements of storage N
//	archive/version     "3\n"
//
// The folder's name is free, byteorder may be missing (PyTorch before 2.1).
package torchpt

import (
	"archive/zip"
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/state"
)

// ErrFormat is wrapped by every error that says a file is not a state dict as
// torch.save writes it.
var ErrFormat = errors.New("invalid PyTorch file")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

const (
	maxEntries = state.MaxTensors + 64
	alignment  = 64
)

// Read reads the state dict of a file of size bytes, in its order. Floating types become
// float32 (exactly, but for float64, which is rounded), integers and bool int64. Tensors
// may be views with any offset and stride, and may share a storage. Where the file holds a
// dict with an entry state_dict, model_state_dict or model that is a dict, that is read.
func Read(r io.ReaderAt, size int64) (state.Dict, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, bad("not a zip archive as PyTorch 1.6 and later write it (%w)", err)
	}
	if len(z.File) > maxEntries {
		return nil, bad("%d zip entries, at most %d are read", len(z.File), maxEntries)
	}
	a := &archive{files: make(map[string]*zip.File, len(z.File)), size: size}
	dir := ""
	for _, f := range z.File {
		if a.files[f.Name] != nil {
			return nil, bad("zip entry %q occurs twice", f.Name)
		}
		a.files[f.Name] = f
		if d, ok := strings.CutSuffix(f.Name, "/data.pkl"); ok && !strings.Contains(d, "/") {
			if dir != "" {
				return nil, bad("it holds two pickles, %s and %s", dir, f.Name)
			}
			dir = d + "/"
		}
	}
	if dir == "" {
		return nil, bad("it holds no data.pkl")
	}
	if a.files[dir+"byteorder"] != nil {
		b, err := a.read(dir+"byteorder", 16)
		if err != nil {
			return nil, err
		}
		if string(b) != "little" {
			return nil, bad("byte order %q; only little-endian files are read", b)
		}
	}
	p, err := a.read(dir+"data.pkl", maxPickle)
	if err != nil {
		return nil, err
	}
	root, err := unpickle(p)
	if err != nil {
		return nil, err
	}
	return a.dict(root, dir+"data/")
}

// Parse is Read from memory.
func Parse(b []byte) (state.Dict, error) { return Read(bytes.NewReader(b), int64(len(b))) }

type archive struct {
	files map[string]*zip.File
	size  int64 // of the whole file
	taken int64 // bytes read of entries
}

// read reads one entry of at most limit bytes.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	f := a.files[name]
	if f == nil {
		return nil, bad("zip entry %q is missing", name)
	}
	n := f.UncompressedSize64
	if f.Method != zip.Store || f.CompressedSize64 != n {
		return nil, bad("zip entry %q is compressed, which torch.save never does", name)
	}
	// Entries that do not overlap are together no longer than the file.
	if n > uint64(limit) || n > uint64(a.size-a.taken) {
		return nil, bad("zip entry %q says it has %d bytes, more than fit", name, n)
	}
	a.taken += int64(n)
	r, err := f.Open()
	if err != nil {
		return nil, bad("zip entry %q: %w", name, err)
	}
	b := make([]byte, n)
	if _, err = io.ReadFull(r, b); err == nil {
		// One more read, so that the checksum is compared.
		var more [1]byte
		if _, err = io.ReadFull(r, more[:]); err == io.EOF {
			err = nil
		} else if err == nil {
			err = errors.New("longer than it says")
		}
	}
	if err = errors.Join(err, r.Close()); err != nil {
		return nil, bad("zip entry %q: %w", name, err)
	}
	return b, nil
}

// dict materializes the tensors of the pickle's value.
func (a *archive) dict(root any, prefix string) (state.Dict, error) {
	top, ok := root.(*dict)
	if !ok {
		return nil, bad("it holds a %s, not a state dict", kind(root))
	}
	top = inner(top)
	n := len(top.items) / 2
	if n > state.MaxTensors {
		return nil, bad("%d tensors, at most %d are supported", n, state.MaxTensors)
	}
	// A view can repeat the elements of its storage. What all tensors take in
	// memory is bounded by the file: eightfold is uint8 widened to int64.
	left := 16*a.size + 1<<20
	uses := map[string]int{} // tensors that still need a storage
	for i := 0; i < len(top.items); i += 2 {
		name, ok := top.items[i].(string)
		v, okV := top.items[i+1].(view)
		if !ok {
			return nil, bad("the name of an entry is %s, not a text; save model.state_dict() itself", kind(top.items[i]))
		}
		if !okV {
			return nil, bad("entry %s is a %s, not a tensor; save model.state_dict() itself", kind(top.items[i]), kind(top.items[i+1]))
		}
		size := int64(8)
		if v.storage.dtype.Float() {
			size = 4
		}
		if int64(v.elems) > left/size {
			return nil, bad("tensor %q has %d elements by repeating those of its storage, too many for a file of %d bytes", name, v.elems, a.size)
		}
		left -= int64(v.elems) * size
		uses[v.storage.key]++
	}
	d := make(state.Dict, 0, n)
	raw := map[string][]byte{}
	for i := 0; i < len(top.items); i += 2 {
		name, v := top.items[i].(string), top.items[i+1].(view)
		key := v.storage.key
		b, ok := raw[key]
		if !ok {
			var err error
			if b, err = a.read(prefix+key, a.size); err != nil {
				return nil, fmt.Errorf("tensor %q: %w", name, err)
			}
			raw[key] = b
		}
		if want := int64(v.storage.numel) * int64(v.storage.dtype.Size()); int64(len(b)) != want {
			return nil, bad("tensor %q: its storage has %d bytes, %d %v elements have %d", name, len(b), v.storage.numel, v.storage.dtype, want)
		}
		if uses[key]--; uses[key] == 0 {
			delete(raw, key)
		}
		d = append(d, v.tensor(name, b))
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return d, nil
}

// inner is the state dict in a checkpoint of a training run, which has it beside the epoch or
// the optimizer's state, or top where it is none.
func inner(top *dict) *dict {
	for _, key := range []string{"state_dict", "model_state_dict", "model"} {
		for i := 0; i+1 < len(top.items); i += 2 {
			if d, ok := top.items[i+1].(*dict); ok && top.items[i] == key {
				return d
			}
		}
	}
	return top
}

// tensor copies the elements of a view from the bytes of its storage.
func (v view) tensor(name string, raw []byte) state.Tensor {
	t := state.Tensor{Name: name, Shape: v.shape}
	dt := v.storage.dtype
	t.Grow(dt, v.elems)
	if v.elems == 0 {
		return t
	}
	// Trailing axes that lie densely are copied as one run.
	run, axes := 1, len(v.shape)
	for axes > 0 && (v.shape[axes-1] == 1 || v.stride[axes-1] == run) {
		axes--
		run *= v.shape[axes]
	}
	at := make([]int, axes)
	for off := v.offset; ; {
		t.Decode(dt, raw[off*dt.Size():(off+run)*dt.Size()])
		k := axes - 1
		for ; k >= 0; k-- {
			if at[k]++; at[k] < v.shape[k] {
				off += v.stride[k]
				break
			}
			off -= (at[k] - 1) * v.stride[k]
			at[k] = 0
		}
		if k < 0 {
			return t
		}
	}
}

// Write writes d, which Validate must accept, as torch.save(OrderedDict(...)) does:
// data.pkl is the same in every byte. torch.load(weights_only=True) reads it.
func Write(w io.Writer, d state.Dict) error {
	if err := d.Validate(); err != nil {
		return err
	}
	p := pickle(d)
	if len(p) > maxPickle {
		return bad("the pickle would be %d bytes, at most %d are read back", len(p), maxPickle)
	}
	out := bufio.NewWriterSize(w, 1<<16)
	z := zip.NewWriter(out)
	pos := int64(0) // in the file, of the next entry
	entry := func(name string, size int64, write func(io.Writer) error) error {
		name = "archive/" + name
		// torch pads with an extra field "FB" of Z's.
		begin := pos + 30 + int64(len(name)) + 4
		pad := (alignment - begin%alignment) % alignment
		extra := binary.LittleEndian.AppendUint16([]byte("FB"), uint16(pad))
		extra = append(extra, bytes.Repeat([]byte("Z"), int(pad))...)
		e, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store, Extra: extra})
		if err != nil {
			return err
		}
		pos = begin + pad + size + 16 // the data descriptor
		if size >= 1<<32-1 {
			pos += 8
		}
		return write(e)
	}
	text := func(name, s string) error {
		return entry(name, int64(len(s)), func(w io.Writer) error {
			_, err := io.WriteString(w, s)
			return err
		})
	}
	if err := text("data.pkl", string(p)); err != nil {
		return err
	}
	if err := text("byteorder", "little"); err != nil {
		return err
	}
	buf := make([]byte, 0, 1<<16)
	for i, t := range d {
		size := int64(4*len(t.F32) + 8*len(t.I64))
		if err := entry("data/"+strconv.Itoa(i), size, func(w io.Writer) error { return t.WriteData(w, buf) }); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
	}
	if err := text("version", "3\n"); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return out.Flush()
}

// pickler writes protocol 2 as CPython's pickler does.
type pickler struct {
	out  []byte
	memo uint32
	seen map[string]uint32 // memo slots of globals and of strings that recur
}

// pickle is data.pkl of d.
func pickle(d state.Dict) []byte {
	p := &pickler{seen: map[string]uint32{}}
	p.op(0x80, 2)
	p.ordered()
	for i, t := range d {
		// Items come in batches of 1000; one item alone is set without a mark.
		first, left := i%1000 == 0, len(d)-i
		if first && left > 1 {
			p.op('(')
		}
		p.str(t.Name)
		p.put()
		p.tensor(t, i)
		switch {
		case first && left == 1:
			p.op('s')
		case left == 1 || i%1000 == 999:
			p.op('u')
		}
	}
	p.op('.')
	return p.out
}

func (p *pickler) tensor(t state.Tensor, key int) {
	p.global(rebuildTensor)
	p.op('(', '(')
	p.recur("storage")
	if t.F32 != nil {
		p.global("torch FloatStorage")
	} else {
		p.global("torch LongStorage")
	}
	p.str(strconv.Itoa(key))
	p.put()
	p.recur("cpu")
	p.int(t.Len())
	p.op('t')
	p.put()
	p.op('Q')
	p.int(0)
	p.ints(t.Shape)
	stride := make([]int, len(t.Shape))
	for i, n := len(stride)-1, 1; i >= 0; i-- {
		stride[i] = n
		n *= max(t.Shape[i], 1)
	}
	p.ints(stride)
	p.op(0x89)
	p.ordered()
	p.op('t')
	p.put()
	p.op('R')
	p.put()
}

func (p *pickler) op(b ...byte) { p.out = append(p.out, b...) }

// ordered writes an empty OrderedDict.
func (p *pickler) ordered() {
	p.global(orderedDict)
	p.op(')', 'R')
	p.put()
}

// put memoizes the last value.
func (p *pickler) put() {
	p.slot('q', 'r', p.memo)
	p.memo++
}

func (p *pickler) slot(short, long byte, i uint32) {
	if i < 256 {
		p.op(short, byte(i))
	} else {
		p.op(long)
		p.out = binary.LittleEndian.AppendUint32(p.out, i)
	}
}

// again writes what has been memoized under name, or says that nothing has and that the
// next put will.
func (p *pickler) again(name string) bool {
	i, ok := p.seen[name]
	if ok {
		p.slot('h', 'j', i)
	} else {
		p.seen[name] = p.memo
	}
	return ok
}

func (p *pickler) global(g global) {
	if !p.again(string(g)) {
		p.op('c')
		p.out = append(p.out, strings.Replace(string(g), " ", "\n", 1)+"\n"...)
		p.put()
	}
}

// recur writes a string that Python holds as one object.
func (p *pickler) recur(s string) {
	if !p.again(s) {
		p.str(s)
		p.put()
	}
}

func (p *pickler) str(s string) {
	p.op('X')
	p.out = binary.LittleEndian.AppendUint32(p.out, uint32(len(s)))
	p.out = append(p.out, s...)
}

// int writes a number that is not negative.
func (p *pickler) int(v int) {
	switch {
	case v < 1<<8:
		p.op('K', byte(v))
	case v < 1<<16:
		p.op('M', byte(v), byte(v>>8))
	case v < 1<<31:
		p.op('J', byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	default: // LONG1, as short as the sign allows
		b := binary.LittleEndian.AppendUint64(nil, uint64(v))
		n := 8
		for n > 1 && b[n-1] == 0 && b[n-2] < 0x80 {
			n--
		}
		p.op(0x8a, byte(n))
		p.op(b[:n]...)
	}
}

func (p *pickler) ints(v []int) {
	if len(v) == 0 { // the empty tuple is never memoized
		p.op(')')
		return
	}
	if len(v) > 3 {
		p.op('(')
	}
	for _, x := range v {
		p.int(x)
	}
	p.op([]byte{0, 0x85, 0x86, 0x87, 't', 't', 't', 't', 't'}[len(v)])
	p.put()
}
