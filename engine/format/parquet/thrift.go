// What the metadata of a file say of their own sizes. The library makes room for lists before their
// elements come, and reads structures within structures by calls within calls, so that some bytes
// could take all memory or the stack: they are walked through before.

package parquet

import (
	"encoding/binary"
	"errors"
	"io"
)

// Limits of metadata.
const (
	maxFooter  = 1 << 27 // bytes
	maxDepth   = 32      // of structures within structures; the format's own have 6
	maxStructs = 1 << 20 // in lists, which are columns of groups of rows and what is known of them
)

// The types of Thrift's compact protocol.
const (
	tStop = iota
	tTrue
	tFalse
	tI8
	tI16
	tI32
	tI64
	tDouble
	tBinary
	tList
	tSet
	tMap
	tStruct
	tUUID
)

// errShort tells that a structure goes on behind the bytes that are there.
var errShort = errors.New("it ends within its metadata")

// walker walks through structures of Thrift's compact protocol.
type walker struct {
	b       []byte
	structs int
}

// checkThrift checks the structure at the beginning of b.
func checkThrift(b []byte) error {
	w := walker{b: b}
	return w.structure(0)
}

func (w *walker) skip(n uint64) error {
	if n > uint64(len(w.b)) {
		return errShort
	}
	w.b = w.b[n:]
	return nil
}

func (w *walker) byte() (byte, error) {
	if len(w.b) == 0 {
		return 0, errShort
	}
	c := w.b[0]
	w.b = w.b[1:]
	return c, nil
}

func (w *walker) varint() (uint64, error) {
	v, n := binary.Uvarint(w.b)
	switch {
	case n == 0:
		return 0, errShort
	case n < 0:
		return 0, errors.New("a number of more than 64 bits")
	}
	w.b = w.b[n:]
	return v, nil
}

func (w *walker) structure(depth int) error {
	if depth > maxDepth {
		return errors.New("structures that are nested too deeply")
	}
	for {
		c, err := w.byte()
		if err != nil {
			return err
		}
		t := c & 0xf
		if t == tStop {
			return nil
		}
		if c>>4 == 0 { // the field's number follows
			if _, err := w.varint(); err != nil {
				return err
			}
		}
		if t == tTrue || t == tFalse { // which is all
			continue
		}
		if err := w.value(t, depth); err != nil {
			return err
		}
	}
}

// value walks through a value that is no field's truth value.
func (w *walker) value(t byte, depth int) error {
	switch t {
	case tTrue, tFalse, tI8:
		return w.skip(1)
	case tI16, tI32, tI64:
		_, err := w.varint()
		return err
	case tDouble:
		return w.skip(8)
	case tUUID:
		return w.skip(16)
	case tBinary:
		n, err := w.varint()
		if err != nil {
			return err
		}
		return w.skip(n)
	case tList, tSet:
		c, err := w.byte()
		if err != nil {
			return err
		}
		n := uint64(c >> 4)
		if n == 15 {
			if n, err = w.varint(); err != nil {
				return err
			}
		}
		return w.items(n, depth, c&0xf)
	case tMap:
		n, err := w.varint()
		if err != nil || n == 0 {
			return err
		}
		c, err := w.byte()
		if err != nil {
			return err
		}
		return w.items(n, depth, c>>4, c&0xf)
	case tStruct:
		return w.structure(depth + 1)
	}
	return errors.New("a value of an unknown type")
}

// items walks through n values, or pairs of values, of types.
func (w *walker) items(n uint64, depth int, types ...byte) error {
	if depth >= maxDepth {
		return errors.New("structures that are nested too deeply")
	}
	for range n { // each takes a byte at least
		for _, t := range types {
			if t == tStruct {
				if w.structs++; w.structs > maxStructs {
					return errors.New("more structures than are read")
				}
			}
			if err := w.value(t, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkFooter checks the metadata at the end of a file. What is no file at all the library tells.
func checkFooter(r io.ReaderAt, size int64) error {
	var tail [8]byte
	if size < int64(len(tail)) {
		return nil
	}
	if _, err := r.ReadAt(tail[:], size-int64(len(tail))); err != nil {
		return bad("%w", err)
	}
	n := int64(binary.LittleEndian.Uint32(tail[:]))
	if magic := string(tail[4:]); magic != "PAR1" && magic != "PARE" {
		return nil
	}
	if most := min(maxFooter, size-int64(len(tail))); n > most {
		return bad("metadata of %d bytes, at most %d are read of a file of %d", n, most, size)
	}
	b := make([]byte, n)
	if _, err := r.ReadAt(b, size-int64(len(tail))-n); err != nil {
		return bad("%w", err)
	}
	if err := checkThrift(b); err != nil {
		return bad("its metadata: %w", err)
	}
	return nil
}
