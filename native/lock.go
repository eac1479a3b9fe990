// Locks that keep two processes from working on the same thing.

package native

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode"
)

// ErrLocked is wrapped by the error of a lock that another process holds.
var ErrLocked = errors.New("in use")

// Lock locks the file at path, which it creates if necessary, until unlock is called or this
// process ends. If another process holds the lock, the error wraps ErrLocked and says what that
// process wrote there: what, its process id, and since when. The file is never removed, since
// another process might be locking it at that moment. On a file system without locks, Lock
// succeeds without locking.
func Lock(path, what string) (unlock func(), err error) {
	if info, err := os.Lstat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("locking %s: it is not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	err = lockFile(f)
	switch {
	case errors.Is(err, ErrLocked):
		defer f.Close()
		b, _ := io.ReadAll(io.LimitReader(f, 200)) // only for people
		who := strings.Map(func(r rune) rune {
			if unicode.IsControl(r) || r == unicode.ReplacementChar {
				return -1
			}
			return r
		}, string(b))
		if who == "" {
			who = "another process"
		}
		return nil, fmt.Errorf("%w by %s: wait until it ends, or stop it", ErrLocked, who)
	case errors.Is(err, errors.ErrUnsupported):
		return func() { _ = f.Close() }, nil
	case err != nil:
		return nil, errors.Join(&fs.PathError{Op: "locking", Path: path, Err: err}, f.Close())
	}
	text := fmt.Sprintf("%s (process %d, since %s)\n", what, os.Getpid(), time.Now().Format("2006-01-02 15:04:05"))
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func writeAt(f *os.File, text string) error {
	_, err := f.WriteAt([]byte(text), 0)
	return err
}
