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

	"github.com/ravnest/ravnest/engine/data"
)

// ErrFormat is wrapped by every error about what a folder holds.
var ErrFormat = errors.New("invalid image folder")

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
	// Size is the width and height of a row. An image of another size is scaled until it
	// covers them and cut around its middle. 0: all must have the size of the first.
	Size int
	// Channels is 1 for grey, 3 for colour; 0: what the first image has.
	Channels int
}

// Set is a folder's content: rows [channels, height, width] of bytes, and classes. Val is nil
// where the folder has no part for it.
type Set struct {
	TrainX, TrainY, ValX, ValY *data.Table
	Classes                    []string // sorted
}

// file is an image and its class.
type file struct {
	path  string
	class int
}

// Read reads the folder fsys. What is not an image by the end of its name is left out; an image
// that cannot be read is an error that names it.
func Read(fsys fs.FS, o Options) (*Set, error) {
	train, val := ".", ""
	if isDir(fsys, "train") {
		train = "train"
		for _, name := range []string{"val", "valid", "validation", "test"} {
			if val == "" && isDir(fsys, name) {
				val = name
			}
		}
	}
	s := &Set{}
	var err error
	if s.Classes, err = classes(fsys, train); err != nil {
		return nil, err
	}
	files, err := list(fsys, train, s.Classes)
	if err != nil {
		return nil, err
	}
	if s.TrainX, s.TrainY, err = read(fsys, files, &o); err != nil || val == "" {
		return s, err
	}
	if files, err = list(fsys, val, s.Classes); err != nil {
		return nil, err
	}
	s.ValX, s.ValY, err = read(fsys, files, &o)
	return s, err
}

// ReadRows reads the images of fsys, in folders or not, to rows without classes; paths are
// theirs, sorted.
func ReadRows(fsys fs.FS, o Options) (x *data.Table, paths []string, err error) {
	var files []file
	err = fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && isImage(p) {
			files, paths = append(files, file{path: p}), append(paths, p)
		}
		if len(files) > maxImages {
			return bad("more than %d images", maxImages)
		}
		return nil
	})
	if err != nil {
		return nil, nil, bad("%w", err)
	}
	if len(files) == 0 {
		return nil, nil, bad("it holds no image")
	}
	x, _, err = read(fsys, files, &o)
	return x, paths, err
}

// ReadRow reads one image to one row.
func ReadRow(fsys fs.FS, name string, o Options) (*data.Table, error) {
	x, _, err := read(fsys, []file{{path: name}}, &o)
	return x, err
}

// Is tells by the end of its name that a file is an image.
func Is(name string) bool { return isImage(name) }

func isDir(fsys fs.FS, name string) bool {
	info, err := fs.Stat(fsys, name)
	return err == nil && info.IsDir()
}

func classes(fsys fs.FS, root string) ([]string, error) {
	es, err := fs.ReadDir(fsys, root)
	if err != nil {
		return nil, bad("%w", err)
	}
	var names []string
	for _, e := range es {
		if !strings.HasPrefix(e.Name(), ".") && isDir(fsys, path.Join(root, e.Name())) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	if len(names) < 2 || len(names) > maxClasses {
		return nil, bad("%d folders of classes in %q, want 2 to %d", len(names), root, maxClasses)
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

// read reads images to rows of one size; what o leaves open the first image decides.
func read(fsys fs.FS, files []file, o *Options) (x, y *data.Table, err error) {
	if len(files) == 0 {
		return nil, nil, bad("no images in the folders of classes")
	}
	x = &data.Table{Kind: data.Inputs, U8: []uint8{}}
	y = &data.Table{Kind: data.Targets, Shape: []int{}}
	for _, f := range files {
		img, err := decode(fsys, f.path)
		if err != nil {
			return nil, nil, bad("%s: %w", f.path, err)
		}
		if o.Channels == 0 {
			o.Channels = 3
			switch img.ColorModel() {
			case color.GrayModel, color.Gray16Model:
				o.Channels = 1
			}
		}
		size := img.Bounds().Size()
		if o.Size > 0 {
			size = image.Pt(o.Size, o.Size)
		}
		shape := []int{o.Channels, size.Y, size.X}
		if x.Shape == nil {
			x.Shape = shape
		}
		if !slices.Equal(x.Shape, shape) {
			return nil, nil, bad("%s is %dx%d, the first image is %dx%d: give a size to scale all to", f.path, size.X, size.Y, x.Shape[2], x.Shape[1])
		}
		if len(x.U8)+o.Channels*size.X*size.Y > data.MaxBytes {
			return nil, nil, bad("the images are more than %d bytes: give a smaller size", data.MaxBytes)
		}
		x.U8 = append(x.U8, planes(img, o.Channels, size)...)
		y.I32 = append(y.I32, int32(f.class))
		x.Rows, y.Rows = x.Rows+1, y.Rows+1
	}
	return x, y, nil
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
	img, _, err := image.Decode(io.MultiReader(strings.NewReader(head.String()), r))
	return img, err
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
