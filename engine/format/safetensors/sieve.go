package safetensors

import (
	"cmp"
	"encoding/binary"
	"io"
	"slices"

	"github.com/ravnest/ravnest/engine/state"
)

// Sieve is written a file piece by piece, and keeps some of its tensors and nothing else, so that a
// file may be larger than memory.
type Sieve struct {
	keep  func(name string) bool
	most  int64 // bytes that the tensors kept may take
	size  int64 // of the file
	at    int64 // bytes that have come
	head  []byte
	full  int64   // length of head, with the 8 bytes before it; 0: not known yet
	ahead []Entry // those kept whose elements have not all come, by place
	rest  []byte  // the beginning of an element
	kept  state.Dict
}

// NewSieve returns a sieve for a file of size bytes. What it keeps takes at most so many bytes.
func NewSieve(size int64, keep func(name string) bool, most int64) *Sieve {
	return &Sieve{keep: keep, most: most, size: size}
}

// Write implements io.Writer.
func (s *Sieve) Write(b []byte) (int, error) {
	for n := 0; n < len(b); {
		take := s.element
		if s.full == 0 || s.at < s.full {
			take = s.header
		}
		k, err := take(b[n:])
		if err != nil {
			return n, err
		}
		s.at += int64(k)
		n += k
	}
	return len(b), nil
}

// header takes bytes of the header, at most to its end.
func (s *Sieve) header(b []byte) (int, error) {
	end := s.full
	if end == 0 {
		end = 8
	}
	k := int(min(int64(len(b)), end-s.at))
	s.head = append(s.head, b[:k]...)
	switch {
	case int64(len(s.head)) < end:
		return k, nil
	case s.full == 0:
		n := binary.LittleEndian.Uint64(s.head)
		if n > MaxHeader || int64(n) > s.size-8 {
			return 0, bad("a header of %d bytes in a file of %d, at most %d are read", n, s.size, MaxHeader)
		}
		if s.full = 8 + int64(n); n > 0 {
			return k, nil
		}
	}
	return k, s.open()
}

// open reads the whole header.
func (s *Sieve) open() error {
	var f File
	if err := f.header(s.head[8:], s.size-s.full); err != nil {
		return err
	}
	s.head = nil
	left := s.most
	for _, e := range f.Entries {
		if !s.keep(e.Name) {
			continue
		}
		each := int64(4)
		switch e.DType {
		case state.F32, state.F16, state.BF16:
		case state.I64:
			each = 8
		default:
			return bad("tensor %q has dtype %v; weights are read from F32, F16, BF16 and I64", e.Name, e.DType)
		}
		if left -= each * int64(e.Elems); left < 0 {
			return bad("what is read of it takes more than %d bytes", s.most)
		}
		if e.Elems > 0 {
			s.ahead = append(s.ahead, e)
			continue
		}
		t := state.Tensor{Name: e.Name, Shape: e.Shape}
		t.Grow(e.DType, 0)
		s.kept = append(s.kept, t)
	}
	slices.SortFunc(s.ahead, func(a, b Entry) int { return cmp.Compare(a.begin, b.begin) })
	return nil
}

// element takes bytes behind the header, at most to where a tensor begins or ends.
func (s *Sieve) element(b []byte) (int, error) {
	if len(s.ahead) == 0 {
		return len(b), nil
	}
	e := s.ahead[0]
	if s.at < e.begin {
		return int(min(int64(len(b)), e.begin-s.at)), nil
	}
	if s.at == e.begin {
		t := state.Tensor{Name: e.Name, Shape: e.Shape}
		t.Grow(e.DType, e.Elems)
		s.kept = append(s.kept, t)
	}
	end := e.begin + e.bytes()
	k := int(min(int64(len(b)), end-s.at))
	s.rest = append(s.rest, b[:k]...)
	whole := len(s.rest) / e.DType.Size() * e.DType.Size()
	if err := s.kept[len(s.kept)-1].DecodeChecked(e.DType, s.rest[:whole]); err != nil {
		return 0, err
	}
	s.rest = append(s.rest[:0], s.rest[whole:]...)
	if s.at+int64(k) == end {
		s.ahead = s.ahead[1:]
	}
	return k, nil
}

// Dict returns what was kept, once the whole file has come.
func (s *Sieve) Dict() (state.Dict, error) {
	if s.at != s.size || s.full == 0 || s.at < s.full {
		return nil, bad("%d of %d bytes: %w", s.at, s.size, io.ErrUnexpectedEOF)
	}
	return s.kept, nil
}
