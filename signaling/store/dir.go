package store

// A store in a directory. It uses a narrow interface FS, so that tests can simulate a full
// disk. OS adapts a real directory by os.Root, so that no name can lead out of it, not even
// through symbolic links.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
)

// File is what Dir writes to.
type File interface {
	io.WriteCloser
	Sync() error
}

// FS is what Dir needs of a file system. Names are slash-separated and relative.
type FS interface {
	fs.FS
	MkdirAll(name string) error
	// Create creates or truncates a file for writing.
	Create(name string) (File, error)
	// Append opens a file for writing at its end, and creates it if necessary.
	Append(name string) (File, error)
	Rename(from, to string) error
	// SyncDir makes renames in a directory durable.
	SyncDir(name string) error
	Remove(name string) error
}

// Dir is a store that keeps each object in a file.
type Dir struct {
	fs  FS
	tmp atomic.Int64

	mu      sync.Mutex // serialises appends, so that lines stay whole
	logs    map[string]*log
	logSize int64
}

// NewDir returns a store in f.
func NewDir(f FS) *Dir { return &Dir{fs: f, logs: map[string]*log{}, logSize: logSize} }

// tmpMark is the prefix of the names of files being written. No component of an object's name
// starts with a dot, so they cannot collide.
const tmpMark = ".tmp-"

// Put streams r to a temporary file beside the object, syncs it, renames it and syncs the
// directory.
func (d *Dir) Put(ctx context.Context, name string, r io.Reader) (err error) {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := d.fs.MkdirAll(path.Dir(name)); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	// A number unique to this process is enough: files left over from an earlier process are
	// overwritten, or swept.
	tmp := path.Join(path.Dir(name), fmt.Sprintf("%s%d-%s", tmpMark, d.tmp.Add(1), path.Base(name)))
	f, err := d.fs.Create(tmp)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("put %s: %w", name, err)
			_ = d.fs.Remove(tmp) // the error that matters is the first one
		}
	}()
	if _, err = io.Copy(f, r); err != nil {
		_ = f.Close()
		return err
	}
	if err = ctx.Err(); err != nil {
		_ = f.Close()
		return err
	}
	if err = f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = d.fs.Rename(tmp, name); err != nil {
		return err
	}
	return d.fs.SyncDir(path.Dir(name))
}

// Sweep removes what an earlier process has left that was ended while it put objects, which may be
// large. No other process may put objects meanwhile.
func (d *Dir) Sweep() error {
	var left []string
	err := fs.WalkDir(d.fs, ".", func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.HasPrefix(e.Name(), tmpMark) {
			left = append(left, p)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, p := range left {
		err = errors.Join(err, d.fs.Remove(p))
	}
	if err != nil {
		return fmt.Errorf("removing what an earlier run has left of saving: %w", err)
	}
	return nil
}

// Commit puts a small object.
func (d *Dir) Commit(ctx context.Context, name string, data []byte, done func(error)) {
	done(d.Put(ctx, name, bytes.NewReader(data)))
}

// Get opens the object, or returns fs.ErrNotExist.
func (d *Dir) Get(_ context.Context, name string) (io.ReadCloser, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	f, err := d.fs.Open(name)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return f, nil
}

// List returns the names of the objects that start with prefix, sorted. Logs are files too,
// but not objects; their names end in ".jsonl".
func (d *Dir) List(ctx context.Context, prefix string) ([]string, error) {
	root := "."
	if i := strings.LastIndexByte(prefix, '/'); i > 0 {
		root = prefix[:i]
	}
	names := []string{}
	err := fs.WalkDir(d.fs, root, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // does not exist, or was removed in the meantime
		}
		if err != nil {
			return err
		}
		if !e.IsDir() && strings.HasPrefix(p, prefix) && CheckName(p) == nil && !strings.HasSuffix(p, logSuffix) {
			names = append(names, p)
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	sort.Strings(names)
	return names, nil
}

// Delete removes the object if it exists.
func (d *Dir) Delete(_ context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := d.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	return nil
}

const logSuffix = ".jsonl"

// logSize is how many bytes of a log are kept at least, and half of how many there are at most: a
// file of that size becomes log.1.jsonl, in the place of the one before.
const logSize = 32 << 20

// log is an open one.
type log struct {
	File
	size int64
}

// Append adds a line to the file log.jsonl, which stays open until Close. Lines are not
// synced: a log is not worth the cost.
func (d *Dir) Append(_ context.Context, name string, line []byte) error {
	if err := CheckName(name); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.logs[name], error(nil)
	if f == nil {
		f, err = d.openLog(name)
	} else if f.size >= d.logSize {
		err = f.Close()
		delete(d.logs, name)
		if err == nil {
			err = d.fs.Rename(name+logSuffix, name+".1"+logSuffix)
		}
		if err == nil {
			f, err = d.openLog(name)
		}
	}
	if err == nil {
		var n int
		n, err = f.Write(append(line[:len(line):len(line)], '\n'))
		if f.size += int64(n); err != nil { // a part of the line may be there, which opening it again ends
			err = errors.Join(err, f.Close())
			delete(d.logs, name)
		}
	}
	if err != nil {
		return fmt.Errorf("append to %s: %w", name, err)
	}
	return nil
}

// openLog opens a log's file. d.mu is held.
func (d *Dir) openLog(name string) (*log, error) {
	err := d.fs.MkdirAll(path.Dir(name))
	if err != nil {
		return nil, err
	}
	f, err := d.fs.Append(name + logSuffix)
	if err != nil {
		return nil, err
	}
	l := &log{File: f}
	size, torn, err := logEnd(d.fs, name+logSuffix)
	if err == nil && torn { // the power failed in a line: it must not take the next one along
		_, err = f.Write([]byte{'\n'})
		size++
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	l.size, d.logs[name] = size, l
	return l, nil
}

// logEnd returns the size of a log, and whether its last line has no end.
func logEnd(in fs.FS, name string) (size int64, torn bool, err error) {
	f, err := in.Open(name)
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, false, err
	}
	var last [1]byte
	r, ok := f.(io.ReaderAt)
	if !ok {
		return info.Size(), false, nil
	}
	if _, err := r.ReadAt(last[:], info.Size()-1); err != nil {
		return 0, false, err
	}
	return info.Size(), last[0] != '\n', nil
}

// Close closes the logs. The store can be used again.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for name, f := range d.logs {
		errs = append(errs, f.Close())
		delete(d.logs, name)
	}
	return errors.Join(errs...)
}

// OS is the FS of a real directory.
type OS struct {
	root *os.Root
	fs.FS
}

// OpenOS opens dir, which it creates if necessary. The caller must call Close.
func OpenOS(dir string) (*OS, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return &OS{root: root, FS: root.FS()}, nil
}

// Close releases the directory.
func (o *OS) Close() error { return o.root.Close() }

// MkdirAll creates a directory and its parents.
func (o *OS) MkdirAll(name string) error { return o.root.MkdirAll(name, 0o755) }

// Create creates or truncates a file.
func (o *OS) Create(name string) (File, error) {
	return file(o.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644))
}

// Append opens a file for writing at its end, and creates it if necessary.
func (o *OS) Append(name string) (File, error) {
	return file(o.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644))
}

// file keeps a nil *os.File from becoming a non-nil File.
func file(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Rename moves a file, replacing one of the new name.
func (o *OS) Rename(from, to string) error { return o.root.Rename(from, to) }

// SyncDir syncs a directory if the system supports it.
func (o *OS) SyncDir(name string) error {
	if runtime.GOOS == "windows" || runtime.GOOS == "js" {
		return nil // directories cannot be opened as files there
	}
	f, err := o.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Remove deletes a file.
func (o *OS) Remove(name string) error { return o.root.Remove(name) }
