package main

import (
	"bytes"
	"errors"
	"fmt"
)

// MaxPages is the number of pages that the memory may grow to: 4 GiB, the format's limit.
const MaxPages = 65536

// Sections of a module that are used here (WebAssembly core specification, 5.5).
const (
	sectionImport    = 2
	sectionMemory    = 5
	sectionData      = 11
	sectionDataCount = 12
)

// errModule is wrapped by every error about the input.
var errModule = errors.New("not a module that this program can rewrite")

// reader reads a module's numbers.
type reader struct {
	b  []byte
	at int
}

// u32 reads an unsigned LEB128 number.
func (r *reader) u32() (uint32, error) {
	var v uint64
	for shift := 0; shift < 35; shift += 7 {
		if r.at >= len(r.b) {
			return 0, fmt.Errorf("%w: it ends inside a number at byte %d", errModule, r.at)
		}
		c := r.b[r.at]
		r.at++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if v > 1<<32-1 {
				break
			}
			return uint32(v), nil
		}
	}
	return 0, fmt.Errorf("%w: a number before byte %d is too large", errModule, r.at)
}

// bytes returns the next n bytes.
func (r *reader) bytes(n uint32) ([]byte, error) {
	if uint64(n) > uint64(len(r.b)-r.at) {
		return nil, fmt.Errorf("%w: %d bytes are announced at byte %d, %d are left", errModule, n, r.at, len(r.b)-r.at)
	}
	b := r.b[r.at:][:n]
	r.at += int(n)
	return b, nil
}

func appendU32(b []byte, v uint32) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

type section struct {
	id   byte
	body []byte
}

// split reads a module's sections.
func split(b []byte) ([]section, error) {
	if !bytes.HasPrefix(b, []byte("\x00asm\x01\x00\x00\x00")) {
		return nil, fmt.Errorf("%w: it does not begin like a WebAssembly 1 module", errModule)
	}
	var ss []section
	for r := (reader{b, 8}); r.at < len(b); {
		id, err := r.bytes(1)
		if err != nil {
			return nil, err
		}
		n, err := r.u32()
		if err != nil {
			return nil, err
		}
		body, err := r.bytes(n)
		if err != nil {
			return nil, err
		}
		ss = append(ss, section{id[0], body})
	}
	return ss, nil
}

// minimum returns the initial number of pages of a memory section's one memory.
func minimum(body []byte) (uint32, error) {
	r := reader{body, 0}
	if n, err := r.u32(); err != nil {
		return 0, err
	} else if n != 1 {
		return 0, fmt.Errorf("%w: it has %d memories, want one", errModule, n)
	}
	if _, err := r.bytes(1); err != nil { // flags
		return 0, err
	}
	pages, err := r.u32()
	if err == nil && pages > MaxPages {
		err = fmt.Errorf("%w: its memory begins with %d pages, but at most %d are possible", errModule, pages, MaxPages)
	}
	return pages, err
}

// Import returns the module b with its memory replaced by the import env.memory, with at least
// the pages that it had and at most MaxPages, shared or not. b must define one memory and have
// imports.
func Import(b []byte, shared bool) ([]byte, error) {
	ss, err := split(b)
	if err != nil {
		return nil, err
	}
	pages, found, imports := uint32(0), false, false
	for _, s := range ss {
		switch s.id {
		case sectionMemory:
			if found {
				return nil, fmt.Errorf("%w: it has two memory sections", errModule)
			}
			found = true
			if pages, err = minimum(s.body); err != nil {
				return nil, err
			}
		case sectionImport:
			imports = true
		}
	}
	if !found || !imports {
		return nil, fmt.Errorf("%w: it has no memory of its own or no imports", errModule)
	}
	flags := byte(1) // has a maximum
	if shared {
		flags = 3
	}
	memory := append([]byte("\x03env\x06memory\x02"), flags)
	memory = appendU32(appendU32(memory, pages), MaxPages)
	out := bytes.Clone(b[:8])
	for _, s := range ss {
		body := s.body
		switch s.id {
		case sectionMemory:
			continue
		case sectionImport:
			r := reader{body, 0}
			n, err := r.u32()
			if err != nil {
				return nil, err
			}
			if n == 1<<32-1 {
				return nil, fmt.Errorf("%w: it has too many imports", errModule)
			}
			body = append(append(appendU32(nil, n+1), body[r.at:]...), memory...)
		}
		out = append(appendU32(append(out, s.id), uint32(len(body))), body...)
	}
	return out, nil
}
