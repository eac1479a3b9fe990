package journal

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func text(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLines checks that a repeated step replaces its line and removes those that follow, also
// in a file that an earlier process wrote.
func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "losses.txt")
	l, err := openLines(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(5) {
		l.set(i, fmt.Sprint("a", i))
	}
	l.set(3, "b3")
	if err := l.flush(); err != nil {
		t.Fatal(err)
	}
	if got := text(t, path); got != "a0\na1\na2\nb3\n" {
		t.Errorf("%q", got)
	}
	l.set(4, "b4")
	l.set(7, "b7") // two lines are missing before it
	l.set(-1, "none")
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if got := text(t, path); got != "a0\na1\na2\nb3\nb4\nnan\nnan\nb7\n" {
		t.Errorf("%q", got)
	}

	// A killed process leaves half a line.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("b8.12")
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if l, err = openLines(path); err != nil {
		t.Fatal(err)
	}
	l.set(8, "c8")
	l.set(1, "c1")
	l.set(2, "c2")
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if got := text(t, path); got != "a0\nc1\nc2\n" {
		t.Errorf("%q", got)
	}
}

// TestRemovedFile: a file that somebody removes while it is written is there again at the end.
func TestRemovedFile(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("nobody can remove a file that is open")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "losses.txt")
	for _, gone := range []string{path, dir} {
		l, err := openLines(path)
		if err != nil {
			t.Fatal(err)
		}
		l.set(0, "a0")
		l.set(1, "a1")
		if err := l.flush(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(gone); err != nil {
			t.Fatal(err)
		}
		l.set(1, "b1")
		switch err := l.close(); {
		case gone == dir:
			if err == nil || !strings.Contains(err.Error(), "was removed while the run went on") {
				t.Errorf("the directory is gone, and close says %v", err)
			}
		case err != nil:
			t.Error(err)
		case text(t, path) != "a0\nb1\n":
			t.Errorf("%q", text(t, path))
		}
	}
}

// TestManyLines: whatever is done to a file whose lines are many, of which only the last are known, is
// done to one of few.
func TestManyLines(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		path := filepath.Join(t.TempDir(), fmt.Sprint(seed))
		l, err := openLines(path)
		if err != nil {
			t.Fatal(err)
		}
		l.least = 4
		var want []string
		for range 300 {
			i := int64(len(want))
			if rng.IntN(20) == 0 {
				i = rng.Int64N(i + 1)
			}
			s := fmt.Sprint(rng.IntN(1000))
			switch rng.IntN(12) {
			case 0:
				l.cut(i)
				want = want[:i]
			case 1:
				n := int64(0)
				if i < int64(len(want)) {
					n = rng.Int64N(2)
				}
				l.insert(i, n, s)
				want = slices.Replace(want, int(i), int(i+n), s)
			case 2:
				if err := l.flush(); err != nil {
					t.Fatal(err)
				}
			case 3:
				if err := l.close(); err != nil {
					t.Fatal(err)
				}
				if l, err = openLines(path); err != nil {
					t.Fatal(err)
				}
				l.least = 4
			default:
				l.set(i, s)
				want = append(want[:i], s)
			}
			if l.n != int64(len(want)) {
				t.Fatalf("seed %d: %d lines, want %d", seed, l.n, len(want))
			}
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		if got := strings.Fields(text(t, path)); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v", seed, got, want)
		}
	}
}

func TestLinesThatAreNone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "losses.txt")
	if err := os.WriteFile(path, []byte("1\n"+strings.Repeat("x", 1<<16)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openLines(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a line of 64 kB: %v", err)
	}
	if _, err := openLines(dir); err == nil {
		t.Error("a directory is a file of lines")
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := openLines(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.file.f.Close() // as if the disk were gone
	l.set(0, "1")
	if err := l.flush(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("writing to nowhere: %v", err)
	}
}

// FuzzLines compares the file with a slice of lines, over any sets, flushes and restarts.
func FuzzLines(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 250, 2, 3, 254, 1, 2, 8, 0})
	f.Add([]byte{200, 254, 100, 250, 3, 254})
	f.Fuzz(func(t *testing.T, ops []byte) {
		path := filepath.Join(t.TempDir(), "losses.txt")
		l, err := openLines(path)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		hold := func() {
			got := text(t, path)
			if all := strings.Join(append(want, ""), "\n"); got != all {
				t.Fatalf("the file is %q, want %q", got, all)
			}
		}
		for n, op := range ops[:min(len(ops), 1000)] {
			switch {
			case op >= 254: // ends, and begins again
				if err := l.close(); err != nil {
					t.Fatal(err)
				}
				hold()
				if l, err = openLines(path); err != nil {
					t.Fatal(err)
				}
			case op >= 248:
				if err := l.flush(); err != nil {
					t.Fatal(err)
				}
				hold()
			default:
				i, s := int(op), fmt.Sprintf("%d.%04d", n%7, n)
				want = want[:min(i, len(want))]
				for len(want) < i {
					want = append(want, "nan")
				}
				want = append(want, s)
				l.set(int64(i), s)
			}
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		hold()
	})
}
