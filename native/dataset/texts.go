// Columns of texts that a tokenizer makes rows of tokens: one text or a pair, for a class or a
// number; or a text and what a decoder answers.

package dataset

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/csv"
	"github.com/ravnest/ravnest/engine/format/jsonl"
	"github.com/ravnest/ravnest/engine/format/parquet"
	"github.com/ravnest/ravnest/engine/format/tokenizer"
	"github.com/ravnest/ravnest/engine/state"
)

// The fields of a row, as Hugging Face's models call them.
const (
	tokenIDs   = "input_ids"
	tokenMask  = "attention_mask"
	tokenKinds = "token_type_ids"
)

var tokenFields = []string{tokenIDs, tokenMask, tokenKinds}

// textFiles lists the files of texts at path, for training and for validation.
func textFiles(path string) ([2][]string, error) {
	for _, ext := range []string{".parquet", ".jsonl", ".csv", ".tsv"} {
		if lists := parts(path, ext); len(lists[0]) > 0 {
			return lists, nil
		}
	}
	return [2][]string{}, fmt.Errorf("%w: columns of texts come from .csv, .tsv, .jsonl or .parquet files", ErrKind)
}

// columnsOf names the columns of a file.
func columnsOf(path string) (names []string, err error) {
	err = open(path, func(f *os.File, size int64) error {
		switch strings.ToLower(filepath.Ext(path)) {
		case ".parquet":
			names, err = parquet.Names(f, size)
		case ".jsonl":
			names, err = jsonl.Names(f)
		default:
			names, err = csv.Header(f)
		}
		return err
	})
	return names, err
}

// cells gives the named columns of a file, row by row; a mistake of the callee's is said with
// its place.
func cells(path string, columns []string, give func(cells []string) error) error {
	at := func(what string) func(int, []string) error {
		return func(n int, cells []string) error {
			if err := give(cells); err != nil {
				return fmt.Errorf("%s: %s %d: %w", filepath.Base(path), what, n, err)
			}
			return nil
		}
	}
	return open(path, func(f *os.File, size int64) error {
		switch strings.ToLower(filepath.Ext(path)) {
		case ".parquet":
			return parquet.Texts(f, size, columns, at("row"))
		case ".jsonl":
			return jsonl.Texts(f, columns, at("line"))
		}
		return csv.Cells(f, columns, at("line"))
	})
}

// textRows writes rows of tokens to temporary files.
type textRows struct {
	s    *Source
	o    Options
	t    *tokenizer.Tokenizer
	part [2]map[string]*spool // for training, for validation
	buf  []byte
}

func newTextRows(s *Source, o Options) (*textRows, error) {
	if o.Tokenizer == "" {
		return nil, fmt.Errorf("%w: columns of texts need a tokenizer: give --tokenizer tokenizer.json", ErrKind)
	}
	if len(o.Texts) > 2 {
		return nil, fmt.Errorf("%w: %d columns of texts, a row has one or two", ErrKind, len(o.Texts))
	}
	if o.Block < 1 {
		return nil, fmt.Errorf("%w: the model takes no rows of tokens", ErrKind)
	}
	t, b, err := ReadTokenizer(o.Tokenizer)
	if err != nil {
		return nil, err
	}
	s.Tokenizer = b
	return &textRows{s: s, o: o, t: t}, nil
}

// write appends a field of a row to part k.
func (r *textRows) write(k int, field string, v []int32) error {
	if r.part[k] == nil {
		r.part[k] = map[string]*spool{}
	}
	sp := r.part[k][field]
	if sp == nil {
		dtype := state.I32
		switch {
		case field == tokenMask || field == tokenKinds:
			dtype = state.U8
		case field == tokenIDs && r.t.Size() <= math.MaxUint16+1:
			dtype = state.U16
		}
		var err error
		if sp, err = newSpool(&r.o, dtype); err != nil {
			return err
		}
		r.s.closers = append(r.s.closers, sp)
		sp.shape = []int{len(v)}
		r.part[k][field] = sp
	}
	if sp.rows++; sp.rows > data.MaxRows {
		return fmt.Errorf("%w: more than %d rows", data.ErrInvalid, data.MaxRows)
	}
	r.buf = r.buf[:0]
	for _, x := range v {
		switch sp.dtype {
		case state.U8:
			r.buf = append(r.buf, uint8(x))
		case state.U16:
			r.buf = binary.LittleEndian.AppendUint16(r.buf, uint16(x))
		default:
			r.buf = binary.LittleEndian.AppendUint32(r.buf, uint32(x))
		}
	}
	if _, err := sp.w.Write(r.buf); err != nil {
		return fmt.Errorf("writing what is read to a file: %w", err)
	}
	return nil
}

// add adds a row of one text or of two to part k.
func (r *textRows) add(k int, texts []string) error {
	ids, mask, kinds, err := r.t.Row(r.o.Block, texts...)
	for i, v := range [][]int32{ids, mask, kinds} {
		if err == nil {
			err = r.write(k, tokenFields[i], v)
		}
	}
	return err
}

// answers is the field of targets where they are tokens.
const answers = "answers"

// Asked is a text that an answer follows: a line break stands between the two where there is no
// space.
func Asked(text, answer string) string {
	last, _ := utf8.DecodeLastRuneInString(text)
	if first, _ := utf8.DecodeRuneInString(answer); text != "" && !unicode.IsSpace(last) && !unicode.IsSpace(first) {
		text += "\n"
	}
	return text
}

// answer adds a row of a text, which may be empty, and its answer to part k.
func (r *textRows) answer(k int, text, answer string) error {
	text = Asked(text, answer)
	ids, mask, next, err := r.t.Answer(r.o.Block, text, answer)
	for i, v := range [][]int32{ids, mask, next} {
		if err == nil {
			err = r.write(k, []string{tokenIDs, tokenMask, answers}[i], v)
		}
	}
	return err
}

// raws are the fields of part k.
func (r *textRows) raws(k int) (m map[string]*data.Raw, err error) {
	m = map[string]*data.Raw{}
	for name, sp := range r.part[k] {
		if m[name], err = sp.raw(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// labels are targets that are no tokens, before it is known what they are.
type labels struct {
	known map[string]int32
	names []string

	classes bool       // they are names, whatever they look like
	of      [2][]int32 // rows for training and for validation, by the names' numbers
}

const maxLabels = 1 << 24

// exact is the greatest magnitude up to which every whole number is a float32: what is beyond is no
// number of a class.
const exact = 1 << 24

func (l *labels) add(k int, cell string) error {
	cell = strings.TrimSpace(cell)
	id, ok := l.known[cell]
	switch {
	case cell == "":
		return errors.New("the target is empty: fill it, or remove the row")
	case len(cell) > 1<<12:
		return fmt.Errorf("a target of %d bytes, at most %d are the name of a class: is it a text that --text should name?", len(cell), 1<<12)
	case !ok && len(l.names) >= maxLabels:
		return fmt.Errorf("more than %d different targets", maxLabels)
	case !ok:
		id, cell = int32(len(l.names)), strings.Clone(cell)
		l.known[cell], l.names = id, append(l.names, cell)
	}
	l.of[k] = append(l.of[k], id)
	return nil
}

// raws are the targets of both parts: whole numbers, numbers, or the classes of texts, which are
// counted in the order of their sorting. names are those of such classes.
func (l *labels) raws() (raws [2]*data.Raw, names []string, err error) {
	whole, floats := make([]uint32, len(l.names)), make([]uint32, len(l.names))
	dtype, values, numbers, odd, words := state.I32, whole, true, "", false
	for i, n := range l.names {
		k, err := strconv.ParseInt(n, 10, 32)
		if whole[i] = uint32(k); err != nil || k < -exact || k > exact {
			dtype, values = state.F32, floats
		}
		v, err := strconv.ParseFloat(n, 32)
		numbers = numbers && err == nil && v-v == 0
		floats[i] = math.Float32bits(float32(v))
		switch {
		case !csv.Infinite(n):
			words = words || err != nil
		case odd == "":
			odd = n
		}
	}
	if odd != "" && !words && !l.classes {
		return raws, nil, fmt.Errorf("%w: the target %.40q is not finite: the targets are numbers, remove the rows without one", ErrKind, odd)
	}
	if !numbers || l.classes {
		names = slices.Sorted(slices.Values(l.names))
		dtype, values = state.I32, whole
		for i, n := range l.names {
			at, _ := slices.BinarySearch(names, n)
			whole[i] = uint32(at)
		}
	}
	for k, of := range l.of {
		if of == nil {
			continue
		}
		b := make([]byte, 0, 4*len(of))
		for _, id := range of {
			b = binary.LittleEndian.AppendUint32(b, values[id])
		}
		raws[k] = &data.Raw{Rows: len(of), Shape: []int{}, DType: dtype, R: bytes.NewReader(b)}
	}
	return raws, names, nil
}

// textTarget is the column of the target: the one that is named, or has a usual name.
func textTarget(first string, o Options) (string, error) {
	if len(o.Target) > 1 {
		return "", fmt.Errorf("%w: %d targets beside texts, one is supported", ErrKind, len(o.Target))
	}
	if len(o.Target) == 1 {
		return o.Target[0], nil
	}
	names, err := columnsOf(first)
	if err != nil {
		return "", err
	}
	for _, u := range append([]string{"class"}, target...) {
		if slices.Contains(names, u) && !slices.Contains(o.Texts, u) {
			return u, nil
		}
	}
	return "", fmt.Errorf("%w: which column is the target? name one of %.400q", ErrKind, names)
}

// texts reads rows of texts.
func (s *Source) texts(path string, o Options) error {
	r, err := newTextRows(s, o)
	if err != nil {
		return err
	}
	lists, err := textFiles(path)
	if err != nil {
		return err
	}
	aim, err := textTarget(lists[0][0], o)
	if err != nil {
		return err
	}
	columns, written := append(slices.Clone(o.Texts), aim), slices.Index(o.Texts, aim)
	if written >= 0 {
		columns = slices.Clone(o.Texts)
	}
	l := &labels{known: map[string]int32{}}
	for k, files := range lists {
		for _, name := range files {
			err := cells(name, columns, func(cells []string) error {
				switch {
				case written >= 0 && len(cells) == 1:
					return r.answer(k, "", cells[0])
				case written >= 0:
					return r.answer(k, cells[1-written], cells[written])
				}
				if err := l.add(k, cells[len(cells)-1]); err != nil {
					return err
				}
				return r.add(k, cells[:len(cells)-1])
			})
			if err != nil {
				return err
			}
		}
	}
	ys, names, err := l.raws()
	if err != nil {
		return err
	}
	for _, n := range o.Texts {
		s.columns = append(s.columns, data.Column{Name: n, Text: true})
	}
	if s.Classes = names; written >= 0 {
		s.Tokens = r.t.Size()
		return r.done(ys, aim)
	}
	s.Words, s.Pad = r.t.Size(), int(r.t.Pad())
	return r.done(ys, aim)
}

// done gives the rows to the source, with targets that are called aim, or the answers.
func (r *textRows) done(ys [2]*data.Raw, aim string) error {
	all, size := map[string]*data.Raw{}, int64(0)
	var plain [4]*data.Raw
	for k, prefix := range []string{"", "val_"} {
		m, err := r.raws(k)
		if err != nil {
			return err
		}
		if len(m) == 0 {
			continue
		}
		y := ys[k]
		if m[answers] != nil {
			y = m[answers]
			delete(m, answers)
		}
		for name, x := range m {
			all[prefix+name] = x
			size += int64(x.Rows) * int64(product(x.Shape)) * int64(x.DType.Size())
		}
		all[prefix+aim], plain[2*k], plain[2*k+1] = y, m[tokenIDs], y
	}
	if plain[0] == nil {
		return fmt.Errorf("%w: it holds no rows for training", ErrKind)
	}
	o := &r.o
	if !o.Fields.On() {
		return r.s.take(plain, size, o.above())
	}
	if len(o.Target) == 0 {
		o.Target = []string{aim}
	}
	var err error
	if size > o.above() {
		r.s.raws, err = arrange(o, all, data.JoinRaw)
		return err
	}
	tables, err := tablesOf(all)
	for name, t := range tables {
		if strings.TrimPrefix(name, "val_") == aim {
			t.Kind = data.Targets
		}
	}
	if err == nil {
		r.s.tables, err = arrange(o, tables, data.Join)
	}
	return err
}

// tablesOf reads rows into memory.
func tablesOf(raws map[string]*data.Raw) (m map[string]*data.Table, err error) {
	m = map[string]*data.Table{}
	for name, raw := range raws {
		var s Source
		if err := s.take([4]*data.Raw{raw}, 0, 0); err != nil {
			return nil, err
		}
		m[name] = s.tables[0]
	}
	return m, nil
}

// textInputs makes rows of tokens of texts that are to be predicted.
func (s *Source) textInputs(path string, o Options) (map[string]*data.Raw, error) {
	r, err := newTextRows(s, o)
	if err != nil {
		return nil, err
	}
	plain := false
	if len(o.Texts) == 1 {
		plain, err = texts(path, func(text string) error { return r.add(0, []string{text}) })
	}
	if !plain && err == nil {
		err = r.table(path)
	}
	if err != nil {
		return nil, err
	}
	m, err := r.raws(0)
	if err == nil && len(m) == 0 {
		err = fmt.Errorf("%w: it holds no rows", ErrKind)
	}
	return m, err
}

// table adds the columns of texts of a table.
func (r *textRows) table(path string) error {
	lists, err := textFiles(path)
	if err != nil {
		return err
	}
	for _, name := range slices.Concat(lists[0], lists[1]) {
		if err := cells(name, r.o.Texts, func(cells []string) error { return r.add(0, cells) }); err != nil {
			return err
		}
	}
	return nil
}
