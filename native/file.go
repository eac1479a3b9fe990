// Saving a file so that it has either its old or its new content at every moment.

package native

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// WriteFile replaces the file at path with data; see Save.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Save(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Save replaces the file at path with what write writes. It writes to a temporary file in the
// same directory, syncs it, renames it and syncs the directory. If anything fails or write
// returns an error, the old file is unchanged and the temporary one is removed. A new file gets
// perm less the umask. A symbolic link is followed. The error says what could not be saved, how
// much was written and why it failed.
func Save(path string, perm fs.FileMode, write func(io.Writer) error) (err error) {
	target := path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		target = real
	}
	if info, err := os.Stat(target); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("saving %s: it exists and is not a regular file", path)
	}
	f, err := temporary(target, perm)
	if err != nil {
		return fmt.Errorf("saving %s: %w", path, err)
	}
	w := &counter{w: f}
	renamed := false
	defer func() {
		if err == nil {
			return
		}
		if renamed {
			err = fmt.Errorf("saving %s: it is in place, but may not survive a power failure: %w", path, err)
			return
		}
		_ = f.Close() // may be closed already
		hint := ""
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, errQuota) || errors.Is(err, syscall.EFBIG) {
			hint = "; free some space or save elsewhere"
		}
		if rm := os.Remove(f.Name()); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
			hint += fmt.Sprintf(" (and %s could not be removed: %v)", f.Name(), rm)
		}
		was := "nothing is there"
		if _, e := os.Lstat(target); e == nil {
			was = "the file that was there is unchanged"
		}
		err = fmt.Errorf("saving %s: %s tried, %s written: %w; %s%s", path, FormatSize(w.tried), FormatSize(w.n), err, was, hint)
	}()
	if err := write(w); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return err
	}
	renamed = true
	return syncDir(filepath.Dir(target))
}

// temporary creates a new file beside path. Unlike os.CreateTemp it honours the umask.
func temporary(path string, perm fs.FileMode) (*os.File, error) {
	dir, base := filepath.Split(path)
	for try := 0; ; try++ {
		name := filepath.Join(dir, fmt.Sprintf(".%s.%08x.tmp", base, rand.Uint32()))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm.Perm())
		if errors.Is(err, fs.ErrExist) && try < 100 {
			continue
		}
		return f, err
	}
}

// syncDir makes a rename durable. Windows cannot do so and does not need it.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network file systems cannot sync directories; there the rename is as safe as it gets.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// counter counts bytes for the error message.
type counter struct {
	w        io.Writer
	tried, n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.tried += int64(len(p))
	c.n += int64(n)
	return n, err
}
