// Reading and writing a project's files safely, whatever the names in the job point at and
// whatever is already in the directory.

package project

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ravnest/ravnest/native"
)

// kinds describes files that are not regular.
var kinds = []struct {
	mode fs.FileMode
	name string
}{
	{fs.ModeDir, "a directory"},
	{fs.ModeNamedPipe, "a named pipe"},
	{fs.ModeSocket, "a socket"},
	{fs.ModeDevice | fs.ModeCharDevice, "a device"},
}

// OpenRegular opens a regular file. It follows symbolic links, which the owner of the
// directory has made. Anything else is refused without opening it, since a named pipe would
// block for ever.
func OpenRegular(path, what string) (*os.File, int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if to, lerr := os.Readlink(path); lerr == nil {
			return nil, 0, fmt.Errorf("%w: the %s %s is a symbolic link to %s, which does not exist", ErrMissing, what, path, to)
		}
		return nil, 0, fmt.Errorf("%w: no %s at %s", ErrMissing, what, path)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("reading the %s: %w", what, err)
	}
	if !info.Mode().IsRegular() {
		kind := "not a regular file"
		for _, k := range kinds {
			if info.Mode()&k.mode != 0 {
				kind = k.name
			}
		}
		return nil, 0, fmt.Errorf("the %s %s is %s: a regular file is needed", what, path, kind)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the %s: %w", what, err)
	}
	return f, info.Size(), nil
}

// read reads a file of at most limit bytes.
func read(path, what string, limit int64) ([]byte, error) {
	f, _, err := OpenRegular(path, what)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the %s: %w", what, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("the %s %s is larger than %d bytes", what, path, limit)
	}
	return b, nil
}

// local returns the path of a file named by the job, which must be inside the directory. A
// symbolic link may lead anywhere: a job may come from others, but links do not.
func (p *Project) local(name, what string) (string, error) {
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the %s %q must be inside the job's directory", what, name)
	}
	return filepath.Join(p.Dir, name), nil
}

func (p *Project) readLocal(name, what string, limit int64) ([]byte, error) {
	path, err := p.local(name, what)
	if err != nil {
		return nil, err
	}
	return read(path, what, limit)
}

// ErrOutside is wrapped by errors about results that a symbolic link would put elsewhere.
var ErrOutside = errors.New("results are written in the job's directory only")

// Inside checks that writing name, relative to the directory, stays inside it: no existing
// part of the path may be a symbolic link that leads out.
func (p *Project) Inside(name string) error {
	root, err := filepath.EvalSymlinks(p.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it will be created
	}
	if err != nil {
		return fmt.Errorf("the job's directory: %w", err)
	}
	at := p.Dir
	for part := range strings.SplitSeq(filepath.ToSlash(filepath.Clean(name)), "/") {
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		real, err := filepath.EvalSymlinks(at)
		if err != nil {
			return fmt.Errorf("%w: %s is a symbolic link that leads nowhere: %w", ErrOutside, at, err)
		}
		if rel, err := filepath.Rel(root, real); err != nil || !filepath.IsLocal(rel) {
			return fmt.Errorf("%w: %s is a symbolic link to %s: remove the link or work in that directory", ErrOutside, at, real)
		}
	}
	return nil
}

// write writes a file of the project atomically.
func (p *Project) write(name string, b []byte) error {
	if err := p.Inside(name); err != nil {
		return err
	}
	path := filepath.Join(p.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("creating the directory of %s: %w", name, err)
	}
	return native.WriteFile(path, b, 0o644)
}

// glob returns the files that match a pattern relative to the directory, sorted. The
// directory's own name may contain any characters.
func (p *Project) glob(pattern string) ([]string, error) {
	names, err := fs.Glob(os.DirFS(p.Dir), pattern)
	slices.Sort(names)
	return names, err
}

// MoveAside moves the results of an older run to previous/N and returns N; 0 means that there
// were none. It is an error if something cannot be moved; that stays in place. The manifest
// is removed, since the next run discards the objects that it names, while the stage files
// written from it are kept.
func (p *Project) MoveAside() (int, error) {
	var found []string
	for _, pattern := range []string{LossesFile, RoundsFile, ValsFile, ValLossFile, MetricsFile, TrainedDir, StoreDir + "/*/metrics.jsonl", StoreDir + "/*/metrics.1.jsonl", "node_data/cluster_*/*/" + WeightsFile} {
		names, err := p.glob(pattern)
		if err != nil {
			return 0, err
		}
		found = append(found, names...)
	}
	if len(found) == 0 {
		return 0, p.dropManifest()
	}
	failed := func(err error) (int, error) {
		return 0, fmt.Errorf("moving the older run's results aside: %w", err)
	}
	if err := p.Inside(OldDir); err != nil {
		return failed(err)
	}
	if err := os.MkdirAll(filepath.Join(p.Dir, OldDir), 0o755); err != nil {
		return failed(err)
	}
	n := 1
	for ; ; n++ {
		err := os.Mkdir(filepath.Join(p.Dir, OldDir, strconv.Itoa(n)), 0o755)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrExist) || n > 1e6 {
			return failed(err)
		}
	}
	for _, rel := range found {
		to := filepath.Join(p.Dir, OldDir, strconv.Itoa(n), filepath.FromSlash(rel))
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return failed(err)
		}
		if err := os.Rename(filepath.Join(p.Dir, filepath.FromSlash(rel)), to); err != nil {
			return failed(err)
		}
	}
	return n, p.dropManifest()
}

func (p *Project) dropManifest() error {
	if err := p.Inside(filepath.Dir(ManifestFile)); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(p.Dir, filepath.FromSlash(ManifestFile)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the older run's manifest: %w", err)
	}
	return nil
}

// lockFile is the file whose lock says that a command is working in the directory. It is never
// removed.
const lockFile = ".ravnest.lock"

// Lock locks the directory for a command that changes it. If another live process holds the
// lock, the error wraps native.ErrLocked and names that process.
func Lock(dir, command string) (unlock func(), err error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return func() {}, nil // the command itself will report what is wrong
	}
	unlock, err = native.Lock(filepath.Join(dir, lockFile), command)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return nil, fmt.Errorf("the directory %s: %w: results are kept there: allow this user to write it, or use a copy of the job in a directory that can be written", dir, err)
	case err != nil:
		return nil, fmt.Errorf("the directory %s: %w", dir, err)
	}
	return unlock, nil
}
