// Package jsonl reads rows of texts from JSON Lines: an object a line, as data sets of texts are
// often kept.
package jsonl

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// ErrFormat is wrapped by every error about what a file holds.
var ErrFormat = errors.New("invalid JSON lines")

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, a...)...)
}

// maxLine is the bytes of a line at most.
const maxLine = 1 << 24

// each gives the lines that are not empty, counted from 1, with their fields.
func each(r io.Reader, give func(line int, fields map[string]json.RawMessage) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 1<<16), maxLine)
	n := 0
	for s.Scan() {
		n++
		b := s.Bytes()
		if n == 1 {
			b = bytes.TrimPrefix(b, []byte("\xef\xbb\xbf"))
		}
		if len(bytes.TrimSpace(b)) == 0 {
			continue
		}
		var m map[string]json.RawMessage
		if err := json.Unmarshal(b, &m); err != nil {
			return bad("line %d is no object: %w", n, err)
		}
		if err := give(n, m); err != nil {
			return err
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return bad("line %d has more than %d bytes: does every line hold an object of its own?", n+1, maxLine)
	} else if err != nil {
		return bad("line %d: %w", n+1, err)
	}
	return nil
}

var errEnough = errors.New("enough")

// Names are the fields of the first line, sorted.
func Names(r io.Reader) (names []string, err error) {
	err = each(r, func(_ int, fields map[string]json.RawMessage) error {
		names = slices.Sorted(maps.Keys(fields))
		return errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return names, err
}

// Texts gives the named fields of each line: texts, or numbers as they are written. The cells are
// the callee's until it returns.
func Texts(r io.Reader, columns []string, give func(line int, cells []string) error) error {
	cells := make([]string, len(columns))
	return each(r, func(line int, fields map[string]json.RawMessage) error {
		for i, c := range columns {
			raw, ok := fields[c]
			if !ok {
				return bad("line %d has no field %.60q; it has %.400q", line, c, slices.Sorted(maps.Keys(fields)))
			}
			switch {
			case len(raw) > 0 && raw[0] == '"':
				if err := json.Unmarshal(raw, &cells[i]); err != nil {
					return bad("line %d, field %.60q: %w", line, c, err)
				}
			case len(raw) == 0 || raw[0] == '{' || raw[0] == '[' || raw[0] == 'n':
				return bad("line %d, field %.60q is %.20s, want a text or a number", line, c, raw)
			default:
				cells[i] = string(raw)
			}
		}
		return give(line, cells)
	})
}
