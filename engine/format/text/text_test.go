package text

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	x, y, _, err := Read(strings.NewReader("abcdefgh"), Bytes, 3)
	if err != nil || x.Rows != 2 || string(x.U8) != "abcdef" || string(y.U8) != "bcdefg" {
		t.Errorf("bytes: %+v %+v %v", x, y, err)
	}
	x, y, names, err := Read(strings.NewReader("éaßaé"), Characters, 2)
	if err != nil || !slices.Equal(names, []string{"a", "ß", "é"}) || !slices.Equal(x.I32, []int32{2, 0, 1, 0}) || !slices.Equal(y.I32, []int32{0, 1, 0, 2}) {
		t.Errorf("characters: %v of %q %v", x, names, err)
	}
	x, _, _, err = Read(strings.NewReader("\x01\x00\x00\x02\x03\x00"), Uint16, 2)
	if err != nil || !slices.Equal(x.U16, []uint16{1, 512}) {
		t.Errorf("uint16: %v %v", x, err)
	}
	for _, c := range []struct{ s, kind, says string }{
		{"ab", Bytes, "too few"},
		{"", Bytes, "too few"},
		{"abc", Uint16, "2 each"},
		{"\xff\xff\xff\xff", Characters, "not UTF-8"},
		{strings.Repeat("\xff\xff\xff\xff", 4), Uint32, "the greatest"},
		{"abcdefgh", "words", "want one of"},
	} {
		if _, _, _, err := Read(strings.NewReader(c.s), c.kind, 2); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q as %s: %v, want %q", c.s, c.kind, err, c.says)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("some text, längere Wörter"), 1, 4)
	f.Fuzz(func(t *testing.T, b []byte, kind, block int) {
		x, y, _, err := Read(bytes.NewReader(b), Kinds[uint(kind)%4], block)
		if err == nil && (x.Check() != nil || y.Check() != nil) {
			t.Fatal(x.Check(), y.Check())
		}
	})
}
