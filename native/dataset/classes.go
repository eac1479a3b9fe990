// Folders of classes of texts.

package dataset

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/data"
)

// maxText is the most bytes of one text of a folder.
const maxText = 1 << 24

// classFolders are the folders in dir, if each holds texts (.txt) and nothing else.
func classFolders(dir string) (classes []string) {
	es, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range es {
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, e.Name()))
		if err != nil || len(files) == 0 {
			return nil
		}
		for _, f := range files {
			if !strings.EqualFold(filepath.Ext(f.Name()), ".txt") && !strings.HasPrefix(f.Name(), ".") {
				return nil
			}
		}
		classes = append(classes, e.Name())
	}
	return classes
}

// textParts are the folders of classes of texts for training and for validation: those in dir, or in
// its folders train and val or test. They are "" where there are none.
func textParts(dir string) (lists [2]string) {
	if len(classFolders(dir)) > 1 {
		return [2]string{dir}
	}
	train := filepath.Join(dir, "train")
	if len(classFolders(train)) < 2 {
		return lists
	}
	for _, part := range []string{"val", "valid", "validation", "test"} {
		if p := filepath.Join(dir, part); len(classFolders(p)) > 0 {
			return [2]string{train, p}
		}
	}
	return [2]string{train}
}

// textClasses reads folders of classes of texts.
func (s *Source) textClasses(lists [2]string, o Options) error {
	r, err := newTextRows(s, o)
	if err != nil {
		return err
	}
	l := &labels{known: map[string]int32{}, classes: true}
	own := classFolders(lists[0])
	for k, part := range lists {
		if part == "" {
			continue
		}
		for _, class := range classFolders(part) {
			if !slices.Contains(own, class) {
				return fmt.Errorf("%w: %s has texts of the class %q, %s has none", ErrKind, filepath.Base(part), class, filepath.Base(lists[0]))
			}
			if err := r.class(k, filepath.Join(part, class), l); err != nil {
				return err
			}
		}
	}
	ys, names, err := l.raws()
	if err != nil {
		return err
	}
	s.columns = []data.Column{{Name: "text", Text: true}} // by which predict finds them in a table
	s.Classes, s.Words, s.Pad = names, r.t.Size(), int(r.t.Pad())
	return r.done(ys, "class")
}

// class adds the texts of a folder to part k.
func (r *textRows) class(k int, dir string, l *labels) error {
	return textsIn(dir, func(text string) error {
		if err := l.add(k, filepath.Base(dir)); err != nil {
			return err
		}
		return r.add(k, []string{text})
	})
}

// textsIn gives the texts (.txt) of a folder, in the order of their names.
func textsIn(dir string, give func(text string) error) error {
	es, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range es {
		if strings.HasPrefix(e.Name(), ".") || !strings.EqualFold(filepath.Ext(e.Name()), ".txt") {
			continue
		}
		if err := textIn(filepath.Join(dir, e.Name()), give); err != nil {
			return err
		}
	}
	return nil
}

// textIn gives the text of a file.
func textIn(path string, give func(text string) error) error {
	return open(path, func(f *os.File, size int64) error {
		if size > maxText {
			return fmt.Errorf("%s: %w: a text of %d bytes, at most %d are taken", filepath.Base(path), ErrKind, size, maxText)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxText))
		if err == nil {
			err = give(string(b))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		return nil
	})
}

// texts gives the text of a file (.txt), or of those in a folder without tables. It tells whether path
// is one of them.
func texts(path string, give func(text string) error) (bool, error) {
	if strings.EqualFold(filepath.Ext(path), ".txt") {
		return true, textIn(path, give)
	}
	if lists := parts(path, ".txt"); len(lists[0])+len(lists[1]) == 0 {
		return false, nil
	}
	if _, err := textFiles(path); err == nil {
		return false, nil
	}
	return true, textsIn(path, give)
}
