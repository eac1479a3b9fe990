// Package webdataset reads tar files in the format of WebDataset: the members of a sample follow
// one another and share the name up to the first dot of the base name, for example n01/0001.jpg
// and n01/0001.cls.
package webdataset

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/ravnest/ravnest/engine/format/images"
)

// ErrFormat is wrapped by every error about the contents of a file.
var ErrFormat = errors.New("invalid WebDataset")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// Limits of a file.
const (
	maxMember  = 64 << 20 // bytes
	maxClass   = 1 << 16
	maxSamples = 1 << 26
)

// Reader reads the samples of tar files, one file after the other.
type Reader struct {
	Options images.Options
	shape   []int // of the first image
	samples int
}

// sample is the part of a sample that has been read.
type sample struct {
	key    string
	shape  []int
	pixels []uint8
	class  int // -1: none yet
}

// Read calls emit with the samples of a tar file in order: an image and a class, which is
// a number as text in a member .cls, .cls.txt or .label, or in the object of a member .json under the
// name label, cls or class. Other members are skipped.
func (r *Reader) Read(f io.Reader, emit func(shape []int, pixels []uint8, class int) error) error {
	t := tar.NewReader(f)
	cur := sample{class: -1}
	flush := func() error {
		s := cur
		cur = sample{class: -1}
		if s.pixels == nil && s.class < 0 {
			return nil
		}
		if s.pixels == nil || s.class < 0 {
			return bad("sample %.60q has no %s", s.key, map[bool]string{true: "image", false: "class (.cls, or label in a .json)"}[s.pixels == nil])
		}
		if r.samples++; r.samples > maxSamples {
			return bad("more than %d samples", maxSamples)
		}
		return emit(s.shape, s.pixels, s.class)
	}
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return flush()
		}
		if err != nil {
			return bad("%w", err)
		}
		base := path.Base(h.Name)
		if h.Typeflag != tar.TypeReg || strings.HasPrefix(base, ".") {
			continue
		}
		key, ext, _ := strings.Cut(base, ".")
		if key = path.Join(path.Dir(h.Name), key); key != cur.key {
			if err := flush(); err != nil {
				return err
			}
			cur.key = key
		}
		if err := r.member(&cur, h, strings.ToLower(ext), t); err != nil {
			return err
		}
	}
}

// labelOf is the number of a class in a JSON object.
func labelOf(b []byte) ([]byte, bool) {
	var o map[string]json.RawMessage
	if json.Unmarshal(b, &o) != nil {
		return nil, false
	}
	for _, name := range []string{"label", "cls", "class"} {
		if v, ok := o[name]; ok {
			return bytes.Trim(v, `"`), true
		}
	}
	return nil, false
}

// classify takes the number of a sample's class from the member of a name.
func (s *sample) classify(name string, b []byte) error {
	n, err := strconv.Atoi(strings.TrimSpace(string(b[:min(len(b), 32)])))
	if err != nil || n < 0 || n >= maxClass {
		return bad("%.60q holds %.20q, want the number of a class, below %d", name, b, maxClass)
	}
	if s.class >= 0 && s.class != n {
		return bad("sample %.60q has two classes", s.key)
	}
	s.class = n
	return nil
}

// member reads one member of a sample.
func (r *Reader) member(s *sample, h *tar.Header, ext string, f io.Reader) error {
	last := path.Ext("." + ext) // of input.png the kind is png
	class := last == ".cls" || ext == "cls.txt" || ext == "label"
	object := last == ".json"
	if !class && !object && !images.Is("x"+last) {
		return nil
	}
	if h.Size > maxMember {
		return bad("%.60q has %d bytes, at most %d are read", h.Name, h.Size, maxMember)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxMember))
	if err != nil {
		return bad("%.60q: %w", h.Name, err)
	}
	if object {
		text, ok := labelOf(b)
		if !ok {
			return nil // it says other things
		}
		b, class = text, true
	}
	if class {
		return s.classify(h.Name, b)
	}
	img, err := images.Decode(bytes.NewReader(b))
	if err != nil {
		return bad("%.60q: %w", h.Name, err)
	}
	if s.pixels != nil {
		return bad("sample %.60q has two images", s.key)
	}
	s.shape, s.pixels = r.Options.Row(img)
	if r.shape == nil {
		r.shape = s.shape
	}
	if !slices.Equal(r.shape, s.shape) {
		return bad("%.60q is %dx%d, the first image is %dx%d: give a size to scale all to (--size)", h.Name, s.shape[2], s.shape[1], r.shape[2], r.shape[1])
	}
	return nil
}
