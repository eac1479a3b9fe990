// The pickle machine. A pickle is a program for a stack machine that can call any
// function of any module; this one knows a short list of names, and what it makes of
// them is data: it imports nothing, calls nothing and refuses every other name.

package torchpt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/state"
)

// Limits of the machine. A state dict of state.MaxTensors entries as Python writes it
// takes about 48 operations, 13 memo slots and 250 bytes an entry.
const (
	maxPickle = 32 << 20 // bytes
	maxOps    = 4 << 20
	maxStack  = 4*state.MaxTensors + 1024
	maxMemo   = 16*state.MaxTensors + 1024
	maxGlobal = 256 // bytes of a module's or a function's name
)

// The values of the machine are nil, bool, int64, float64, string, global, tuple, *list,
// *dict, storage, view and mark.
type (
	global  string // "module name"
	tuple   []any
	list    struct{ items []any }
	dict    struct{ items []any } // key, value, key, value, ...
	mark    struct{}
	storage struct { // what a persistent id stands for
		dtype state.DType
		key   string
		numel int
	}
	view struct { // a tensor: a strided window on a storage
		storage       storage
		offset, elems int
		shape, stride []int // in elements
	}
)

const (
	orderedDict      = global("collections OrderedDict")
	rebuildTensor    = global("torch._utils _rebuild_tensor_v2")
	rebuildParameter = global("torch._utils _rebuild_parameter")
)

var storages = map[global]state.DType{
	"torch FloatStorage":    state.F32,
	"torch LongStorage":     state.I64,
	"torch HalfStorage":     state.F16,
	"torch BFloat16Storage": state.BF16,
	"torch DoubleStorage":   state.F64,
	"torch IntStorage":      state.I32,
	"torch ShortStorage":    state.I16,
	"torch CharStorage":     state.I8,
	"torch ByteStorage":     state.U8,
	"torch BoolStorage":     state.Bool,
}

// machine runs one pickle.
type machine struct {
	in    []byte // what is left
	stack []any
	marks []int // places of the marks on the stack
	memo  map[uint32]any
}

// unpickle runs a pickle to its end and returns the value that it leaves.
func unpickle(in []byte) (any, error) {
	if len(in) > maxPickle {
		return nil, bad("a pickle of %d bytes, at most %d are read", len(in), maxPickle)
	}
	m := &machine{in: in, memo: map[uint32]any{}}
	if len(in) < 2 || in[0] != 0x80 {
		return nil, bad("the pickle does not begin with its protocol")
	}
	for range maxOps {
		at := len(in) - len(m.in)
		op, err := m.take(1)
		if err != nil {
			return nil, err
		}
		if op[0] == '.' {
			return m.pop()
		}
		if err := m.step(op[0]); err != nil {
			return nil, fmt.Errorf("pickle, byte %d: %w", at, err)
		}
		if len(m.stack) > maxStack {
			return nil, bad("the pickle's stack grows beyond %d values", maxStack)
		}
	}
	return nil, bad("the pickle takes more than %d operations", maxOps)
}

func (m *machine) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		b, err := m.take(1)
		if err == nil && (b[0] < 2 || b[0] > 5) {
			err = bad("protocol %d; torch.save writes protocol 2", b[0])
		}
		return err
	case '(':
		m.marks = append(m.marks, len(m.stack))
		m.push(mark{})
	case 'N':
		m.push(nil)
	case 0x88, 0x89:
		m.push(op == 0x88)
	case ')':
		m.push(tuple(nil))
	case ']':
		m.push(&list{})
	case '}':
		m.push(&dict{})
	case 'K', 'M', 'J', 0x8a, 'G', 'X':
		return m.literal(op)
	case 'c':
		return m.global()
	case 'q', 'r', 'h', 'j':
		return m.memoize(op)
	case 0x85, 0x86, 0x87: // TUPLE1, 2, 3
		n := int(op-0x85) + 1
		v, err := m.popN(n)
		if err == nil {
			m.push(tuple(v))
		}
		return err
	case 't':
		v, err := m.popMark()
		if err == nil {
			m.push(tuple(v))
		}
		return err
	case 'a', 'e': // APPEND, APPENDS
		v, err := m.popItems(op == 'a', 1)
		if err != nil {
			return err
		}
		l, ok := m.top().(*list)
		if !ok {
			return bad("appends to a %s", kind(m.top()))
		}
		l.items = append(l.items, v...)
	case 's', 'u': // SETITEM, SETITEMS
		v, err := m.popItems(op == 's', 2)
		if err != nil {
			return err
		}
		d, ok := m.top().(*dict)
		if !ok || len(v)%2 != 0 {
			return bad("sets items of a %s from %d values", kind(m.top()), len(v))
		}
		d.items = append(d.items, v...)
	case 'b': // BUILD: the attributes of an OrderedDict (_metadata) carry no weights
		if _, err := m.pop(); err != nil {
			return err
		}
		if _, ok := m.top().(*dict); !ok {
			return bad("sets attributes of a %s", kind(m.top()))
		}
	case 'Q':
		return m.persistent()
	case 'R':
		return m.reduce()
	default:
		return bad("operation %#02x, which a state dict does not need", op)
	}
	return nil
}

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

// top is the last value, nil where there is none.
func (m *machine) top() any {
	if len(m.stack) == 0 {
		return nil
	}
	return m.stack[len(m.stack)-1]
}

// popN takes the last n values, above any mark.
func (m *machine) popN(n int) ([]any, error) {
	floor := 0
	if len(m.marks) > 0 {
		floor = m.marks[len(m.marks)-1] + 1
	}
	at := len(m.stack) - n
	if at < floor {
		return nil, bad("the pickle takes a value that is not there")
	}
	v := append([]any(nil), m.stack[at:]...)
	m.stack = m.stack[:at]
	return v, nil
}

func (m *machine) pop() (any, error) {
	v, err := m.popN(1)
	if err != nil {
		return nil, err
	}
	return v[0], nil
}

// popMark takes the values down to the last mark, and the mark.
func (m *machine) popMark() ([]any, error) {
	if len(m.marks) == 0 {
		return nil, bad("the pickle looks for a mark that is not there")
	}
	at := m.marks[len(m.marks)-1]
	v := append([]any(nil), m.stack[at+1:]...)
	m.stack, m.marks = m.stack[:at], m.marks[:len(m.marks)-1]
	return v, nil
}

// popItems takes n values or, where not one, those down to the mark.
func (m *machine) popItems(one bool, n int) ([]any, error) {
	if one {
		return m.popN(n)
	}
	return m.popMark()
}

// take reads n bytes of the program.
func (m *machine) take(n int) ([]byte, error) {
	if n > len(m.in) {
		return nil, bad("the pickle is cut short")
	}
	b := m.in[:n]
	m.in = m.in[n:]
	return b, nil
}

func (m *machine) literal(op byte) error {
	n := map[byte]int{'K': 1, 'M': 2, 'J': 4, 0x8a: 1, 'G': 8, 'X': 4}[op]
	b, err := m.take(n)
	if err != nil {
		return err
	}
	switch op {
	case 'K':
		m.push(int64(b[0]))
	case 'M':
		m.push(int64(binary.LittleEndian.Uint16(b)))
	case 'J':
		m.push(int64(int32(binary.LittleEndian.Uint32(b))))
	case 'G':
		m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 0x8a: // LONG1: two's complement, little-endian
		if b[0] > 8 {
			return bad("an integer of %d bytes", b[0])
		}
		if b, err = m.take(int(b[0])); err != nil {
			return err
		}
		v := int64(0)
		for i := len(b) - 1; i >= 0; i-- {
			if i == len(b)-1 {
				v = int64(int8(b[i]))
			} else {
				v = v<<8 | int64(b[i])
			}
		}
		m.push(v)
	case 'X':
		size := binary.LittleEndian.Uint32(b)
		if int64(size) > int64(len(m.in)) {
			return bad("the pickle is cut short")
		}
		if b, err = m.take(int(size)); err != nil {
			return err
		}
		if !utf8.Valid(b) {
			return bad("a string is not UTF-8")
		}
		m.push(string(b))
	}
	return nil
}

// global reads two lines, a module and a name, and lets pass what a state dict needs.
func (m *machine) global() error {
	var line [2]string
	for i := range line {
		n := bytes.IndexByte(m.in[:min(len(m.in), maxGlobal+1)], '\n')
		if n < 0 {
			return bad("a global's name is cut short or longer than %d bytes", maxGlobal)
		}
		line[i], m.in = string(m.in[:n]), m.in[n+1:]
	}
	g := global(line[0] + " " + line[1])
	if _, ok := storages[g]; !ok && g != orderedDict && g != rebuildTensor && g != rebuildParameter {
		return bad("it refers to %q, which a state dict does not need; save model.state_dict() itself", line[0]+"."+line[1])
	}
	m.push(g)
	return nil
}

func (m *machine) memoize(op byte) error {
	n := 1
	if op == 'r' || op == 'j' {
		n = 4
	}
	b, err := m.take(n)
	if err != nil {
		return err
	}
	i := uint32(b[0])
	if n == 4 {
		i = binary.LittleEndian.Uint32(b)
	}
	if op == 'h' || op == 'j' {
		v, ok := m.memo[i]
		if !ok {
			return bad("memo slot %d is empty", i)
		}
		m.push(v)
		return nil
	}
	if _, isMark := m.top().(mark); isMark || len(m.stack) == 0 {
		return bad("the pickle memoizes a value that is not there")
	}
	if m.memo[i] = m.top(); len(m.memo) > maxMemo {
		return bad("the pickle's memo grows beyond %d values", maxMemo)
	}
	return nil
}

// persistent turns ('storage', torch.FloatStorage, key, location, numel) into a storage.
func (m *machine) persistent() error {
	v, err := m.pop()
	if err != nil {
		return err
	}
	id, _ := v.(tuple)
	if len(id) != 5 || id[0] != any("storage") {
		return bad("a persistent id that is not a storage's: %s", kind(v))
	}
	g, _ := id[1].(global)
	key, ok := id[2].(string)
	numel, okN := id[4].(int64)
	dtype, okT := storages[g]
	if !ok || !okN || !okT || numel < 0 || numel > state.MaxElems {
		return bad("a storage of type %s with key %s and size %s", kind(id[1]), kind(id[2]), kind(id[4]))
	}
	m.push(storage{dtype, key, int(numel)})
	return nil
}

// reduce stands for the call of a global with a tuple of arguments.
func (m *machine) reduce() error {
	v, err := m.popN(2)
	if err != nil {
		return err
	}
	g, ok := v[0].(global)
	args, okA := v[1].(tuple)
	if !ok || !okA {
		return bad("it calls a %s with a %s", kind(v[0]), kind(v[1]))
	}
	switch {
	case g == orderedDict && len(args) == 0:
		m.push(&dict{})
		return nil
	case g == rebuildParameter && len(args) == 3: // tensor, requires_grad, hooks
		if t, ok := args[0].(view); ok {
			m.push(t)
			return nil
		}
	case g == rebuildTensor && len(args) == 6: // storage, offset, size, stride, requires_grad, hooks
		t, err := newView(args)
		if err == nil {
			m.push(t)
		}
		return err
	}
	return bad("it calls %q with %d arguments that do not fit", string(g), len(args))
}

// newView checks that every element of a tensor lies inside its storage.
func newView(args tuple) (view, error) {
	s, ok := args[0].(storage)
	offset, okO := args[1].(int64)
	size, okS := ints(args[2])
	stride, okT := ints(args[3])
	if !ok || !okO || !okS || !okT || len(size) != len(stride) {
		return view{}, bad("a tensor made of storage %s, offset %s, size %s, stride %s", kind(args[0]), kind(args[1]), kind(args[2]), kind(args[3]))
	}
	n, err := state.Elems(size)
	if err != nil {
		return view{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if n > 0 {
		last, end := offset, int64(s.numel)-1 // of the elements
		fits := offset >= 0 && offset <= end
		for i, d := range size {
			if fits = fits && stride[i] >= 0; fits && d > 1 {
				if fits = int64(stride[i]) <= (end-last)/int64(d-1); fits {
					last += int64(d-1) * int64(stride[i])
				}
			}
		}
		if !fits {
			return view{}, bad("a tensor of size %v, stride %v and offset %d reaches outside its storage of %d elements", size, stride, offset, s.numel)
		}
	}
	return view{storage: s, offset: int(offset), elems: n, shape: size, stride: stride}, nil
}

// ints reads a tuple of integers, at most state.MaxRank+1 of them.
func ints(v any) ([]int, bool) {
	t, ok := v.(tuple)
	if !ok || len(t) > state.MaxRank+1 {
		return nil, false
	}
	out := make([]int, len(t))
	for i, x := range t {
		n, ok := x.(int64)
		if !ok || int64(int(n)) != n {
			return nil, false
		}
		out[i] = int(n)
	}
	return out, true
}

// kind names a value for an error.
func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case global:
		return fmt.Sprintf("%q", string(v))
	case tuple:
		return fmt.Sprintf("tuple of %d", len(v))
	case *list:
		return "list"
	case *dict:
		return "dict"
	case storage:
		return "storage"
	case view:
		return "tensor"
	case mark:
		return "mark"
	case string:
		return fmt.Sprintf("%.40q", v)
	default:
		return fmt.Sprint(v) // bool, int64, float64
	}
}
