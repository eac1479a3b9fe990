package main

// Line numbers. Go's runtime has tables of the file and line of every instruction, for traces alone:
// a function's offset of 0 says that it has none, and a trace then shows its name with "?" (type
// _func in runtime/runtime2.go, funcline1 in runtime/symtab.go). They are a tenth of what a tab
// fetches, and nobody reads a trace there.

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// errTable is returned for a program without a table of functions of the form that is known here.
var errTable = errors.New("no table of functions that this program knows")

// tableMagic begins the table of functions of Go 1.20 and later, for instructions of one byte and
// pointers of eight, as debug/gosym reads it too.
var tableMagic = []byte{0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8}

// Offsets in the entry of a function, and its size without the tables behind it.
const (
	entrySP, entryFile, entryLine = 16, 20, 24
	entryTables, entryStart       = 28, 36
	entryDatas, entrySize         = 43, 44
)

// funcTable is the program's table of functions.
type funcTable struct {
	b                     []byte
	funcs                 int
	units, tables, points int // where the files of units, the tables by instruction and the functions begin
}

// dropLines overwrites a Go program's tables of lines with zeros.
func dropLines(data []segment) error {
	for _, s := range data {
		for b := s.b; ; b = b[1:] {
			i := bytes.Index(b, tableMagic)
			if i < 0 {
				break
			}
			b = b[i:]
			if t, ok := tableAt(b); ok && t.drop() {
				return nil
			}
		}
	}
	return errTable
}

// tableAt reads the head of a table.
func tableAt(b []byte) (funcTable, bool) {
	const head = 72
	if len(b) < head {
		return funcTable{}, false
	}
	// Functions, files, nothing, then where names, units, files, tables and functions begin.
	var v [8]int
	for i := range v {
		n := binary.LittleEndian.Uint64(b[8+8*i:])
		if n > uint64(len(b)) {
			return funcTable{}, false
		}
		v[i] = int(n)
	}
	for i := 3; i < 7; i++ {
		if v[i] < head || v[i] > v[i+1] {
			return funcTable{}, false
		}
	}
	return funcTable{b, v[0], v[4], v[6], v[7]}, v[0] > 0
}

func (t *funcTable) u32(at int) int { return int(binary.LittleEndian.Uint32(t.b[at:])) }

// entries are where the functions' entries are; nil: the table is none.
func (t *funcTable) entries() []int {
	var all []int
	for k := range t.funcs {
		at := t.points + 8*k + 4
		if at+4 > len(t.b) {
			return nil
		}
		f := t.points + t.u32(at)
		if f+entrySize > len(t.b) || f+entrySize+4*(t.u32(f+entryTables)+int(t.b[f+entryDatas])) > len(t.b) {
			return nil
		}
		all = append(all, f)
	}
	return all
}

// drop overwrites what only traces read. It returns false, and changes nothing, if the table is
// not as expected.
func (t *funcTable) drop() bool {
	entries := t.entries()
	if entries == nil {
		return false
	}
	// Functions share tables with the same bytes, of whatever they are.
	kept := make([]bool, t.points-t.tables)
	var lines [][2]int
	for _, f := range entries {
		at := []int{f + entrySP, f + entryFile, f + entryLine}
		for k := range t.u32(f + entryTables) {
			at = append(at, f+entrySize+4*k)
		}
		for i, a := range at {
			from := t.u32(a)
			if from == 0 {
				continue
			}
			to, ok := t.tableEnd(from)
			if !ok {
				return false
			}
			if i == 1 || i == 2 {
				lines = append(lines, [2]int{from, to})
				continue
			}
			for k := from; k < to; k++ {
				kept[k] = true
			}
		}
	}
	for _, l := range lines {
		for k := l[0]; k < l[1]; k++ {
			if !kept[k] {
				t.b[t.tables+k] = 0
			}
		}
	}
	for _, f := range entries {
		clear(t.b[f+entryFile:][:8])
		clear(t.b[f+entryStart:][:4]) // the function's first line
	}
	clear(t.b[t.units:t.tables]) // names of files
	return true
}

// tableEnd is where a table by instruction ends that begins at an offset: pairs of a difference of
// values and one of instructions, each a number of bytes whose last is below 0x80, up to a
// difference of 0 that is not the first.
func (t *funcTable) tableEnd(from int) (to int, ok bool) {
	b := t.b[t.tables:t.points]
	number := func(at int) int {
		for at < len(b) && b[at] >= 0x80 {
			at++
		}
		return at + 1
	}
	for at := from; at < len(b); {
		if b[at] == 0 && at > from {
			return at + 1, true
		}
		at = number(number(at))
	}
	return 0, false
}
