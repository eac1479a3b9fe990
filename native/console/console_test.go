package console

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestFit checks that a line that is drawn is shortened to less than the terminal's width.
func TestFit(t *testing.T) {
	for _, c := range []struct {
		columns int
		want    string
	}{{0, "é 1/2 loss"}, {11, "é 1/2 loss"}, {10, "é 1/2 los"}, {2, "é"}, {1, ""}} {
		if got := fit("é 1/2 loss", c.columns); got != c.want {
			t.Errorf("%d columns: %q, want %q", c.columns, got, c.want)
		}
	}
}

// TestDraw: what is said stands below what was drawn, and is never drawn over; where nothing can be
// drawn over, all are lines.
func TestDraw(t *testing.T) {
	for terminal, want := range map[bool]string{
		true:  "\r\x1b[Kone\r\x1b[Ktw\nsaid\nmore\r\x1b[Kthr\n",
		false: "one\ntwo\nsaid\nmorethree\n",
	} {
		var out bytes.Buffer
		c := New(&out)
		width := 10
		if terminal {
			c = Terminal(&out, func() int { return width })
		}
		c.Draw("one")
		width = 3
		c.Draw("two")
		c.Say("%s", "said")
		fmt.Fprint(c, "more")
		width = 4
		c.Draw("three")
		c.Leave()
		c.Leave()
		if got := out.String(); got != want || c.Redraws() != terminal {
			t.Errorf("terminal %v: %q, want %q", terminal, got, want)
		}
	}
	var silent *Console
	silent.Say("nothing")
	silent.Draw("nothing")
	silent.Leave()
	if silent.Redraws() {
		t.Error("a console that is not there redraws")
	}
}

// TestTogether: lines of several goroutines stay whole.
func TestTogether(t *testing.T) {
	var out bytes.Buffer
	c := Terminal(&out, nil)
	var wg sync.WaitGroup
	for k := range 4 {
		wg.Go(func() {
			for range 50 {
				c.Say("%s", strings.Repeat(fmt.Sprint(k), 20))
				c.Draw("x")
			}
		})
	}
	wg.Wait()
	lines := 0
	for l := range strings.Lines(out.String()) {
		l = strings.TrimSuffix(l, "\n")
		for strings.HasPrefix(l, "\r\x1b[Kx") {
			l = strings.TrimPrefix(l, "\r\x1b[Kx")
		}
		if l == "" {
			continue
		}
		lines++
		if len(l) != 20 || strings.Trim(l, l[:1]) != "" {
			t.Fatalf("a line is %q", l)
		}
	}
	if lines != 200 {
		t.Errorf("%d lines, want 200", lines)
	}
}
