// Package strict decodes JSON that people write by hand: jobs, pools, models.
//
// encoding/json is made for programs. It takes "Epochs" for "epochs", the last of two equal
// fields, null for any value and two numbers for three, and says nothing. Here each of these
// is an error that names the field, an unknown field is answered with the nearest known one,
// and what was left out can be told from a zero. Text may come as editors save it: with a
// byte order mark, with Windows' line ends, in UTF-16.
package strict

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep values may be nested.
const maxDepth = 64

// Fields are the paths of the fields that a text has, like "optimizer.lr".
type Fields map[string]bool

// Text is data as UTF-8 without a byte order mark. UTF-16 is told by its mark.
func Text(data []byte) ([]byte, error) {
	if b, ok := bytes.CutPrefix(data, []byte("\xef\xbb\xbf")); ok {
		data = b
	}
	if len(data) >= 2 && (data[0] == 0xff && data[1] == 0xfe || data[0] == 0xfe && data[1] == 0xff) {
		if len(data)%2 != 0 {
			return nil, errors.New("the text is UTF-16 and ends within a character: save it as UTF-8")
		}
		hi := 0
		if data[0] == 0xff {
			hi = 1
		}
		var u []uint16
		for i := 2; i < len(data); i += 2 {
			u = append(u, uint16(data[i+hi])<<8|uint16(data[i+1-hi]))
		}
		data = []byte(string(utf16.Decode(u)))
	}
	if !utf8.Valid(data) {
		return nil, errors.New("the text is not UTF-8: save it as UTF-8")
	}
	return data, nil
}

// Decode reads exactly one JSON value into v, a pointer. Fields that are missing leave v as
// it is. It returns which fields there are.
func Decode(data []byte, v any) (Fields, error) {
	data, err := Text(data)
	if err != nil {
		return nil, err
	}
	w := walker{data: data, d: json.NewDecoder(bytes.NewReader(data)), fields: Fields{}}
	w.d.UseNumber()
	if err := w.value(reflect.TypeOf(v).Elem(), "", 0); err != nil {
		return nil, w.explain(err)
	}
	if _, err := w.d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%s: something follows the end of the JSON value", w.place(w.d.InputOffset()))
	}
	if err := json.Unmarshal(data, v); err != nil {
		return nil, w.explain(err)
	}
	return w.fields, nil
}

// walker compares the text with a type before anything is decoded.
type walker struct {
	data   []byte
	d      *json.Decoder
	fields Fields
}

var (
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// opaque says whether a type decodes itself, or anything.
func opaque(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return t.Kind() == reflect.Interface || p.Implements(unmarshaler) || p.Implements(textUnmarshaler)
}

func (w *walker) value(t reflect.Type, path string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: values are nested more than %d deep", orRoot(path), maxDepth)
	}
	if opaque(t) {
		var skip json.RawMessage
		return w.d.Decode(&skip)
	}
	null := false
	for t.Kind() == reflect.Pointer {
		t, null = t.Elem(), true
	}
	at := w.d.InputOffset()
	tok, err := w.d.Token()
	if err != nil {
		return err
	}
	want := kindOf(t)
	if tok == nil {
		if null {
			return nil
		}
		return fmt.Errorf("%s is null, want %s: leave the field out to have its default", orRoot(path), want)
	}
	if got := kindOfToken(tok); got != want && !(got == "a number" && strings.HasSuffix(want, "number")) {
		return fmt.Errorf("%s: %s is %s, want %s", w.place(at), orRoot(path), got, want)
	}
	switch tok {
	case json.Delim('{'):
		return w.object(t, path, depth)
	case json.Delim('['):
		return w.array(t, path, depth)
	}
	return w.number(t, tok, path)
}

// number says what is wrong with a number of a type, before encoding/json does.
func (w *walker) number(t reflect.Type, tok json.Token, path string) error {
	n, ok := tok.(json.Number)
	if !ok {
		return nil
	}
	var err error
	switch k := t.Kind(); {
	case k >= reflect.Int && k <= reflect.Int64:
		_, err = strconv.ParseInt(n.String(), 10, t.Bits())
	case k >= reflect.Uint && k <= reflect.Uint64:
		_, err = strconv.ParseUint(n.String(), 10, t.Bits())
	case k == reflect.Float32 || k == reflect.Float64:
		_, err = strconv.ParseFloat(n.String(), t.Bits())
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("%s %.40s is larger than any number that is read here", orRoot(path), n)
	}
	return fmt.Errorf("%s %.40s is not %s", orRoot(path), n, kindOf(t))
}

func (w *walker) object(t reflect.Type, path string, depth int) error {
	seen := map[string]bool{}
	for w.d.More() {
		tok, err := w.d.Token()
		if err != nil {
			return err
		}
		key, ok := tok.(string)
		if !ok {
			return fmt.Errorf("%s: a field's name is not a string", orRoot(path))
		}
		if seen[key] {
			return fmt.Errorf("%s: the field %q stands twice", orRoot(path), key)
		}
		seen[key] = true
		sub := key
		if path != "" {
			sub = path + "." + key
		}
		elem := t
		if t.Kind() == reflect.Map {
			elem = t.Elem()
		} else {
			known := fieldsOf(t)
			if elem, ok = known[key]; !ok {
				return fmt.Errorf("%s: unknown field %q%s%s", w.place(w.d.InputOffset()), key, in(path), suggest(key, known))
			}
		}
		w.fields[sub] = true
		if err := w.value(elem, sub, depth+1); err != nil {
			return err
		}
	}
	_, err := w.d.Token()
	return err
}

func (w *walker) array(t reflect.Type, path string, depth int) error {
	n := 0
	for ; w.d.More(); n++ {
		if err := w.value(t.Elem(), fmt.Sprintf("%s[%d]", path, n), depth+1); err != nil {
			return err
		}
	}
	if t.Kind() == reflect.Array && n != t.Len() {
		return fmt.Errorf("%s has %d values, want %d", orRoot(path), n, t.Len())
	}
	_, err := w.d.Token()
	return err
}

// fieldsOf are the types of a struct's fields by their names in JSON.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	m := map[string]reflect.Type{}
	for f := range fields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
		case f.Anonymous && name == "":
			for k, e := range fieldsOf(f.Type) {
				m[k] = e
			}
		case name == "":
			m[f.Name] = f.Type
		default:
			m[name] = f.Type
		}
	}
	return m
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

func kindOf(t reflect.Type) string {
	switch k := t.Kind(); {
	case k == reflect.Bool:
		return "true or false"
	case k >= reflect.Int && k <= reflect.Uint64:
		return "a whole number"
	case k == reflect.Float32 || k == reflect.Float64:
		return "a number"
	case k == reflect.String:
		return "a string"
	case k == reflect.Slice || k == reflect.Array:
		return "an array"
	}
	return "an object"
}

func kindOfToken(tok json.Token) string {
	switch v := tok.(type) {
	case bool:
		return "true or false"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case json.Delim:
		if v == '[' {
			return "an array"
		}
	}
	return "an object"
}

func orRoot(path string) string {
	if path == "" {
		return "the text"
	}
	return path
}

func in(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

// place is where a byte of the text is, as editors count.
func (w *walker) place(off int64) string {
	off = max(off, 0)
	head := w.data[:min(int(off), len(w.data))]
	// What precedes a token is not where it is.
	for int(off) < len(w.data) && strings.ContainsRune(" \t\r\n,:", rune(w.data[off])) {
		off++
		head = w.data[:off]
	}
	line := bytes.Count(head, []byte("\n"))
	column := utf8.RuneCount(head[bytes.LastIndexByte(head, '\n')+1:])
	return fmt.Sprintf("line %d, column %d", line+1, column+1)
}

// explain gives a syntax error its place.
func (w *walker) explain(err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s: %w", w.place(syntax.Offset-1), err)
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the JSON value ends too early: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// suggest names the known field that is written most like key.
func suggest(key string, known map[string]reflect.Type) string {
	if best := Nearest(key, slices.Sorted(maps.Keys(known))); best != "" {
		return fmt.Sprintf(": the nearest is %q", best)
	}
	return ""
}

// Nearest is the element of known that is written most like name, "" if there is none. A
// name that contains the other is near: "start_factor" and "start".
func Nearest(name string, known []string) string {
	best, least := "", 1<<30
	for _, k := range known {
		a, b := plain(name), plain(k)
		d := 2 * distance(a, b)
		if a != "" && b != "" && (strings.Contains(a, b) || strings.Contains(b, a)) {
			d = min(d, 3)
		}
		if d < least {
			best, least = k, d
		}
	}
	return best
}

// plain is a name without what people mix up.
func plain(s string) string {
	if len(s) > 64 {
		s = s[:64]
	}
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
}

// distance is the number of bytes to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := last
			if a[i] != b[j] {
				d = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}
