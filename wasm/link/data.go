package main

// Segments of data. Go's linker leaves zeros out where more than eight of them stand in a row, which
// makes as many segments as browsers take. A page is sent compressed, where zeros cost next to
// nothing and the address and length of each segment do not: with the zeros put back there are few
// segments, and a twentieth less to fetch.

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// Compact returns the module b with its data in few segments, and without the tables of lines of a
// Go program unless lines is set. The error is errTable if these are not where Go puts them.
func Compact(b []byte, lines bool) ([]byte, error) {
	ss, err := split(b)
	if err != nil {
		return nil, err
	}
	var data []segment
	for _, s := range ss {
		if s.id != sectionData {
			continue
		}
		if data, err = segments(s.body); err != nil {
			return nil, err
		}
		data = merged(data)
	}
	if !lines {
		if err := dropLines(data); err != nil {
			return nil, err
		}
	}
	out := bytes.Clone(b[:8])
	for _, s := range ss {
		switch s.id {
		case sectionData:
			s.body = appendSegments(nil, data)
		case sectionDataCount:
			s.body = appendU32(nil, uint32(len(data)))
		}
		out = append(appendU32(append(out, s.id), uint32(len(s.body))), s.body...)
	}
	return out, nil
}

// maxGap is the longest run of zeros that is put back.
const maxGap = 4096

// segment is bytes that a module's memory begins with.
type segment struct {
	at uint32
	b  []byte
}

// segments reads a data section, and returns its segments by address. All must be of memory 0, at
// constant addresses, and none may lie over another.
func segments(body []byte) ([]segment, error) {
	r := reader{body, 0}
	n, err := r.u32()
	if err != nil {
		return nil, err
	}
	var ss []segment
	for k := range n {
		head, err := r.bytes(2) // active, i32.const
		if err != nil {
			return nil, err
		}
		if head[0] != 0 || head[1] != 0x41 {
			return nil, fmt.Errorf("%w: segment %d of its data has no constant address", errModule, k)
		}
		at, err := r.i32()
		if err != nil {
			return nil, err
		}
		if end, err := r.bytes(1); err != nil {
			return nil, err
		} else if end[0] != 0x0b {
			return nil, fmt.Errorf("%w: segment %d of its data has no constant address", errModule, k)
		}
		size, err := r.u32()
		if err != nil {
			return nil, err
		}
		b, err := r.bytes(size)
		if err != nil {
			return nil, err
		}
		ss = append(ss, segment{uint32(at), b})
	}
	if r.at != len(body) {
		return nil, fmt.Errorf("%w: its data go on behind their segments", errModule)
	}
	slices.SortStableFunc(ss, func(a, b segment) int { return cmp.Compare(a.at, b.at) })
	for k := 1; k < len(ss); k++ {
		if uint64(ss[k].at) < ss[k-1].end() {
			return nil, fmt.Errorf("%w: two segments of its data lie at %d", errModule, ss[k].at)
		}
	}
	return ss, nil
}

func (s segment) end() uint64 { return uint64(s.at) + uint64(len(s.b)) }

// merged joins segments between which there are few zeros.
func merged(ss []segment) []segment {
	var out []segment
	for _, s := range ss {
		if n := len(out); n > 0 && uint64(s.at)-out[n-1].end() <= maxGap {
			last := &out[n-1]
			last.b = append(append(last.b, make([]byte, uint64(s.at)-last.end())...), s.b...)
			continue
		}
		out = append(out, segment{s.at, append([]byte(nil), s.b...)})
	}
	return out
}

// appendSegments writes a data section.
func appendSegments(b []byte, ss []segment) []byte {
	b = appendU32(b, uint32(len(ss)))
	for _, s := range ss {
		b = append(appendI32(append(b, 0, 0x41), int32(s.at)), 0x0b)
		b = append(appendU32(b, uint32(len(s.b))), s.b...)
	}
	return b
}

// i32 reads a signed LEB128 number.
func (r *reader) i32() (int32, error) {
	var v int64
	for shift := 0; shift < 35; shift += 7 {
		if r.at >= len(r.b) {
			return 0, fmt.Errorf("%w: it ends inside a number at byte %d", errModule, r.at)
		}
		c := r.b[r.at]
		r.at++
		v |= int64(c&0x7f) << shift
		if c < 0x80 {
			if c&0x40 != 0 {
				v -= 1 << (shift + 7)
			}
			if v != int64(int32(v)) {
				break
			}
			return int32(v), nil
		}
	}
	return 0, fmt.Errorf("%w: a number before byte %d is too large", errModule, r.at)
}

func appendI32(b []byte, v int32) []byte {
	for {
		c := byte(v) & 0x7f
		if v >>= 7; v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}
