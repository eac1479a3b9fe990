// Package console is where a command writes its messages: lines, and on a terminal a last row
// that is drawn again and again.
package console

import (
	"fmt"
	"io"
	"sync"
)

// Console takes messages from any number of goroutines. A nil one is silent.
type Console struct {
	mu      sync.Mutex
	w       io.Writer
	rewrite bool       // w is a terminal
	columns func() int // its width; nil: not known
	drawn   bool       // the last row is one that Draw has written
}

// New returns a console that only adds lines to w.
func New(w io.Writer) *Console { return &Console{w: w} }

// Terminal returns a console on a terminal, whose width columns returns, 0 if it is not known.
func Terminal(w io.Writer, columns func() int) *Console {
	return &Console{w: w, rewrite: true, columns: columns}
}

// Redraws tells whether a line of Draw replaces the one before it.
func (c *Console) Redraws() bool { return c != nil && c.rewrite }

// Say writes a line, plain.
func (c *Console) Say(format string, a ...any) {
	if c == nil {
		return
	}
	fmt.Fprintln(c, Plain(fmt.Sprintf(format, a...)))
}

// Write implements io.Writer. It writes below what was drawn.
func (c *Console) Write(b []byte) (int, error) {
	if c == nil {
		return len(b), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
	return c.w.Write(b)
}

// Draw writes a line that the next one replaces on a terminal.
func (c *Console) Draw(line string) {
	if c == nil {
		return
	}
	line = Plain(line)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.rewrite {
		fmt.Fprintln(c.w, line)
		return
	}
	if c.columns != nil {
		line = fit(line, c.columns())
	}
	fmt.Fprintf(c.w, "\r\x1b[K%s", line)
	c.drawn = true
}

// Leave has what is written next begin below what was drawn.
func (c *Console) Leave() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leave()
}

func (c *Console) leave() {
	if c.drawn {
		fmt.Fprintln(c.w)
		c.drawn = false
	}
}

// fit shortens a line to less than the terminal's width, so that it does not wrap: only the last
// row of a wrapped line would be replaced by the next one.
func fit(line string, columns int) string {
	letters := []rune(line)
	if columns <= 0 || len(letters) < columns {
		return line
	}
	return string(letters[:columns-1])
}
