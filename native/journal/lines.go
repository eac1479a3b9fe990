// A text file with one line for each step of a run. A step that is repeated after a loss
// replaces its line and removes those that follow.

package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

// manyLines is how many lines' places are known at least: a run that goes further back reads the file
// once. A run of millions of steps would else hold the places of all of them.
const manyLines = 1 << 14

type lines struct {
	file  spool
	n     int64   // lines that there are
	offs  []int64 // where the last ones begin
	least int     // manyLines, but in tests
	err   error   // of reading the file
}

// openLines opens a file and keeps its lines.
func openLines(path string) (*lines, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	l := &lines{file: spool{f: f, long: true}, least: manyLines} // a last line without a newline was written incompletely
	r := bufio.NewReader(f)
	for {
		b, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = fmt.Errorf("a line has %d bytes or more", len(b))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		l.note(l.file.at)
		l.file.at += int64(len(b))
	}
	return l, l.file.flush()
}

// note adds a line that begins at a place.
func (l *lines) note(at int64) {
	if len(l.offs) >= 2*l.least {
		l.offs = append(l.offs[:0], l.offs[l.least:]...)
	}
	l.offs = append(l.offs, at)
	l.n++
}

// known is the first line whose place is known.
func (l *lines) known() int64 { return l.n - int64(len(l.offs)) }

// at is where line i begins, and true; false: there is no such line, or the file cannot be read.
func (l *lines) at(i int64) (off int64, ok bool) {
	switch {
	case i >= l.n:
		return 0, false
	case i >= l.known():
		return l.offs[i-l.known()], true
	}
	err := l.each(func(k, at int64, _ []byte) bool {
		off = at
		return k < i
	})
	return off, err == nil
}

// each calls f for every line from the first on, with its number and place, until it returns false.
func (l *lines) each(f func(i, at int64, line []byte) bool) error {
	r := bufio.NewReader(io.MultiReader(io.NewSectionReader(l.file.f, 0, l.file.at), bytes.NewReader(l.file.left)))
	var at int64
	for i := range l.n {
		b, err := r.ReadSlice('\n')
		if err != nil {
			l.err = fmt.Errorf("reading %s: %w", l.file.f.Name(), err)
			return l.err
		}
		if !f(i, at, b) {
			break
		}
		at += int64(len(b))
	}
	return nil
}

// cut removes the lines from i on.
func (l *lines) cut(i int64) {
	off, ok := l.at(i)
	if !ok {
		return
	}
	l.file.cut(off)
	l.offs = l.offs[:max(i-l.known(), 0)]
	l.n = i
}

// set writes line i and removes those after it. Missing lines before it become nan.
func (l *lines) set(i int64, text string) {
	if i < 0 {
		return
	}
	l.cut(i)
	for l.n < i {
		l.add("nan")
	}
	l.add(text)
}

// largest is the largest number of all lines; NaN: there is none.
func (l *lines) largest() float64 {
	most := math.NaN()
	_ = l.each(func(_, _ int64, line []byte) bool {
		if v, err := strconv.ParseFloat(string(bytes.TrimSpace(line)), 64); err == nil && !(v <= most) && !math.IsNaN(v) {
			most = v
		}
		return true
	})
	return most
}

// insert puts a line before line i, in place of the n lines from there on.
func (l *lines) insert(i, n int64, text string) {
	var after []byte
	if off, ok := l.at(i + n); ok {
		var err error
		if after, err = l.file.from(off); err != nil {
			l.err = err
			return
		}
	}
	l.cut(i)
	l.add(text)
	for s := range strings.Lines(string(after)) {
		l.add(strings.TrimSuffix(s, "\n"))
	}
}

func (l *lines) add(text string) {
	l.note(l.file.size())
	_, _ = fmt.Fprintln(&l.file, text)
}

func (l *lines) flush() error { return errors.Join(l.err, l.file.flush()) }

func (l *lines) close() error { return errors.Join(l.err, l.file.close()) }
