// Files that grow while a run trains. A disk that is full for a time costs nothing: what it does
// not take stays in memory and is written later.

package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// spool is such a file. Only flush writes to it.
type spool struct {
	f    *os.File
	at   int64  // bytes that are written and stay
	left []byte // what comes after them
	long bool   // the file may have more than that
}

// Write adds to the end. It never fails.
func (s *spool) Write(b []byte) (int, error) {
	s.left = append(s.left, b...)
	return len(b), nil
}

// size is the file's length once everything is written.
func (s *spool) size() int64 { return s.at + int64(len(s.left)) }

// cut removes what comes after n bytes.
func (s *spool) cut(n int64) {
	if n < s.at {
		s.at, s.left, s.long = n, s.left[:0], true
		return
	}
	s.left = s.left[:n-s.at]
}

// from returns what comes after n bytes.
func (s *spool) from(n int64) ([]byte, error) {
	if n >= s.at {
		return slices.Clone(s.left[n-s.at:]), nil
	}
	b := make([]byte, s.at-n, s.size()-n)
	if _, err := s.f.ReadAt(b, n); err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.f.Name(), err)
	}
	return append(b, s.left...), nil
}

// flush writes what is not written yet, as far as the disk takes it.
func (s *spool) flush() (err error) {
	if s.long {
		if err = s.f.Truncate(s.at); err == nil {
			s.long = false
		}
	}
	if err == nil && len(s.left) > 0 {
		var n int
		n, err = s.f.WriteAt(s.left, s.at)
		s.at, s.left = s.at+int64(n), slices.Delete(s.left, 0, n)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", s.f.Name(), err)
	}
	return nil
}

func (s *spool) close() error { return errors.Join(s.flush(), s.restore(), s.f.Close()) }

// restore writes the file anew if somebody has removed it while the run went on.
func (s *spool) restore() error {
	name := s.f.Name()
	if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err == nil {
		_, err = io.Copy(f, io.NewSectionReader(s.f, 0, s.at))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("%s was removed while the run went on: writing it again: %w", name, err)
	}
	return nil
}
