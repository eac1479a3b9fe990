package console

import "testing"

func TestPlain(t *testing.T) {
	for _, c := range []struct{ in, plain, line string }{
		{"größe 😀 \u200d\u200c\tx\nnext", "größe 😀 \u200d\u200c\tx\nnext", "größe 😀 \u200d\u200c x next"},
		{"a\x1b[2Jb\x07\r\x9bc\x7f", "a [2Jb  \ufffdc ", "a [2Jb  \ufffdc "},
		{"\u009b31m x\u202egpj\u2028y\ufeff", " 31m x gpj y ", " 31m x gpj y "},
	} {
		if got := Plain(c.in); got != c.plain {
			t.Errorf("Plain(%q) is %q, want %q", c.in, got, c.plain)
		}
		if got := Cell(c.in); got != c.line {
			t.Errorf("Cell(%q) is %q, want %q", c.in, got, c.line)
		}
	}
}
