// Package idx reads the files of MNIST and its successors: a magic that gives the type and
// the number of axes, the axes, and the elements, all of it big-endian.
package idx

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/state"
)

// ErrFormat is wrapped by every error that says a file is not what the format allows.
var ErrFormat = errors.New("invalid IDX file")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

var dtypes = map[byte]state.DType{0x08: state.U8, 0x09: state.I8, 0x0b: state.I16, 0x0c: state.I32, 0x0d: state.F32, 0x0e: state.F64}

// Read reads a file, also one that gzip has compressed, as a table of rows. What follows the
// elements is an error.
func Read(r io.Reader) (t *data.Table, err error) {
	err = Each(r, func(dtype state.DType, shape []int, elems io.Reader) (err error) {
		if t, err = data.ReadTable(data.Inputs, dtype, shape, elems); err != nil {
			err = fmt.Errorf("%w: %w", ErrFormat, err)
		}
		return err
	})
	return t, err
}

// Each reads a file, also one that gzip has compressed, and calls read with its elements, which
// are little-endian. read must take all of them; what follows is an error.
func Each(r io.Reader, read func(dtype state.DType, shape []int, elems io.Reader) error) error {
	b := bufio.NewReaderSize(r, 1<<16)
	if lead, err := b.Peek(2); err == nil && lead[0] == 0x1f && lead[1] == 0x8b {
		z, err := gzip.NewReader(b)
		if err != nil {
			return bad("%w", err)
		}
		b = bufio.NewReaderSize(z, 1<<16)
	}
	var lead [4]byte
	if _, err := io.ReadFull(b, lead[:]); err != nil {
		return bad("%w", err)
	}
	dtype, ok := dtypes[lead[2]]
	if lead[0] != 0 || lead[1] != 0 || !ok || lead[3] == 0 || int(lead[3]) > state.MaxRank {
		return bad("it begins with % x, which is no type and number of axes", lead)
	}
	shape := make([]int, lead[3])
	for i := range shape {
		var d [4]byte
		if _, err := io.ReadFull(b, d[:]); err != nil {
			return bad("%w", err)
		}
		shape[i] = int(binary.BigEndian.Uint32(d[:]))
	}
	if _, err := state.Elems(shape); err != nil {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if err := read(dtype, shape, &swapper{b, dtype.Size()}); err != nil {
		return err
	}
	if _, err := b.ReadByte(); err != io.EOF {
		return bad("it goes on behind its %v elements", shape)
	}
	return nil
}

// swapper reverses the bytes of elements.
type swapper struct {
	r    io.Reader
	size int
}

func (s *swapper) Read(p []byte) (int, error) {
	n, err := io.ReadFull(s.r, p[:len(p)/s.size*s.size])
	for i := 0; i+s.size <= n; i += s.size {
		for a, b := i, i+s.size-1; a < b; a, b = a+1, b-1 {
			p[a], p[b] = p[b], p[a]
		}
	}
	return n, err
}
