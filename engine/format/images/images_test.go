package images

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
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

// folder is what Each gives of a folder.
type folder struct {
	rows    [2]int // for training, for validation
	shape   []int
	pixels  []uint8
	classes []int
	names   []string
}

func folderOf(fsys fstest.MapFS, o Options) (f folder, err error) {
	f.names, err = Each(fsys, o, func(val bool, shape []int, pixels []uint8, class int) error {
		k := 0
		if val {
			k = 1
		}
		f.rows[k]++
		f.shape, f.pixels, f.classes = shape, append(f.pixels, pixels...), append(f.classes, class)
		return nil
	})
	return f, err
}

func TestRead(t *testing.T) {
	jpg := func(w, h int) []byte {
		var b bytes.Buffer
		if err := jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, w, h)), nil); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b} }
	s, err := folderOf(fstest.MapFS{"cat/1.png": file(pngOf(4, 2, red)), "dog/2.PNG": file(pngOf(4, 2, blue)), "dog/notes.txt": file(nil), "cat/.x.png": file(nil)}, Options{})
	if err != nil || s.rows != [2]int{2, 0} || !slices.Equal(s.shape, []int{3, 2, 4}) || s.pixels[0] != 255 || s.pixels[24+16] != 200 || s.classes[1] != 1 {
		t.Errorf("flat: %+v, %v", s, err)
	}
	// Tiny-ImageNet's way, grey, sizes that differ.
	s, err = folderOf(fstest.MapFS{
		"train/n1/images/a.JPEG": file(jpg(9, 7)), "train/n2/images/b.JPEG": file(jpg(5, 20)),
		"val/images/v.JPEG": file(jpg(3, 3)), "val/val_annotations.txt": file([]byte("v.JPEG\tn2\t0\t0\t3\t3\n")),
	}, Options{Height: 4, Width: 5})
	if err != nil || !slices.Equal(s.shape, []int{1, 4, 5}) || s.rows != [2]int{2, 1} || s.classes[2] != 1 || !slices.Equal(s.names, []string{"n1", "n2"}) {
		t.Errorf("Tiny-ImageNet: %+v, %v", s, err)
	}
	// Images without classes, to be predicted, are no part.
	s, err = folderOf(fstest.MapFS{"train/a/1.png": file(pngOf(2, 2, red)), "train/b/1.png": file(pngOf(2, 2, red)), "test/1.png": file(pngOf(2, 2, red))}, Options{})
	if err != nil || s.rows != [2]int{2, 0} {
		t.Errorf("a test without classes: %+v, %v", s, err)
	}
	for says, fsys := range map[string]fstest.MapFS{
		`val has images of the class "c", train has none`: {
			"train/a/1.png": file(pngOf(2, 2, red)), "train/b/1.png": file(pngOf(2, 2, red)), "val/a/1.png": file(pngOf(2, 2, red)), "val/c/1.png": file(pngOf(2, 2, red)),
		},
		"folders of classes":       {"a.png": file(pngOf(2, 2, red))},
		"no images":                {"a/x.txt": file(nil), "b/y.txt": file(nil)},
		`folder "b", which would`:  {"a/x.png": file(pngOf(2, 2, red)), "b/y.txt": file(nil)},
		"a/x.png: image: unknown":  {"a/x.png": file([]byte("nothing")), "b/y.png": file(pngOf(2, 2, red))},
		"b/y.png is 3x2":           {"a/x.png": file(pngOf(2, 2, red)), "b/y.png": file(pngOf(3, 2, red))},
		`class "n9" has no folder`: {"train/n1/a.png": file(pngOf(2, 2, red)), "train/n2/a.png": file(pngOf(2, 2, red)), "val/val_annotations.txt": file([]byte("v n9\n"))},
	} {
		if _, err := folderOf(fsys, Options{}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

// TestModes: a grey image among coloured ones does not take their colour, transparency leaves the
// colours, the first picture of a GIF lies where it belongs, and what tools leave behind is no class.
func TestModes(t *testing.T) {
	file := func(b []byte) *fstest.MapFile { return &fstest.MapFile{Data: b} }
	var grey, clear, palette, moved, corner bytes.Buffer
	half := image.NewNRGBA(image.Rect(0, 0, 2, 2))
	for i := range 4 {
		half.SetNRGBA(i%2, i/2, color.NRGBA{R: 200, G: 100, B: 50, A: uint8(i * 60)})
	}
	seen := image.NewPaletted(image.Rect(0, 0, 2, 2), color.Palette{color.NRGBA{200, 100, 50, 10}, blue})
	part := image.NewPaletted(image.Rect(1, 1, 2, 2), color.Palette{color.RGBA{0, 9, 0, 255}, color.RGBA{200, 100, 50, 255}})
	part.Pix[0] = 1
	err := errors.Join(png.Encode(&grey, image.NewGray(image.Rect(0, 0, 2, 2))), png.Encode(&clear, half), png.Encode(&palette, seen),
		gif.EncodeAll(&moved, &gif.GIF{Image: []*image.Paletted{part}, Delay: []int{0}, Config: image.Config{Width: 2, Height: 2}}),
		gif.EncodeAll(&corner, &gif.GIF{Image: []*image.Paletted{{Pix: []uint8{1}, Stride: 1, Rect: image.Rect(0, 0, 1, 1), Palette: part.Palette}}, Delay: []int{0}, Config: image.Config{Width: 2, Height: 2}}))
	if err != nil {
		t.Fatal(err)
	}
	s, err := folderOf(fstest.MapFS{
		"a/0.png": file(grey.Bytes()), "a/1.png": file(clear.Bytes()), "b/2.png": file(palette.Bytes()), "b/3.gif": file(moved.Bytes()), "b/4.gif": file(corner.Bytes()), "b/.DS_Store": file(nil), "__MACOSX/._a": file(nil),
	}, Options{})
	one := func(v uint8) []uint8 { return []uint8{v, v, v, v} }
	want := slices.Concat(make([]uint8, 12), one(200), one(100), one(50), one(200), one(100), one(50), []uint8{0, 0, 0, 200, 9, 9, 9, 100, 0, 0, 0, 50, 200, 0, 0, 0, 100, 9, 9, 9, 50, 0, 0, 0})
	if err != nil || !slices.Equal(s.shape, []int{3, 2, 2}) || !slices.Equal(s.pixels, want) || len(s.names) != 2 {
		t.Errorf("%+v, %v, want %v", s, err, want)
	}
	if s, err = folderOf(fstest.MapFS{"a/0.png": file(grey.Bytes()), "b/0.png": file(grey.Bytes())}, Options{}); err != nil || s.shape[0] != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestUnseen: the transparent colour of a GIF is the one that is stored, as PIL sees it, which made this.
func TestUnseen(t *testing.T) {
	b, err := hex.DecodeString("47494638396102000200810000090909c8643200000000000021f90401000001002c000000000200020000080700010408002020003b")
	if err != nil {
		t.Fatal(err)
	}
	img, err := Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if p := planes(img, 3, image.Pt(2, 2)); !slices.Equal(p, []uint8{9, 200, 200, 9, 9, 100, 100, 9, 9, 50, 50, 9}) {
		t.Error(p)
	}
}

// TestWebP: the colours of a lossy WebP are those that PIL sees, which made it.
func TestWebP(t *testing.T) {
	b, err := hex.DecodeString("524946463e000000574542505650382032000000d001009d012a0400040000c01225a00274ba01f80003b000feda26ffeef37ed3d7b4f5fd4cfff8ca9f203fe32a7fc5cc0000")
	if err != nil {
		t.Fatal(err)
	}
	img, err := Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if p := planes(img, 3, image.Pt(4, 4)); p[5] != 201 || p[16+5] != 100 || p[32+5] != 50 {
		t.Errorf("%d %d %d", p[5], p[16+5], p[32+5])
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
