package idx

import (
	"bytes"
	"compress/gzip"
	"slices"
	"strings"
	"testing"
)

const images = "\x00\x00\x08\x03\x00\x00\x00\x02\x00\x00\x00\x01\x00\x00\x00\x03abcdef"

func zipped(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	_ = z.Close()
	return b.String()
}

func TestRead(t *testing.T) {
	for _, s := range []string{images, zipped(images)} {
		x, err := Read(strings.NewReader(s))
		if err != nil || x.Rows != 2 || !slices.Equal(x.Shape, []int{1, 3}) || string(x.U8) != "abcdef" {
			t.Errorf("%+v, %v", x, err)
		}
	}
	x, err := Read(strings.NewReader("\x00\x00\x0b\x01\x00\x00\x00\x02\xff\xfe\x00\x07"))
	if err != nil || !slices.Equal(x.I32, []int32{-2, 7}) {
		t.Errorf("%+v, %v", x, err)
	}
	for s, says := range map[string]string{
		"": "EOF", "\x00\x00\x07\x01": "no type", "\x01\x00\x08\x01": "no type", "\x00\x00\x08\x00": "no type", images[:len(images)-1]: "row 1 of 2",
		images + "g": "goes on", "\x00\x00\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff": "more than", "\x1f\x8bxx": "EOF",
	} {
		if _, err := Read(strings.NewReader(s)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", s, err, says)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(images))
	f.Add([]byte(zipped(images)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if x, err := Read(bytes.NewReader(b)); err == nil && x.F32 == nil && x.Check() != nil {
			t.Fatalf("what was read is no table: %v", x.Check())
		}
	})
}
