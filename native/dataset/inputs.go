// Rows to predict, in the formats that Open reads, without targets.

package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/images"
	"github.com/ravnest/ravnest/engine/format/npy"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/format/text"
)

// Inputs reads rows at path for a model with inputs of the shape in. names are the names of the
// rows, nil if they have none.
func Inputs(path string, in []int, o Options) (x *data.Table, names []string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("the input: %w", err)
	}
	if len(o.Texts) > 0 {
		var m map[string]*data.Table
		if o.Block = 0; len(in) == 1 {
			o.Block = in[0]
		}
		m, err = textInputs(path, o)
		x = m[tokenIDs]
	} else if info.IsDir() {
		x, names, err = images.ReadRows(os.DirFS(path), Pixels(in))
	} else {
		s, plain := &Source{}, "" // of what has to be unpacked first
		defer func() { err = errors.Join(err, s.Close()) }()
		if plain, err = s.plain(path, false, o); err == nil {
			x, names, err = s.inputs(plain, in, o)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the input %s: %w", path, err)
	}
	if x.Rows == 0 {
		return nil, nil, fmt.Errorf("the input %s: %w: it holds no rows", path, ErrKind)
	}
	x.Kind = data.Inputs
	if slices.Equal(squeeze(x.Shape), squeeze(in)) {
		x.Shape = slices.Clone(in)
	} else if slices.Equal(squeeze(append([]int{x.Rows}, x.Shape...)), squeeze(in)) {
		x.Rows, x.Shape = 1, slices.Clone(in) // a single row
	}
	return x, names, nil
}

// Pixels returns the options to read an image for a model with inputs of the shape in.
func Pixels(in []int) images.Options {
	if len(in) != 3 || in[0] != 1 && in[0] != 3 {
		return images.Options{}
	}
	return images.Options{Channels: in[0], Height: in[1], Width: in[2]}
}

func (s *Source) inputs(path string, in []int, o Options) (x *data.Table, names []string, err error) {
	ext := strings.ToLower(filepath.Ext(path))
	if images.Is(path) {
		x, err = images.ReadRow(os.DirFS(filepath.Dir(path)), filepath.Base(path), Pixels(in))
		return x, []string{filepath.Base(path)}, err
	}
	if ext == ".csv" || ext == ".tsv" {
		x, err = s.rowsOf(path, product(in), o)
		return x, nil, err
	}
	if ext == ".parquet" {
		x, err = parquetRows(path, in, o)
		return x, nil, err
	}
	err = open(path, func(f *os.File, size int64) error {
		switch ext {
		case ".npy":
			x, err = npy.Read(f)
		case ".npz":
			var m map[string]*data.Table
			if m, err = npy.ReadZip(f, size); err == nil {
				x, err = only(m)
			}
		case ".safetensors":
			x, err = tensor(f, size)
		case ".txt", ".text", ".md", ".bin":
			x, err = tokens(f, ext, in, o)
		default:
			err = fmt.Errorf("%w: rows to predict come from an image, a folder of images, or a file that ends in .csv, .tsv, .jsonl, .parquet, .npy, .npz, .safetensors, .txt or .bin, or one of them in .gz", ErrKind)
		}
		return err
	})
	return x, names, err
}

// inputKeys lists the usual names of inputs, those for validation first.
var inputKeys = append(slices.Clone(keys[2]), keys[0]...)

// pick returns the name of the inputs among names.
func pick(names []string) (string, error) {
	for _, k := range inputKeys {
		if slices.Contains(names, k) {
			return k, nil
		}
	}
	if len(names) == 1 {
		return names[0], nil
	}
	return "", fmt.Errorf("%w: its arrays are called %q, one of them must be x", ErrKind, names)
}

func only(m map[string]*data.Table) (*data.Table, error) {
	name, err := pick(slices.Sorted(maps.Keys(m)))
	return m[name], err
}

func tensor(r io.ReaderAt, size int64) (*data.Table, error) {
	f, err := safetensors.Open(r, size)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range f.Entries {
		names = append(names, e.Name)
	}
	name, err := pick(names)
	if err != nil {
		return nil, err
	}
	e, _ := f.Get(name)
	return data.ReadTable(data.Inputs, e.DType, e.Shape, f.Raw(e))
}

// tokens reads rows of the length that the model takes.
func tokens(r io.Reader, ext string, in []int, o Options) (*data.Table, error) {
	kind := o.Tokens
	if kind == "" && o.Tokenizer != "" && ext != ".bin" && len(in) == 1 {
		return encoded(r, in[0], o.Tokenizer)
	}
	switch {
	case kind == text.Characters:
		return nil, fmt.Errorf("%w: it is not known which characters the model was trained on: give tokens as .npy or .bin", ErrKind)
	case kind == "" && ext == ".bin":
		kind = text.Uint16
	case kind == "":
		kind = text.Bytes
	}
	if len(in) != 1 {
		return nil, fmt.Errorf("%w: the model takes rows of shape %v, but a text gives rows of tokens", ErrKind, in)
	}
	// Rows to predict need no next token: append one, since text.Read takes it as a target.
	width := map[string]int{text.Bytes: 1, text.Uint16: 2, text.Uint32: 4}[kind]
	x, _, _, err := text.Read(io.MultiReader(r, bytes.NewReader(make([]byte, width))), kind, in[0])
	return x, err
}

// encoded makes rows of so many tokens of a text; what fills no row is left out.
func encoded(r io.Reader, block int, file string) (*data.Table, error) {
	t, _, err := readTokenizer(file)
	if err != nil {
		return nil, err
	}
	x := &data.Table{Kind: data.Inputs, Shape: []int{block}, I32: []int32{}}
	err = pieces(r, t, func(piece string, begins bool) (err error) {
		if x.I32, err = t.Encode(x.I32, piece, begins); err == nil && 4*len(x.I32) > data.MaxBytes {
			err = fmt.Errorf("%w: more than %d tokens", text.ErrFormat, data.MaxBytes/4)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if x.Rows = len(x.I32) / block; x.Rows == 0 {
		return nil, fmt.Errorf("%w: %d tokens are too few for a row of %d", text.ErrFormat, len(x.I32), block)
	}
	x.I32 = x.I32[:x.Rows*block]
	return x, nil
}
