// A text file with one line for each step of a run. A step that is repeated after a loss
// replaces its line and removes those that follow.

package host

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

type lines struct {
	f    *os.File
	w    *bufio.Writer
	offs []int64 // where each line begins
	end  int64
	err  error
}

// openLines opens a file and keeps its lines.
func openLines(path string) (*lines, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	l := &lines{f: f, w: bufio.NewWriter(f)}
	r := bufio.NewReader(f)
	for {
		b, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = fmt.Errorf("a line has %d bytes or more", len(b))
		}
		if err == io.EOF { // a last line without a newline was written incompletely: drop it
			break
		}
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		l.offs = append(l.offs, l.end)
		l.end += int64(len(b))
	}
	l.cut(int64(len(l.offs)))
	return l, l.err
}

// cut removes the lines from i on.
func (l *lines) cut(i int64) {
	if i < int64(len(l.offs)) {
		l.keep(l.w.Flush())
		l.end, l.offs = l.offs[i], l.offs[:i]
	} else if l.w.Buffered() > 0 {
		return
	}
	l.keep(l.f.Truncate(l.end))
	_, err := l.f.Seek(l.end, io.SeekStart)
	l.keep(err)
	l.w.Reset(l.f)
}

// set writes line i and removes those after it. Missing lines before it become nan.
func (l *lines) set(i int64, text string) {
	if i < 0 {
		return
	}
	if i < int64(len(l.offs)) {
		l.cut(i)
	}
	for int64(len(l.offs)) < i {
		l.add("nan")
	}
	l.add(text)
}

// insert puts a line before line i.
func (l *lines) insert(i int64, text string) {
	if i >= int64(len(l.offs)) {
		l.add(text)
		return
	}
	l.keep(l.w.Flush())
	after := make([]byte, l.end-l.offs[i])
	_, err := l.f.ReadAt(after, l.offs[i])
	l.keep(err)
	l.cut(i)
	l.add(text)
	for s := range strings.Lines(string(after)) {
		l.add(strings.TrimSuffix(s, "\n"))
	}
}

func (l *lines) add(text string) {
	l.offs = append(l.offs, l.end)
	n, err := fmt.Fprintln(l.w, text)
	l.end += int64(n)
	l.keep(err)
}

func (l *lines) keep(err error) {
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("writing %s: %w", l.f.Name(), err)
	}
}

func (l *lines) flush() error {
	l.keep(l.w.Flush())
	return l.err
}

func (l *lines) close() error {
	return errors.Join(l.flush(), l.f.Close())
}
