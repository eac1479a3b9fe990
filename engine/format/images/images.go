// Package images reads folders of images, a folder for each class, as data sets are handed
// around: CLASS/*.png, or train/CLASS/*.jpg beside val/CLASS/*.jpg. Tiny-ImageNet's way, with
// the classes of val in val_annotations.txt, is understood too.
package images

import (
	"bufio"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif" // the formats that are read
	_ "image/jpeg"
	_ "image/png"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	_ "golang.org/x/image/bmp"
	"golang.org/x/image/draw"
	_ "golang.org/x/image/tiff"
	_ "golang.org/x/image/webp"
)

// ErrFormat is wrapped by every error about what a folder holds.
var ErrFormat = errors.New("invalid image folder")

// ErrFolder is wrapped by the error about a path that is no folder of folders of images.
var ErrFolder = errors.New("no folders of images")

// ErrNone is wrapped by the error about folders of classes that hold other files.
var ErrNone = errors.New("no images")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Limits of a folder.
const (
	maxPixels  = 64 << 20 // of one image, as it is stored
	maxClasses = 1 << 16
	maxImages  = 1 << 24
)

// Options say how images become rows.
type Options struct {
	// Height and Width are those of a row. An image of another size is scaled until it covers them and
	// cut around its middle. 0: all must have the size of the first.
	Height, Width int
	// Channels is 1 for grey, 3 for colour; 0: 3 where an image of a folder is not grey, or what the
	// first image of a stream has.
	Channels int
}

// file is an image and its class.
type file struct {
	path  string
	class int
}

// Emit takes a row, of the part for validation or not. pixels is [channels, height, width] of shape,
// and is only the callee's until it returns.
type Emit func(val bool, shape []int, pixels []uint8, class int) error

// Each reads the folder fsys image by image: first those for training, class by class, then those
// for validation. It returns the names of the classes.
func Each(fsys fs.FS, o Options, emit Emit) ([]string, error) {
	train, val := ".", ""
	if isDir(fsys, "train") {
		train = "train"
		for _, name := range []string{"val", "valid", "validation", "test"} {
			if val == "" && isDir(fsys, name) {
				val = name
			}
		}
	}
	names, err := classes(fsys, train)
	if err != nil {
		return nil, err
	}
	if val != "" {
		own, err := folders(fsys, val)
		if err != nil {
			return nil, err
		}
		switch surplus := slices.DeleteFunc(own, func(n string) bool { return slices.Contains(names, n) }); {
		case annotations(fsys, val):
		case val == "test" && len(surplus) == len(own): // images without classes, to be predicted
			val = ""
		case len(surplus) > 0:
			return nil, bad("%s has images of the class %q, %s has none", val, surplus[0], train)
		}
	}
	var first []int
	for _, part := range []string{train, val} {
		if part == "" {
			continue
		}
		files, err := list(fsys, part, names)
		if err == nil && part == train {
			err = complete(files, names)
		}
		if err != nil {
			return nil, err
		}
		if o.Channels == 0 {
			o.Channels = channels(fsys, files)
		}
		err = each(fsys, files, &o, &first, func(shape []int, pixels []uint8, class int) error {
			return emit(part == val, shape, pixels, class)
		})
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

// complete checks that there are images of every class.
func complete(files []file, names []string) error {
	has := make([]bool, len(names))
	for _, f := range files {
		has[f.class] = true
	}
	for i, h := range has {
		if !h && len(files) > 0 {
			return bad("the folder %q, which would be a class, holds no images: remove it", names[i])
		}
	}
	return nil
}

// channels is 1 if all images are grey, by their headers.
func channels(fsys fs.FS, files []file) int {
	for _, f := range files {
		r, err := fsys.Open(f.path)
		if err != nil {
			continue // reading it will tell
		}
		c, _, err := image.DecodeConfig(bufio.NewReader(r))
		_ = r.Close()
		if err == nil && !grey(c.ColorModel) {
			return 3
		}
	}
	return 1
}

func grey(m color.Model) bool { return m == color.GrayModel || m == color.Gray16Model }

// EachRow gives the images of fsys at root, in folders or not or root itself, as rows without
// classes. Names are their paths, sorted; pixels are the callee's until it returns.
func EachRow(fsys fs.FS, root string, o Options, emit func(name string, shape []int, pixels []uint8) error) error {
	var files []file
	err := fs.WalkDir(fsys, root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && isImage(p) {
			files = append(files, file{path: p})
		}
		if len(files) > maxImages {
			return bad("more than %d images", maxImages)
		}
		return nil
	})
	if err != nil {
		return bad("%w", err)
	}
	if len(files) == 0 {
		return bad("it holds no image")
	}
	var first []int
	at := 0
	return each(fsys, files, &o, &first, func(shape []int, pixels []uint8, _ int) error {
		at++
		return emit(files[at-1].path, shape, pixels)
	})
}

// Is tells by the end of its name that a file is an image.
func Is(name string) bool { return isImage(name) }

func isDir(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	return err == nil && info.IsDir()
}

// annotations tells whether a part has its classes in a file, as Tiny-ImageNet's.
func annotations(fsys fs.FS, part string) bool {
	_, err := fs.Stat(fsys, path.Join(part, "val_annotations.txt"))
	return err == nil
}

// folders are those that may be of classes, sorted.
func folders(fsys fs.FS, root string) (names []string, err error) {
	es, err := fs.ReadDir(fsys, root)
	if err != nil {
		return nil, bad("%w", err)
	}
	for _, e := range es {
		if !strings.HasPrefix(e.Name(), ".") && e.Name() != "__MACOSX" && isDir(fsys, path.Join(root, e.Name())) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

func classes(fsys fs.FS, root string) ([]string, error) {
	names, err := folders(fsys, root)
	if err != nil {
		return nil, err
	}
	if len(names) < 2 || len(names) > maxClasses {
		return nil, fmt.Errorf("%w: %w: %d folders of classes in %q, want 2 to %d, such as cat/1.jpg and dog/2.jpg", ErrFormat, ErrFolder, len(names), root, maxClasses)
	}
	return names, nil
}

// isImage tells by the end of a name.
func isImage(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp":
		return !strings.HasPrefix(path.Base(name), ".")
	}
	return false
}

// list finds the images of a part, by class and then by path.
func list(fsys fs.FS, root string, classes []string) ([]file, error) {
	var files []file
	if f, err := fsys.Open(path.Join(root, "val_annotations.txt")); err == nil {
		defer f.Close()
		return annotated(f, path.Join(root, "images"), classes)
	}
	for i, c := range classes {
		err := fs.WalkDir(fsys, path.Join(root, c), func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil // a part need not have every class
				}
				return err
			}
			if !d.IsDir() && isImage(p) {
				files = append(files, file{p, i})
			}
			if len(files) > maxImages {
				return bad("more than %d images", maxImages)
			}
			return nil
		})
		if err != nil {
			return nil, bad("%w", err)
		}
	}
	return files, nil
}

// annotated reads lines of a file's name and its class, with more behind them.
func annotated(r io.Reader, dir string, classes []string) ([]file, error) {
	var files []file
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		f := strings.Fields(lines.Text())
		if len(f) == 0 {
			continue
		}
		if len(f) < 2 || !fs.ValidPath(f[0]) {
			return nil, bad("val_annotations.txt, line %d: no name and class", n)
		}
		class, ok := slices.BinarySearch(classes, f[1])
		if !ok {
			return nil, bad("val_annotations.txt, line %d: class %.60q has no folder", n, f[1])
		}
		files = append(files, file{path.Join(dir, f[0]), class})
		if len(files) > maxImages {
			return nil, bad("more than %d images", maxImages)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, bad("val_annotations.txt: %w", err)
	}
	return files, nil
}

func each(fsys fs.FS, files []file, o *Options, first *[]int, emit func(shape []int, pixels []uint8, class int) error) error {
	if len(files) == 0 {
		return fmt.Errorf("%w: %w in the folders of classes", ErrFormat, ErrNone)
	}
	for _, f := range files {
		img, err := decode(fsys, f.path)
		if err != nil {
			return bad("%s: %w: remove it, or save it anew as PNG", f.path, err)
		}
		shape, pixels := o.Row(img)
		if *first == nil {
			*first = shape
		}
		if !slices.Equal(*first, shape) {
			return bad("%s is %dx%d, the first image is %dx%d: give a size to scale all to (--size)", f.path, shape[2], shape[1], (*first)[2], (*first)[1])
		}
		if err := emit(shape, pixels, f.class); err != nil {
			return err
		}
	}
	return nil
}

// Row is an image as a row of the shape [channels, height, width]. What o leaves open of the
// channels the first image decides.
func (o *Options) Row(img image.Image) (shape []int, pixels []uint8) {
	if o.Channels == 0 {
		o.Channels = 3
		if grey(img.ColorModel()) {
			o.Channels = 1
		}
	}
	size := img.Bounds().Size()
	if o.Height > 0 {
		size = image.Pt(o.Width, o.Height)
	}
	return []int{o.Channels, size.Y, size.X}, planes(img, o.Channels, size)
}

func decode(fsys fs.FS, name string) (image.Image, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("it is not a regular file"))
	}
	return Decode(f)
}

// Decode decodes an image whose header says that it is not too large.
func Decode(r io.Reader) (image.Image, error) {
	var head strings.Builder
	c, _, err := image.DecodeConfig(io.TeeReader(r, &head))
	if err != nil {
		return nil, err
	}
	if c.Width < 1 || c.Height < 1 || c.Width > maxPixels/c.Height {
		return nil, fmt.Errorf("%dx%d pixels, at most %d in all are read", c.Width, c.Height, maxPixels)
	}
	img, format, err := image.Decode(io.MultiReader(strings.NewReader(head.String()), r))
	if err != nil {
		return nil, err
	}
	img = opaque(img)
	if m, ok := img.(*image.YCbCr); ok && format == "webp" {
		img = fromVideo(m)
	}
	if m, ok := img.(*image.Paletted); ok && format == "gif" {
		img = firstOf(m, c)
	}
	return img, nil
}

// firstOf is the first picture of a GIF, which may cover a part of it only. The rest has the
// transparent colour or the first one, as in PIL. The library makes the transparent colour black;
// the GIF's own table still has it.
func firstOf(m *image.Paletted, c image.Config) image.Image {
	unseen := slices.IndexFunc(m.Palette, func(c color.Color) bool { return c == color.RGBA{} })
	if table, ok := c.ColorModel.(color.Palette); ok && unseen >= 0 && unseen < len(table) {
		black := slices.Clone(table)
		black[unseen] = color.RGBA{}
		if slices.Equal(black, m.Palette) {
			m.Palette = table
		}
	}
	all := image.Rect(0, 0, c.Width, c.Height)
	if m.Rect.Eq(all) {
		return m
	}
	whole := image.NewPaletted(all, m.Palette)
	for i := range whole.Pix {
		whole.Pix[i] = uint8(max(unseen, 0))
	}
	for y := m.Rect.Min.Y; y < m.Rect.Max.Y; y++ {
		copy(whole.Pix[whole.PixOffset(m.Rect.Min.X, y):], m.Pix[m.PixOffset(m.Rect.Min.X, y):][:m.Rect.Dx()])
	}
	return whole
}

// fromVideo is an image of a lossy WebP, whose colours have the range of video (16 to 235), as libwebp
// converts them. The library takes them for those of JPEG, which fill a byte.
func fromVideo(m *image.YCbCr) image.Image {
	out := image.NewRGBA(m.Rect)
	clip := func(v int) uint8 { return uint8(min(max(v, 0)>>6, 255)) }
	at := 0
	for y := m.Rect.Min.Y; y < m.Rect.Max.Y; y++ {
		for x := m.Rect.Min.X; x < m.Rect.Max.X; x++ {
			c := m.COffset(x, y)
			l, u, v := int(m.Y[m.YOffset(x, y)])*19077>>8, int(m.Cb[c]), int(m.Cr[c])
			out.Pix[at] = clip(l + v*26149>>8 - 14234)
			out.Pix[at+1] = clip(l - u*6419>>8 - v*13320>>8 + 8708)
			out.Pix[at+2], out.Pix[at+3] = clip(l+u*33050>>8-17685), 0xff
			at += 4
		}
	}
	return out
}

// opaque is an image without its transparency: the colours are what is stored, also where they are
// not seen. Data sets are read so in Python (PIL's convert("RGB")).
func opaque(img image.Image) image.Image {
	switch m := img.(type) {
	case *image.NRGBA:
		for i := 3; i < len(m.Pix); i += 4 {
			m.Pix[i] = 0xff
		}
	case *image.NRGBA64:
		for i := 6; i < len(m.Pix); i += 8 {
			m.Pix[i], m.Pix[i+1] = 0xff, 0xff
		}
	case *image.NYCbCrA:
		return &m.YCbCr
	case *image.Paletted:
		for i, c := range m.Palette {
			if n, ok := c.(color.NRGBA); ok {
				n.A = 0xff
				m.Palette[i] = n
			}
		}
	}
	return img
}

// planes are the bytes [channels, height, width] of an image scaled to cover size.
func planes(img image.Image, channels int, size image.Point) []uint8 {
	rgba := image.NewRGBA(image.Rectangle{Max: size})
	from := img.Bounds()
	if from.Size() == size {
		draw.Draw(rgba, rgba.Bounds(), img, from.Min, draw.Src)
	} else {
		// The largest piece around the middle that has the form of size.
		w, h := from.Dx(), from.Dy()
		if w*size.Y > h*size.X {
			w = max(h*size.X/size.Y, 1)
		} else {
			h = max(w*size.Y/size.X, 1)
		}
		at := from.Min.Add(image.Pt((from.Dx()-w)/2, (from.Dy()-h)/2))
		draw.CatmullRom.Scale(rgba, rgba.Bounds(), img, image.Rectangle{Min: at, Max: at.Add(image.Pt(w, h))}, draw.Src, nil)
	}
	n := size.X * size.Y
	out := make([]uint8, channels*n)
	for i := range n {
		p := rgba.Pix[4*i:][:4]
		if channels == 1 {
			out[i] = color.GrayModel.Convert(color.RGBA{p[0], p[1], p[2], p[3]}).(color.Gray).Y
			continue
		}
		out[i], out[n+i], out[2*n+i] = p[0], p[1], p[2]
	}
	return out
}
