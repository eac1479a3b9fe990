package webdataset

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/format/images"
)

func picture(t testing.TB, w, h int, c color.Color) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		m.Set(i%w, i/w, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pack makes a tar of names and contents.
func pack(t testing.TB, members ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		var c []byte
		switch v := members[i+1].(type) {
		case []byte:
			c = v
		case string:
			c = []byte(v)
		}
		if err := w.WriteHeader(&tar.Header{Name: members[i].(string), Size: int64(len(c)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRead(t *testing.T) {
	red, blue := picture(t, 2, 2, color.RGBA{255, 0, 0, 255}), picture(t, 4, 4, color.RGBA{0, 0, 255, 255})
	r := &Reader{Options: images.Options{Height: 2, Width: 2}}
	var got []string
	emit := func(shape []int, pixels []uint8, class int) error {
		got = append(got, fmt.Sprint(shape, pixels, class))
		return nil
	}
	for _, b := range [][]byte{
		pack(t, "a/1.png", red, "a/1.cls", "7", "a/1.json", "{}", "a/2.cls", "0\n", "a/2.seg.png.txt", "x", "a/2.PNG", blue),
		pack(t, "4.input.png", red, "4.json", `{"caption":"x","label":5}`, "4.out.cls", "5"),
		pack(t, "._x", "junk", "3.cls", "1", "3.png", red),
	} {
		if err := r.Read(bytes.NewReader(b), emit); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"[3 2 2] [255 255 255 255 0 0 0 0 0 0 0 0] 7", "[3 2 2] [0 0 0 0 0 0 0 0 255 255 255 255] 0", "[3 2 2] [255 255 255 255 0 0 0 0 0 0 0 0] 5", "[3 2 2] [255 255 255 255 0 0 0 0 0 0 0 0] 1"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q", got)
	}
	for name, c := range map[string][]any{
		"no image":          {"1.cls", "3"},
		"no class":          {"1.png", red},
		"two images":        {"1.png", red, "1.png", red},
		"two classes":       {"1.cls", "1", "1.json", `{"label":2}`},
		"holds \"[]\"":      {"1.png", red, "1.json", `{"label":[]}`},
		"want the number":   {"1.png", red, "1.cls", "cat"},
		"below 65536":       {"1.png", red, "1.cls", "65536"},
		"unknown format":    {"1.png", "no image", "1.cls", "1"},
		"first image is 2x": {"1.png", red, "1.cls", "1", "2.png", blue, "2.cls", "2"},
	} {
		err := (&Reader{}).Read(bytes.NewReader(pack(t, c...)), emit)
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzRead: any bytes are samples of one shape, or refused.
func FuzzRead(f *testing.F) {
	f.Add(pack(f, "1.png", picture(f, 2, 2, color.White), "1.cls", "3"))
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var first []int
		err := (&Reader{Options: images.Options{Height: 4, Width: 4}}).Read(bytes.NewReader(b), func(shape []int, pixels []uint8, class int) error {
			if first == nil {
				first = shape
			}
			if len(pixels) != shape[0]*16 || shape[0] != first[0] || class < 0 {
				t.Errorf("%v: %d pixels of class %d", shape, len(pixels), class)
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	})
}
