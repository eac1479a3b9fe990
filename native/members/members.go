// Package members is the list of a job's members in its directory, which the host and the command
// ravnest members both change.
package members

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/signaling/member"
	"github.com/ravnest/ravnest/signaling/proto"
)

// file is its place in a project.
const file = "node_data/members.json"

// List is the list of a project's members, in a file that only its owner can read.
type List struct {
	path string
	only bool

	mu    sync.Mutex
	book  *member.Book
	stamp stamp
}

// stamp tells whether a file has changed.
type stamp struct {
	at   time.Time
	size int64
}

// Open reads the members of the project in dir, or begins a list. only: the join token
// alone does not admit.
func Open(dir string, only bool) (*List, error) {
	m := &List{path: filepath.Join(dir, file), only: only}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, err := m.fresh()
	return m, err
}

// fresh reads the file if it has changed, and reports whether it has. m.mu is held.
func (m *List) fresh() (changed bool, err error) {
	info, err := os.Stat(m.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if m.book == nil {
			m.book = member.New()
		}
		return false, nil
	case err != nil:
		return false, fmt.Errorf("the list of members: %w", err)
	case m.book != nil && m.stamp == stamp{info.ModTime(), info.Size()}:
		return false, nil
	case info.Size() > member.MaxBook:
		return false, fmt.Errorf("the list of members %s has %d bytes, the limit is %d", m.path, info.Size(), member.MaxBook)
	}
	data, err := os.ReadFile(m.path)
	if err != nil {
		return false, fmt.Errorf("the list of members: %w", err)
	}
	book, err := member.Parse(data)
	if err != nil {
		return false, fmt.Errorf("%s: %w", m.path, err)
	}
	m.book, m.stamp = book, stamp{info.ModTime(), info.Size()}
	return true, nil
}

// lockPatience is how long another process may hold the list.
const lockPatience = 5 * time.Second

// Change has f change the list, and saves it unless f fails. No other process changes it
// meanwhile.
func (m *List) Change(f func(*member.Book) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(m.path), 0o755); err != nil {
		return fmt.Errorf("the list of members: %w", err)
	}
	var unlock func()
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		var err error
		if unlock, err = native.Lock(m.path+".lock", "ravnest members"); err == nil {
			break
		}
		if !errors.Is(err, native.ErrLocked) || time.Now().After(end) {
			return fmt.Errorf("the list of members: %w", err)
		}
	}
	defer unlock()
	if _, err := m.fresh(); err != nil {
		return err
	}
	before, err := m.book.Encode()
	if err != nil {
		return fmt.Errorf("the list of members: %w", err)
	}
	back := func(err error) error { // what f did is not what the file says
		book, perr := member.Parse(before)
		if perr == nil {
			m.book = book
		}
		return errors.Join(err, perr)
	}
	if err := f(m.book); err != nil {
		return back(err)
	}
	data, err := m.book.Encode()
	if err == nil {
		err = native.WriteFile(m.path, data, 0o600)
	}
	if err != nil {
		return back(fmt.Errorf("the list of members: %w", err))
	}
	info, err := os.Stat(m.path)
	if err == nil {
		m.stamp = stamp{info.ModTime(), info.Size()}
	}
	return nil
}

// look calls f with the list as it is now.
func (m *List) look(f func(*member.Book)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = m.fresh() // else as it was: Watch says what is wrong
	if m.book != nil {
		f(m.book)
	}
}

// Admit implements server.Members.
func (m *List) Admit(a member.Applicant) *proto.Error {
	var refused *proto.Error
	err := m.Change(func(b *member.Book) error {
		if refused = b.Admit(time.Now(), a, m.only); refused != nil {
			return refused
		}
		return nil
	})
	if refused == nil && err != nil {
		return &proto.Error{Code: proto.Storage, Message: err.Error()}
	}
	return refused
}

// Pass implements server.Members.
func (m *List) Pass(key string) (token string) {
	m.look(func(b *member.Book) { token = b.Pass(key) })
	return token
}

// Holder implements server.Members.
func (m *List) Holder(token string) (key string) {
	m.look(func(b *member.Book) { key = b.Holder(token) })
	return key
}

// Banned implements server.Members.
func (m *List) Banned(key string) (banned bool) {
	m.look(func(b *member.Book) { banned = b.IsBanned(key) })
	return banned
}

// Expected implements server.Members.
func (m *List) Expected() (n int) {
	m.look(func(b *member.Book) {
		n = len(b.Invites)
		for _, x := range b.Members {
			if x.Standing == member.Allowed {
				n++
			}
		}
	})
	return n
}

// Watch calls changed whenever another process has changed the list, and wrong once for
// whatever keeps it from being read, until ctx ends.
func (m *List) Watch(ctx context.Context, changed func(), wrong func(error)) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	said := ""
	seen := stamp{}
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		m.mu.Lock()
		_, err := m.fresh()
		now := m.stamp
		m.mu.Unlock()
		switch {
		case err == nil && now != seen:
			seen, said = now, ""
			changed()
		case err != nil && err.Error() != said:
			said = err.Error()
			wrong(err)
		}
	}
}

// Book returns a copy of the list.
func (m *List) Book() (*member.Book, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.fresh(); err != nil {
		return nil, err
	}
	data, err := m.book.Encode()
	if err != nil {
		return nil, err
	}
	return member.Parse(data)
}
