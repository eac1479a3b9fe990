// A text file with one line for each step of a run. A step that is repeated after a loss
// replaces its line and removes those that follow.

package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

type lines struct {
	file spool
	offs []int64 // where each line begins
	err  error   // of reading the file
}

// openLines opens a file and keeps its lines.
func openLines(path string) (*lines, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	l := &lines{file: spool{f: f, long: true}} // a last line without a newline was written incompletely
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
		l.offs = append(l.offs, l.file.at)
		l.file.at += int64(len(b))
	}
	return l, l.file.flush()
}

// cut removes the lines from i on.
func (l *lines) cut(i int64) {
	if i < int64(len(l.offs)) {
		l.file.cut(l.offs[i])
		l.offs = l.offs[:i]
	}
}

// set writes line i and removes those after it. Missing lines before it become nan.
func (l *lines) set(i int64, text string) {
	if i < 0 {
		return
	}
	l.cut(i)
	for int64(len(l.offs)) < i {
		l.add("nan")
	}
	l.add(text)
}

// largest is the largest number of all lines; NaN: there is none.
func (l *lines) largest() float64 {
	b, err := l.file.from(0)
	if err != nil {
		l.err = err
	}
	most := math.NaN()
	for s := range strings.Lines(string(b)) {
		if v, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil && !(v <= most) && !math.IsNaN(v) {
			most = v
		}
	}
	return most
}

// insert puts a line before line i.
func (l *lines) insert(i int64, text string) {
	if i >= int64(len(l.offs)) {
		l.add(text)
		return
	}
	after, err := l.file.from(l.offs[i])
	if err != nil {
		l.err = err
		return
	}
	l.cut(i)
	l.add(text)
	for s := range strings.Lines(string(after)) {
		l.add(strings.TrimSuffix(s, "\n"))
	}
}

func (l *lines) add(text string) {
	l.offs = append(l.offs, l.file.size())
	_, _ = fmt.Fprintln(&l.file, text)
}

func (l *lines) flush() error { return errors.Join(l.err, l.file.flush()) }

func (l *lines) close() error { return errors.Join(l.err, l.file.close()) }
