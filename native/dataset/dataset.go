// Package dataset reads data sets in the formats that people have them in: folders of images,
// the files of MNIST and CIFAR, NumPy arrays, CSV tables, texts, tokens, safetensors.
package dataset

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/images"
	"github.com/ravnest/ravnest/engine/format/npy"
	"github.com/ravnest/ravnest/engine/format/text"
	"github.com/ravnest/ravnest/native/project"
)

// ErrKind is wrapped by errors about a path that is not a data set of a supported kind.
var ErrKind = errors.New("not a known kind of data set")

// Options say what the files themselves do not.
type Options struct {
	Target []string // of a table: the target columns; npy: the file of targets
	// Skip are columns of a table that are neither inputs nor targets, OneHot those that hold texts,
	// each of which becomes an input.
	Skip, OneHot []string
	// Columns are the inputs of a table that is to be predicted; nil: as many as the model takes.
	Columns []data.Column
	Block   int    // text, tokens: the length of a row in tokens; 0: 128
	Tokens  string // text, tokens: one of text.Kinds; "": bytes of a text, uint16 of a .bin
	Images  images.Options
	Val     float64 // share of the rows for validation, if the data have no validation part
	Seed    uint64  // chooses those rows
	// Tokenizer is the path of a tokenizer.json that turns a text into tokens; "": Tokens says how.
	Tokenizer string
	// Texts are the one or two columns of texts that the tokenizer makes rows of. A target among
	// them is what a decoder learns to write.
	Texts []string
	// Above is the size in bytes above which rows are not held in memory; nil: DefaultAbove.
	Above *int64
	// Fields are the inputs of a model that has several, and the targets of several losses.
	Fields Fields
	// Scratch is the directory for temporary files; "": the system's.
	Scratch string
	// Progress, unless nil, is told of how many bytes were read so far, now and then while data are
	// read that take long. Its error ends the reading.
	Progress func(bytes int64) error
	kept     *int64 // bytes in temporary files
}

// watched is a temporary file of what is read.
func (o *Options) watched(w io.Writer) io.Writer {
	if o.Progress == nil || o.kept == nil {
		return w
	}
	return &watched{w, o}
}

type watched struct {
	w io.Writer
	o *Options
}

// Write implements io.Writer.
func (w *watched) Write(b []byte) (int, error) {
	if err := w.o.Progress(*w.o.kept); err != nil {
		return 0, err
	}
	n, err := w.w.Write(b)
	*w.o.kept += int64(n)
	return n, err
}

func (o *Options) block() int {
	if o.Block == 0 {
		return 128
	}
	return o.Block
}

// Source is a data set that was read, before it is known in which form a model takes it.
type Source struct {
	Name   string
	tables [4]*data.Table
	// Classes are the names of the classes, or the characters that the tokens stand for, by
	// number; nil if they have no names.
	Classes []string
	Tokens  int // inputs are numbers of tokens less than this; 0: they are values
	// Words is Tokens of inputs whose targets are no tokens, Pad the token that fills their rows.
	Words, Pad int
	// Tokenizer is the tokenizer.json that made the tokens, nil if none did.
	Tokenizer []byte
	// Notes are what a person should know about how the data were read.
	Notes []string

	columns []data.Column // of a table, that are the inputs

	made    bool         // a table was made of lines of JSON: those of the file are others
	raws    [4]*data.Raw // instead of tables if the set is not held in memory
	closers []io.Closer
}

// Open reads the data set at path. The caller must close the source.
func Open(path string, o Options) (*Source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the data: %w", err)
	}
	s := &Source{Name: filepath.Base(path)}
	o.kept = new(int64)
	given := path
	if path, err = s.plain(path, info.IsDir(), o); err != nil {
		return nil, errors.Join(fmt.Errorf("the data %s: %w", given, err), s.Close())
	}
	if path != given {
		if info, err = os.Stat(path); err != nil {
			return nil, errors.Join(fmt.Errorf("the data %s: %w", given, err), s.Close())
		}
	}
	switch {
	case len(o.Texts) > 0:
		err = s.texts(path, o)
	case info.IsDir() && textParts(path)[0] != "":
		err = s.textClasses(textParts(path), o)
	case o.Fields.On():
		err = s.fields(path, o)
	case info.IsDir():
		err = s.folder(path, o)
	default:
		err = s.file(path, o)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the data %s: %w", given, err), s.Close())
	}
	if s.raws[0] != nil {
		if s.raws[2] == nil {
			err = s.split(o.Val, o.Seed)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("the data %s: %w", given, err), s.Close())
		}
		return s, nil
	}
	if s.tables[2] == nil {
		if s.tables, err = data.Split(s.tables[0], s.tables[1], o.Val, o.Seed); err != nil {
			return nil, errors.Join(fmt.Errorf("the data %s: %w", given, err), s.Close())
		}
	}
	return s, nil
}

// open calls read with a regular file and its size.
func open(path string, read func(f *os.File, size int64) error) error {
	f, size, err := project.OpenRegular(path, "data file")
	if err != nil {
		return err
	}
	defer f.Close()
	return read(f, size)
}

func (s *Source) file(path string, o Options) error {
	ext := strings.ToLower(filepath.Ext(path))
	if o.Tokenizer != "" && !slices.Contains([]string{".txt", ".text", ".md"}, ext) {
		return fmt.Errorf("%w: a tokenizer is for a text (.txt), or for columns of texts, which are named", ErrKind)
	}
	switch ext {
	case ".tar":
		return s.webdataset(parts(path, ext), o)
	case ".parquet":
		return s.parquets(parts(path, ext), o)
	case ".csv", ".tsv":
		return s.csv(path, o)
	}
	if o.Tokenizer == "" {
		if large, err := s.largeFile(path, ext, o); large || err != nil {
			return err
		}
	}
	return open(path, func(f *os.File, size int64) error {
		switch ext {
		case ".npz":
			m, err := npy.ReadZip(f, size)
			if err != nil {
				return err
			}
			return s.named(m)
		case ".npy":
			return s.pair(f, o)
		case ".txt", ".text", ".md", ".bin":
			return s.text(f, ext, o)
		case ".safetensors":
			set, err := data.ReadSafetensors(s.Name, f, size, nil)
			if err != nil {
				return err
			}
			s.tables = [4]*data.Table{set.Train.X(), set.Train.Y(), set.Val.X(), set.Val.Y()}
			if set.Val.Len() == 0 {
				s.tables[2], s.tables[3] = nil, nil
			}
			return nil
		}
		switch ext {
		case ".bz2", ".xz", ".zst", ".zip":
			return fmt.Errorf("%w: it is compressed: unpack it first, or compress it as .gz", ErrKind)
		}
		return fmt.Errorf("%w: a file ends in .csv, .tsv, .jsonl, .npz, .npy, .txt, .bin, .tar, .parquet or .safetensors, or one of them in .gz", ErrKind)
	})
}

func (s *Source) text(f io.Reader, ext string, o Options) error {
	kind, block := o.Tokens, o.block()
	if o.Tokenizer != "" {
		if kind != "" {
			return fmt.Errorf("%w: both tokens of %s and a tokenizer: give one of them", ErrKind, kind)
		}
		return s.tokenized(f, o, block)
	}
	if kind == "" {
		kind = text.Bytes
		if ext == ".bin" {
			kind = text.Uint16
		}
	}
	x, y, vocabulary, err := text.Read(f, kind, block)
	if err != nil {
		return err
	}
	s.tables, s.Classes = [4]*data.Table{x, y}, vocabulary
	switch s.Tokens = len(vocabulary); {
	case kind == text.Bytes:
		s.Tokens = 256
	case vocabulary == nil:
		s.Tokens = max(x.Most(), y.Most()) + 1
	}
	return nil
}

// pair reads inputs from one array file and targets from another.
func (s *Source) pair(f io.Reader, o Options) error {
	if len(o.Target) != 1 {
		return fmt.Errorf("%w: this array holds the inputs: name the file of the targets, too (--target y.npy)", ErrKind)
	}
	x, err := npy.Read(f)
	if err != nil {
		return err
	}
	s.tables[0] = x
	return open(o.Target[0], func(f *os.File, _ int64) error {
		y, err := npy.Read(f)
		if err == nil {
			y.Kind = data.Targets
			s.tables[1] = y
		}
		return err
	})
}

// keys lists the usual names of arrays for each table.
var keys = [4][]string{
	{"train_x", "x_train", "X_train", "x", "X", "inputs", "data"},
	{"train_y", "y_train", "Y_train", "y", "Y", "targets", "labels"},
	{"val_x", "x_val", "x_test", "X_test", "test_x"},
	{"val_y", "y_val", "y_test", "Y_test", "test_y"},
}

// chosen are the arrays for each table, "" where there is none.
func chosen(names []string) (pick [4]string, err error) {
	for i, ks := range keys {
		for _, k := range ks {
			if pick[i] == "" && slices.Contains(names, k) {
				pick[i] = k
			}
		}
	}
	if pick[0] == "" || pick[1] == "" || (pick[2] == "") != (pick[3] == "") {
		slices.Sort(names)
		return pick, fmt.Errorf("%w: its arrays are called %q, want train_x and train_y (or x_train, x ...), and for validation val_x and val_y", ErrKind, names)
	}
	return pick, nil
}

// named chooses arrays by their names.
func (s *Source) named(m map[string]*data.Table) error {
	pick, err := chosen(slices.Collect(maps.Keys(m)))
	if err != nil {
		return err
	}
	for i, k := range pick {
		if k != "" {
			m[k].Kind = data.Kind(i % 2)
			s.tables[i] = m[k]
		}
	}
	return nil
}

// first returns the path of the first of names that exists in dir, with or without .gz, or "".
func first(dir string, names ...string) string {
	for _, n := range names {
		for _, end := range []string{"", ".gz"} {
			if info, err := os.Stat(filepath.Join(dir, n+end)); err == nil && info.Mode().IsRegular() {
				return filepath.Join(dir, n+end)
			}
		}
	}
	return ""
}

func (s *Source) folder(dir string, o Options) error {
	if p := first(dir, "train-images-idx3-ubyte", "train-images.idx3-ubyte"); p != "" {
		return s.mnist(dir, o)
	}
	if p := first(dir, "data_batch_1.bin"); p != "" {
		return s.cifar(dir, 1, []string{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"}, "test_batch.bin", "batches.meta.txt", o)
	}
	if p := first(dir, "train.bin"); p != "" && first(dir, "fine_label_names.txt") != "" {
		return s.cifar(dir, 2, []string{"train.bin"}, "test.bin", "fine_label_names.txt", o)
	}
	if p := first(dir, "train_x.npy", "x_train.npy", "X_train.npy", "x.npy", "X.npy"); p != "" {
		return s.npyFolder(dir, o)
	}
	if lists := parts(dir, ".tar"); len(lists[0]) > 0 {
		return s.webdataset(lists, o)
	}
	if lists := parts(dir, ".parquet"); len(lists[0]) > 0 {
		return s.parquets(lists, o)
	}
	if first(dir, "data_batch_1", "batches.meta", "fine_label_names") != "" || first(dir, "meta", "train") != "" && first(dir, "test") != "" {
		return fmt.Errorf("%w: these are CIFAR's files for Python, pickles, which are never run: take the binary version, or save the arrays as .npz", ErrKind)
	}
	for _, ext := range []string{".bin", ".txt"} {
		if p := first(dir, "train"+ext); p != "" {
			return s.textFolder(p, first(dir, "val"+ext, "valid"+ext, "validation"+ext, "test"+ext), ext, o)
		}
	}
	if inner := single(dir); inner != "" { // as archives unpack, and torchvision downloads
		return s.folder(inner, o)
	}
	err := s.imageFolder(dir, o)
	switch {
	case errors.Is(err, images.ErrNone):
		return fmt.Errorf("%w, but %s: classes are folders of images, or of texts (.txt) with --tokenizer; of anything else make arrays (.npz)", err, endings(dir))
	case errors.Is(err, images.ErrFolder):
		return fmt.Errorf("%w; nor are there MNIST's, CIFAR's or NumPy's files, .parquet, .tar, or train.txt or train.bin, but %s; other files are given by themselves, not by their folder", err, endings(dir))
	}
	return err
}

// endings tells what kinds of files are in a folder and those in it.
func endings(dir string) string {
	const most = 1 << 16
	seen, n := map[string]int{}, 0
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || n == most {
			return fs.SkipAll // what was seen so far is told
		}
		if n++; !e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			if ext := strings.ToLower(filepath.Ext(e.Name())); len(ext) < 16 {
				seen[ext]++
			}
		}
		return nil
	})
	order := slices.SortedFunc(maps.Keys(seen), func(a, b string) int { return cmp.Or(cmp.Compare(seen[b], seen[a]), cmp.Compare(a, b)) })
	for i, ext := range order {
		if order[i] = fmt.Sprintf("%.16q", ext); ext == "" {
			order[i] = "others"
		}
	}
	if len(order) == 0 {
		return "no files"
	}
	return "files in " + strings.Join(order[:min(len(order), 5)], ", ")
}

// single is the one folder in dir where there is one, and it is not a part of a data set.
func single(dir string) string {
	es, _ := os.ReadDir(dir) //nolint:errcheck // what reads it afterwards tells
	inner := ""
	for _, e := range es {
		switch name := e.Name(); {
		case !e.IsDir() || strings.HasPrefix(name, ".") || name == "__MACOSX":
		case inner != "" || slices.Contains([]string{"train", "val", "valid", "validation", "test"}, name):
			return ""
		default:
			inner = name
		}
	}
	if inner == "" {
		return ""
	}
	return filepath.Join(dir, inner)
}

// textFolder reads a text, or a file of tokens, for training and one for validation, "" if there is
// none.
func (s *Source) textFolder(train, val, ext string, o Options) error {
	if o.Tokens == text.Characters && val != "" {
		return fmt.Errorf("%w: two files may have different characters: join them, or take bytes or a tokenizer", ErrKind)
	}
	for k, path := range []string{train, val} {
		if path == "" {
			continue
		}
		part := &Source{}
		err := part.file(path, o)
		s.closers = append(s.closers, part.closers...)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		copy(s.tables[2*k:], part.tables[:2])
		copy(s.raws[2*k:], part.raws[:2])
		s.Tokens, s.Classes, s.Tokenizer = max(s.Tokens, part.Tokens), part.Classes, part.Tokenizer
	}
	return s.level()
}

// level makes both parts files where one of them is too large for memory.
func (s *Source) level() error {
	if (s.raws[0] != nil) == (s.raws[2] != nil) {
		return nil
	}
	if s.tables[2] == nil && s.raws[2] == nil {
		return nil
	}
	for i, t := range s.tables {
		if t == nil {
			continue
		}
		s.raws[i], s.tables[i] = t.Raw(), nil
	}
	return nil
}

// words are those of a small file, none where there is none.
func words(dir, name string) []string {
	b, err := fs.ReadFile(os.DirFS(dir), name)
	if err != nil || len(b) >= 1<<16 {
		return nil
	}
	return strings.Fields(string(b))
}

// Columns returns the columns of a table that are the inputs; nil: it is not known.
func (s *Source) Columns() []data.Column { return s.columns }

// Names returns the names of the classes by number, nil if they have none.
func (s *Source) Names() []string { return s.Classes }

// Shape returns the shape of a row of inputs.
func (s *Source) Shape() []int {
	if s.raws[0] != nil {
		return slices.Clone(s.raws[0].Shape)
	}
	return slices.Clone(s.tables[0].Shape)
}

// Rows returns the number of rows for training and for validation.
func (s *Source) Rows() (train, val int) {
	if s.raws[0] != nil {
		if s.raws[2] != nil {
			val = s.raws[2].Rows
		}
		return s.raws[0].Rows, val
	}
	if s.tables[2] != nil {
		val = s.tables[2].Rows
	}
	return s.tables[0].Rows, val
}

// Set returns the data set in the form that a model takes: rows of the shape in, which may
// differ from the data's by axes of length 1, and targets as want says. It may be called once,
// since the set takes over the tables.
func (s *Source) Set(in []int, want *data.Want) (*data.Set, error) {
	for _, t := range []*data.Table{s.tables[0], s.tables[2]} {
		if t != nil && slices.Equal(squeeze(t.Shape), squeeze(in)) {
			t.Shape = slices.Clone(in)
		}
	}
	return data.Assemble(s.Name, s.tables, want)
}

// squeeze returns a shape without its axes of length 1.
func squeeze(shape []int) []int {
	return slices.DeleteFunc(slices.Clone(shape), func(d int) bool { return d == 1 })
}

// Values returns the number of values that a row of targets has.
func (s *Source) Values() int {
	if y := s.raws[1]; y != nil {
		return product(y.Shape)
	}
	return product(s.tables[1].Shape)
}

// Outputs returns the number of outputs that a model needs, for each position of a sequence: the
// number of classes or, for a regression, of values.
func (s *Source) Outputs() (n int, classes bool) {
	if s.Tokens > 0 {
		return s.Tokens, true
	}
	if y := s.raws[1]; y != nil {
		st, err := y.Survey(data.Targets, nil)
		if err != nil {
			return max(1, len(s.Classes)), true // making the shards will report the error
		}
		n = 1
		for _, d := range y.Shape {
			n *= d
		}
		if st.Float {
			return n, st.OneHot
		}
		return max(int(st.Most)+1, len(s.Classes)), true
	}
	y := s.tables[1]
	switch {
	case y.F32 != nil:
		n = 1
		for _, d := range y.Shape {
			n *= d
		}
		return n, y.Answers(0)
	}
	for _, t := range []*data.Table{y, s.tables[3]} {
		if t == nil {
			continue
		}
		n = max(n, t.Most()+1)
	}
	return max(n, len(s.Classes)), true
}
