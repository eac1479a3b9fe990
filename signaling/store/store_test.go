package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
)

type store interface {
	Put(ctx context.Context, name string, r io.Reader) error
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	List(ctx context.Context, prefix string) ([]string, error)
	Delete(ctx context.Context, name string) error
	Append(ctx context.Context, log string, line []byte) error
}

func openDir(t *testing.T) (*Dir, string) {
	t.Helper()
	dir := t.TempDir()
	o, err := OpenOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	d := NewDir(o)
	t.Cleanup(func() {
		if err := errors.Join(d.Close(), o.Close()); err != nil {
			t.Error(err)
		}
	})
	return d, dir
}

func read(t *testing.T, s store, name string) string {
	t.Helper()
	r, err := s.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// failing yields some bytes and then an error, as for a lost peer or a wrong hash.
func failing(err error) io.Reader {
	return io.MultiReader(strings.NewReader("half"), &errReader{err})
}

type errReader struct{ err error }

func (e *errReader) Read([]byte) (int, error) { return 0, e.err }

func TestStores(t *testing.T) {
	dir, _ := openDir(t)
	for name, s := range map[string]store{"mem": &Mem{}, "dir": dir} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			put := func(name, text string) {
				t.Helper()
				if err := s.Put(ctx, name, strings.NewReader(text)); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Get(ctx, "run/none"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("get of nothing: %v", err)
			}
			if l, err := s.List(ctx, "run/"); err != nil || len(l) != 0 {
				t.Errorf("list of nothing: %v, %v", l, err)
			}
			put("run/c0/s1", "one")
			put("run/c0/s0", "zero")
			put("run/job.json", "{}")
			put("running/x", "other")
			put("run/c0/s1", "uno")
			if got := read(t, s, "run/c0/s1"); got != "uno" {
				t.Errorf("got %q", got)
			}
			cause := errors.New("cut")
			if err := s.Put(ctx, "run/c0/s1", failing(cause)); !errors.Is(err, cause) {
				t.Errorf("a broken reader gave %v", err)
			}
			if got := read(t, s, "run/c0/s1"); got != "uno" {
				t.Errorf("a failed put left %q", got)
			}
			gone, cancel := context.WithCancel(ctx)
			cancel()
			if err := s.Put(gone, "run/c0/s1", strings.NewReader("late")); !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled put gave %v", err)
			}
			if err := s.Append(ctx, "run/metrics", []byte(`{"a":1}`)); err != nil {
				t.Error(err)
			}
			l, err := s.List(ctx, "run/")
			if want := []string{"run/c0/s0", "run/c0/s1", "run/job.json"}; err != nil || !reflect.DeepEqual(l, want) {
				t.Errorf("list: %v, %v, want %v", l, err, want)
			}
			if err := s.Delete(ctx, "run/c0/s1"); err != nil {
				t.Error(err)
			}
			if err := s.Delete(ctx, "run/c0/s1"); err != nil {
				t.Errorf("deleting twice: %v", err)
			}
			if _, err := s.Get(ctx, "run/c0/s1"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("deleted but there: %v", err)
			}
			for _, bad := range []string{"", "/abs", "a/../b", "a//b", ".hidden", "a/b/c/d/e/f/g/h/i", "a\\b", "a\x00"} {
				if err := s.Put(ctx, bad, strings.NewReader("")); !errors.Is(err, fs.ErrInvalid) {
					t.Errorf("put %q: %v", bad, err)
				}
			}
		})
	}
}

func TestAppendKeepsLinesWhole(t *testing.T) {
	d, dir := openDir(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if err := d.Append(t.Context(), "run/metrics", bytes.Repeat([]byte("x"), 99)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	b, err := os.ReadFile(filepath.Join(dir, "run", "metrics.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat(strings.Repeat("x", 99)+"\n", 160); string(b) != want {
		t.Errorf("%d bytes, lines are not whole", len(b))
	}
}

// TestLogsAreBounded: a log keeps its newest lines, across restarts too.
func TestLogsAreBounded(t *testing.T) {
	d, dir := openDir(t)
	d.logSize = 1000
	for i := range 500 {
		if i%7 == 0 {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Append(t.Context(), "run/metrics", fmt.Appendf(nil, "line %4d", i)); err != nil {
			t.Fatal(err)
		}
	}
	var all []byte
	for _, name := range []string{"metrics.1.jsonl", "metrics.jsonl"} {
		b, err := os.ReadFile(filepath.Join(dir, "run", name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	want := ""
	for i := 500 - len(all)/10; i < 500; i++ {
		want += fmt.Sprintf("line %4d\n", i)
	}
	if len(all) < 1000 || len(all) > 2010 || string(all) != want {
		t.Errorf("%d bytes are kept: %.40q", len(all), all)
	}
	if l, err := d.List(t.Context(), "run/"); err != nil || len(l) != 0 {
		t.Errorf("objects: %v, %v", l, err)
	}
}

// TestTornLine: a line that a power cut, or a full disk, has torn does not take the next one along.
func TestTornLine(t *testing.T) {
	d, dir := openDir(t)
	name := filepath.Join(dir, "run", "metrics.jsonl")
	add := func(line string) {
		if err := d.Append(t.Context(), "run/metrics", []byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	add(`{"a":1}`)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = f.WriteString(`{"a":`)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	add(`{"a":2}`)
	full := &fullFS{d.fs, 10}
	d.fs = full
	if err := errors.Join(d.Close(), d.Append(t.Context(), "run/metrics", []byte(`{"a":"a line for which there is no room"}`))); err == nil {
		t.Fatal("a line went to a full disk")
	}
	full.room = 1 << 10
	add(`{"a":3}`)
	b, err := os.ReadFile(name)
	if want := "{\"a\":1}\n{\"a\":\n{\"a\":2}\n{\"a\":\"a li\n{\"a\":3}\n"; err != nil || string(b) != want {
		t.Errorf("the log is %q (%v), want %q", b, err, want)
	}
}

// fullFS is a disk with room for a limited number of bytes.
type fullFS struct {
	FS
	room int
}

type fullFile struct {
	File
	fs *fullFS
}

func (f *fullFS) Create(name string) (File, error) {
	g, err := f.FS.Create(name)
	return &fullFile{g, f}, err
}

func (f *fullFS) Append(name string) (File, error) {
	g, err := f.FS.Append(name)
	return &fullFile{g, f}, err
}

func (f *fullFile) Write(b []byte) (int, error) {
	n := min(len(b), f.fs.room)
	f.fs.room -= n
	if m, err := f.File.Write(b[:n]); err != nil {
		return m, err
	}
	if n < len(b) {
		return n, syscall.ENOSPC
	}
	return n, nil
}

func TestFullDiskKeepsTheEarlierObject(t *testing.T) {
	dir := t.TempDir()
	o, err := OpenOS(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	d := NewDir(&fullFS{FS: o, room: 100})
	if err := d.Put(t.Context(), "run/s0", strings.NewReader("the earlier one")); err != nil {
		t.Fatal(err)
	}
	err = d.Put(t.Context(), "run/s0", strings.NewReader(strings.Repeat("n", 200)))
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if got := read(t, d, "run/s0"); got != "the earlier one" {
		t.Errorf("got %q", got)
	}
	left, err := os.ReadDir(filepath.Join(dir, "run"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestDirStaysInside(t *testing.T) {
	d, dir := openDir(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "out")); err != nil {
		t.Skip(err)
	}
	if err := d.Put(t.Context(), "out/x", strings.NewReader("escaped")); err == nil {
		t.Error("a symbolic link led out of the store")
	}
	if l, _ := os.ReadDir(outside); len(l) != 0 {
		t.Errorf("written outside: %v", l)
	}
}

// TestSweep: what a process that was killed has left of an object goes, and nothing else does.
func TestSweep(t *testing.T) {
	d, dir := openDir(t)
	if err := d.Put(t.Context(), "run/stage_0/part", strings.NewReader("whole")); err != nil {
		t.Fatal(err)
	}
	if err := d.Append(t.Context(), "run/metrics", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"run/stage_0/.tmp-7-part", "run/.tmp-1-manifest"} {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Sweep(); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			left = append(left, filepath.Base(p))
		}
		return err
	})
	if err != nil || !reflect.DeepEqual(left, []string{"metrics.jsonl", "part"}) {
		t.Errorf("%q is left, %v", left, err)
	}
}
