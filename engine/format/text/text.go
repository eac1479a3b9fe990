// Package text makes rows of tokens of texts and of files of token numbers: rows of a block's
// length, each target the token that follows.
package text

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/data"
)

// ErrFormat is wrapped by every error about what a file holds.
var ErrFormat = errors.New("invalid text")

// How a file becomes tokens.
const (
	Bytes      = "bytes"      // each byte is one of 256
	Characters = "characters" // each character of UTF-8 is one of those that occur, sorted
	Uint16     = "uint16"     // the file is numbers of tokens, little-endian
	Uint32     = "uint32"
)

// Kinds lists how a file can become tokens.
var Kinds = []string{Bytes, Characters, Uint16, Uint32}

// maxTokens bounds a file: as many as a table of int32 may hold.
const maxTokens = data.MaxBytes / 4

// Read reads r to its end as tokens of a kind and cuts them into rows of block: x [rows, block],
// and y the same one token later, as classes. What remains at the end fills no row and is left
// out. vocabulary is the characters in the order of their numbers, nil for other kinds.
func Read(r io.Reader, kind string, block int) (x, y *data.Table, vocabulary []string, err error) {
	if block < 1 || block > data.MaxElems {
		return nil, nil, nil, fmt.Errorf("%w: a block of %d tokens", ErrFormat, block)
	}
	width := map[string]int{Bytes: 1, Characters: 1, Uint16: 2, Uint32: 4}[kind]
	if width == 0 {
		return nil, nil, nil, fmt.Errorf("%w: tokens of kind %.40q, want one of %v", ErrFormat, kind, Kinds)
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxTokens*int64(width)+1))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(raw) > maxTokens*width {
		return nil, nil, nil, fmt.Errorf("%w: more than %d tokens", ErrFormat, maxTokens)
	}
	n := len(raw) / width
	if len(raw)%width != 0 {
		return nil, nil, nil, fmt.Errorf("%w: %d bytes, tokens of %s have %d each", ErrFormat, len(raw), kind, width)
	}
	if width == 1 {
		if err := Begins(raw); err != nil {
			return nil, nil, nil, err
		}
	}
	if kind == Characters {
		n = utf8.RuneCount(raw)
	}
	rows := (n - 1) / block
	if n < 2 || rows < 1 {
		return nil, nil, nil, fmt.Errorf("%w: %d tokens are too few for a row of %d and its targets", ErrFormat, n, block)
	}
	x = &data.Table{Kind: data.Inputs, Rows: rows, Shape: []int{block}}
	y = &data.Table{Kind: data.Targets, Rows: rows, Shape: []int{block}}
	used := rows * block
	if kind == Bytes {
		x.U8, y.U8 = raw[:used:used], raw[1:][:used:used]
		return x, y, nil, nil
	}
	if kind == Uint16 {
		ids := make([]uint16, n)
		for i := range ids {
			ids[i] = binary.LittleEndian.Uint16(raw[2*i:])
		}
		x.U16, y.U16 = ids[:used:used], ids[1:][:used:used]
		return x, y, nil, nil
	}
	var ids []int32
	if kind == Characters {
		if !utf8.Valid(raw) {
			return nil, nil, nil, fmt.Errorf("%w: it is not UTF-8: take it as %s", ErrFormat, Bytes)
		}
		ids, vocabulary = characters(string(raw), n)
	} else if ids, err = numbers(raw, n); err != nil {
		return nil, nil, nil, err
	}
	x.I32, y.I32 = ids[:used:used], ids[1:][:used:used]
	return x, y, vocabulary, nil
}

// Begins is an error about the beginning of a text that is UTF-16.
func Begins(b []byte) error {
	if bytes.HasPrefix(b, []byte("\xff\xfe")) || bytes.HasPrefix(b, []byte("\xfe\xff")) {
		return fmt.Errorf("%w: it is UTF-16: save it as UTF-8", ErrFormat)
	}
	return nil
}

func characters(s string, n int) ([]int32, []string) {
	id := map[rune]int32{}
	for _, c := range s {
		id[c] = 0
	}
	order := make([]rune, 0, len(id))
	for c := range id {
		order = append(order, c)
	}
	slices.Sort(order)
	var names []string
	for i, c := range order {
		id[c] = int32(i)
		names = append(names, string(c))
	}
	ids := make([]int32, 0, n)
	for _, c := range s {
		ids = append(ids, id[c])
	}
	return ids, names
}

func numbers(raw []byte, n int) ([]int32, error) {
	const exact = 1 << 24 // tokens travel as float32
	ids := make([]int32, n)
	for i := range ids {
		v := binary.LittleEndian.Uint32(raw[4*i:])
		if v > exact {
			return nil, fmt.Errorf("%w: token %d is %d, the greatest is %d", ErrFormat, i, v, exact)
		}
		ids[i] = int32(v)
	}
	return ids, nil
}
