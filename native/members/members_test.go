package members

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/member"
)

func keyOf(i int) string { return fmt.Sprintf("%064x", i+1) }

func open(t *testing.T, dir string) *List {
	t.Helper()
	l, err := Open(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestTogether: two processes change one list, and neither loses what the other has changed.
func TestTogether(t *testing.T) {
	dir := t.TempDir()
	host, command := open(t, dir), open(t, dir)
	const each = 8
	var wg sync.WaitGroup
	for k, l := range []*List{host, command} {
		wg.Go(func() {
			for i := range each {
				if err := l.Change(func(b *member.Book) error { return b.Set(keyOf(k*each+i), member.Allowed) }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, l := range []*List{host, command, open(t, dir)} {
		if n := l.Expected(); n != 2*each {
			t.Errorf("%d members are expected, want %d", n, 2*each)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others may read the list: %v, %v", info.Mode(), err)
	}
}

// TestChangeFails: what a change that fails has done is neither in the list nor in its file.
func TestChangeFails(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	if err := l.Change(func(b *member.Book) error { return b.Set(keyOf(0), member.Banned) }); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if err := l.Change(func(b *member.Book) error { return errors.Join(b.Set(keyOf(0), member.Allowed), no) }); !errors.Is(err, no) {
		t.Errorf("the change says %v", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file has changed: %v", err)
	}
	if !l.Banned(keyOf(0)) {
		t.Error("the ban is gone, though taking it back has failed")
	}
}

// TestDamaged: a list that cannot be read is told of by its path, once, and what was known counts until
// it can be.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	l, path := open(t, dir), filepath.Join(dir, file)
	if err := l.Change(func(b *member.Book) error { return b.Set(keyOf(0), member.Banned) }); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	changed, wrong := make(chan struct{}, 8), make(chan error, 8)
	var wg sync.WaitGroup
	wg.Go(func() { l.Watch(ctx, func() { changed <- struct{}{} }, func(err error) { wrong <- err }) })
	<-changed // as it is at first
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-wrong; !strings.Contains(err.Error(), path) {
		t.Errorf("the error does not name the file: %v", err)
	}
	if !l.Banned(keyOf(0)) {
		t.Error("the ban does not count any more")
	}
	if _, err := Open(dir, false); err == nil {
		t.Error("a list that is damaged is opened")
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	<-changed
	stop()
	wg.Wait()
	if len(wrong) > 0 {
		t.Errorf("told again: %v", <-wrong)
	}
	if err := os.WriteFile(path, make([]byte, member.MaxBook+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, false); err == nil || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("a list without end: %v", err)
	}
}
