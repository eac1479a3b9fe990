package images

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// pngOf is an image of one colour.
func pngOf(w, h int, c color.Color) []byte {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range w * h {
		img.Set(i%w, i/w, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

var (
	red  = color.RGBA{255, 0, 0, 255}
	blue = color.RGBA{0, 0, 200, 255}
)

func TestRead(t *testing.T) {
	jpg := func(w, h int) []byte {
		var b bytes.Buffer
		if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, w, h)), nil); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b} }
	s, err := Read(fstest.MapFS{"cat/1.png": file(pngOf(4, 2, red)), "dog/2.PNG": file(pngOf(4, 2, blue)), "dog/notes.txt": file(nil), "cat/.x.png": file(nil)}, Options{})
	if err != nil || s.TrainX.Rows != 2 || !slices.Equal(s.TrainX.Shape, []int{3, 2, 4}) || s.TrainX.U8[0] != 255 || s.TrainX.U8[24+16] != 200 || s.TrainY.I32[1] != 1 || s.ValX != nil {
		t.Errorf("flat: %+v, %v", s, err)
	}
	// Tiny-ImageNet's way, grey, sizes that differ.
	s, err = Read(fstest.MapFS{
		"train/n1/images/a.JPEG": file(jpg(9, 7)), "train/n2/images/b.JPEG": file(jpg(5, 20)),
		"val/images/v.JPEG": file(jpg(3, 3)), "val/val_annotations.txt": file([]byte("v.JPEG\tn2\t0\t0\t3\t3\n")),
	}, Options{Size: 4})
	if err != nil || !slices.Equal(s.TrainX.Shape, []int{1, 4, 4}) || s.ValX.Rows != 1 || s.ValY.I32[0] != 1 || !slices.Equal(s.Classes, []string{"n1", "n2"}) {
		t.Errorf("Tiny-ImageNet: %+v, %v", s, err)
	}
	for says, fsys := range map[string]fstest.MapFS{
		"folders of classes":       {"a.png": file(pngOf(2, 2, red))},
		"no images":                {"a/x.txt": file(nil), "b/y.txt": file(nil)},
		"a/x.png: image: unknown":  {"a/x.png": file([]byte("nothing")), "b/y.png": file(pngOf(2, 2, red))},
		"b/y.png is 3x2":           {"a/x.png": file(pngOf(2, 2, red)), "b/y.png": file(pngOf(3, 2, red))},
		`class "n9" has no folder`: {"train/n1/a.png": file(pngOf(2, 2, red)), "train/n2/a.png": file(pngOf(2, 2, red)), "val/val_annotations.txt": file([]byte("v n9\n"))},
	} {
		if _, err := Read(fsys, Options{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// TestLarge refuses an image by its header: nothing of its size is allocated.
func TestLarge(t *testing.T) {
	b := pngOf(1, 1, red)
	i := bytes.Index(b, []byte("IHDR"))
	copy(b[i+4:], []byte{0, 1, 0, 0, 0, 1, 0, 0}) // 65536 x 65536
	binary.BigEndian.PutUint32(b[i+17:], crc32.ChecksumIEEE(b[i:i+17]))
	if _, err := Decode(bytes.NewReader(b)); err == nil || !strings.Contains(err.Error(), "65536x65536 pixels") {
		t.Errorf("65536x65536 pixels: %v", err)
	}
}

// TestScale cuts around the middle.
func TestScale(t *testing.T) {
	img := image.NewRGBA(image.Rect(5, 5, 5+30, 5+10))
	for y := 5; y < 15; y++ {
		for x := 5; x < 35; x++ {
			c := blue
			if x >= 15 && x < 25 {
				c = red
			}
			img.Set(x, y, c)
		}
	}
	p := planes(img, 3, image.Pt(5, 5))
	for i := range 25 {
		if p[i] != 255 || p[50+i] > 20 && i%5 > 0 && i%5 < 4 {
			t.Fatalf("pixel %d is %d, %d, %d: not of the middle", i, p[i], p[25+i], p[50+i])
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(pngOf(3, 2, red))
	f.Fuzz(func(t *testing.T, b []byte) {
		if img, err := Decode(bytes.NewReader(b)); err == nil && img.Bounds().Dx() < 1<<12 && img.Bounds().Dy() < 1<<12 {
			if p := planes(img, 3, image.Pt(4, 4)); len(p) != 48 {
				t.Fatal(len(p))
			}
		}
	})
}
