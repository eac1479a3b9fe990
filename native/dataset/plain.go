// Files that are another kind of file once they are unpacked, joined or written anew: compressed
// ones, lines of JSON, folders of texts.

package dataset

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of what is unpacked: a gzip file may hold a thousand times its size.
const (
	maxUnpacked = 64 << 30
	maxLine     = 16 << 20
	maxTexts    = 1 << 20 // files of a folder
)

// packable are the kinds of files that are read from a .gz.
var packable = []string{".csv", ".tsv", ".jsonl", ".txt", ".text", ".md", ".npy", ".npz", ".safetensors", ".tar", ".bin"}

// scratch is a directory of files that are deleted with the source.
type scratch string

// Close implements io.Closer.
func (s scratch) Close() error { return os.RemoveAll(string(s)) }

// plain is path, or that of a temporary file that holds the same in a kind that is read.
func (s *Source) plain(path string, dir bool, o Options) (string, error) {
	ext := strings.ToLower(filepath.Ext(path))
	if dir {
		return s.joined(path, o)
	}
	name := filepath.Base(path)
	if ext == ".gz" || ext == ".tgz" {
		inner := strings.TrimSuffix(name, filepath.Ext(name))
		if ext == ".tgz" {
			inner += ".tar"
		}
		if ext = strings.ToLower(filepath.Ext(inner)); !slices.Contains(packable, ext) {
			return "", fmt.Errorf("%w: a compressed file is a %s", ErrKind, strings.Join(packable, ".gz, ")+".gz")
		}
		var err error
		if path, err = s.written(inner, o, func(w *bufio.Writer) error { return unpack(w, path) }); err != nil {
			return "", err
		}
		name = inner
	}
	if ext == ".jsonl" && len(o.Texts) == 0 && !o.Fields.On() {
		s.made = true
		return s.written(strings.TrimSuffix(name, filepath.Ext(name))+".csv", o, func(w *bufio.Writer) error {
			return open(path, func(f *os.File, _ int64) error { return tableOf(w, f) })
		})
	}
	return path, nil
}

// written makes a temporary file.
func (s *Source) written(name string, o Options, write func(w *bufio.Writer) error) (string, error) {
	dir, err := os.MkdirTemp(o.Scratch, ".ravnest-")
	if err != nil {
		return "", fmt.Errorf("making a directory for what is read: %w", err)
	}
	s.closers = append(s.closers, scratch(dir))
	path := filepath.Join(dir, name)
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("making a file for what is read: %w", err)
	}
	w := bufio.NewWriterSize(o.watched(f), 1<<20)
	if err = write(w); err == nil {
		err = w.Flush()
	}
	return path, errors.Join(err, f.Close())
}

func unpack(w io.Writer, path string) error {
	return open(path, func(f *os.File, _ int64) error {
		z, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<20))
		if err != nil {
			return fmt.Errorf("unpacking it: %w", err)
		}
		n, err := io.Copy(w, io.LimitReader(z, maxUnpacked+1))
		switch {
		case err != nil:
			return fmt.Errorf("unpacking it: %w", err)
		case n > maxUnpacked:
			return fmt.Errorf("unpacking it: more than %d GiB", maxUnpacked>>30)
		}
		return nil
	})
}

// joined is a file of all texts in a folder, or the folder where it holds others too.
func (s *Source) joined(dir string, o Options) (string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	entries, err := d.ReadDir(maxTexts + 1)
	if err = errors.Join(err, d.Close()); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	var names []string
	for _, e := range entries {
		switch name := e.Name(); {
		case strings.HasPrefix(name, "."):
		case !e.Type().IsRegular() || strings.ToLower(filepath.Ext(name)) != ".txt":
			return dir, nil
		case strings.EqualFold(name, "train.txt"): // with a part for validation, or without
			return dir, nil
		default:
			names = append(names, name)
		}
	}
	if len(names) == 0 || len(o.Texts) > 0 || o.Fields.On() {
		return dir, nil
	}
	if len(entries) > maxTexts {
		return "", fmt.Errorf("a folder of more than %d texts", maxTexts)
	}
	slices.Sort(names)
	s.Notes = append(s.Notes, fmt.Sprintf("%d texts are read as one, in the order of their names", len(names)))
	return s.written(filepath.Base(dir)+".txt", o, func(w *bufio.Writer) error {
		for i, name := range names {
			if i > 0 {
				if err := w.WriteByte('\n'); err != nil {
					return err
				}
			}
			if err := open(filepath.Join(dir, name), func(f *os.File, _ int64) error {
				_, err := io.Copy(w, f)
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxKeys bounds the columns of a table of JSON objects.
const maxKeys = 1 << 16

// writeRow writes a row with all cells in quotes: names may hold what separates columns elsewhere,
// and a line with one empty cell would be none.
func writeRow(w *bufio.Writer, cells []string) error {
	for i, c := range cells {
		if i > 0 {
			_ = w.WriteByte(',') // what fails is told by the last write
		}
		_ = w.WriteByte('"')
		_, _ = w.WriteString(strings.ReplaceAll(c, `"`, `""`))
		_ = w.WriteByte('"')
	}
	return w.WriteByte('\n')
}

// tableOf writes lines of JSON objects with the same keys as a table, whose columns are in the order
// of the first line's. Truth values are 1 and 0, null is nothing.
func tableOf(w *bufio.Writer, r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 1<<16), maxLine)
	at := map[string]int{}
	var names, row []string
	n := 0
	for lines.Scan() {
		n++
		line := bytes.TrimSpace(lines.Bytes())
		if n == 1 {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		if len(line) == 0 {
			continue
		}
		keys, values, err := object(line)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if names == nil {
			if names = keys; len(names) == 0 {
				return fmt.Errorf("line %d has no columns", n)
			}
			if err := writeRow(w, names); err != nil {
				return err
			}
			row = make([]string, len(names))
			for i, name := range names {
				at[name] = i
			}
		}
		clear(row)
		for k, name := range keys {
			i, ok := at[name]
			if !ok {
				return fmt.Errorf("line %d has a column %.60q, the first has none: every line has the same columns, null where there is nothing", n, name)
			}
			row[i] = values[k]
		}
		if len(keys) < len(names) {
			lacks := slices.IndexFunc(names, func(name string) bool { return !slices.Contains(keys, name) })
			return fmt.Errorf("line %d has no column %.60q: every line has the same columns, null where there is nothing", n, names[lacks])
		}
		if err := writeRow(w, row); err != nil {
			return err
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("line %d has more than %d bytes: does every line hold an object of its own?", n+1, maxLine)
	} else if err != nil {
		return fmt.Errorf("line %d: %w", n+1, err)
	}
	if names == nil {
		return fmt.Errorf("it has no lines")
	}
	return nil
}

// object are the keys and values of an object of plain values, in order.
func object(line []byte) (keys, values []string, err error) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, nil, errors.New("it is no JSON object")
	}
	seen := map[string]bool{}
	for d.More() {
		k, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		v, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		name, _ := k.(string)
		text := ""
		switch x := v.(type) {
		case nil:
		case bool:
			if text = "0"; x {
				text = "1"
			}
		case string:
			text = x
		case json.Number:
			text = x.String()
		default:
			return nil, nil, fmt.Errorf("column %.60q holds a list or an object; columns are numbers or texts", name)
		}
		if seen[name] {
			return nil, nil, fmt.Errorf("column %.60q is there twice", name)
		}
		if seen[name] = true; len(keys) >= maxKeys {
			return nil, nil, fmt.Errorf("more than %d columns", maxKeys)
		}
		keys, values = append(keys, name), append(values, text)
	}
	if _, err := d.Token(); err != nil {
		return nil, nil, err
	}
	if d.InputOffset() != int64(len(line)) {
		return nil, nil, errors.New("something follows the object")
	}
	return keys, values, nil
}
