package store

// A store in memory, for tests and for hosts that keep nothing.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"sort"
	"strings"
	"sync"
)

// Mem keeps objects in a map. The zero value is an empty store.
type Mem struct {
	mu      sync.Mutex
	objects map[string][]byte
	logs    map[string][]byte
}

// Put stores what r yields under name once r ended with io.EOF.
func (m *Mem) Put(ctx context.Context, name string, r io.Reader) error {
	if err := CheckName(name); err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects == nil {
		m.objects = map[string][]byte{}
	}
	m.objects[name] = b
	return nil
}

// Commit puts a small object.
func (m *Mem) Commit(ctx context.Context, name string, data []byte, done func(error)) {
	done(m.Put(ctx, name, bytes.NewReader(data)))
}

// Get opens the object, or returns fs.ErrNotExist.
func (m *Mem) Get(_ context.Context, name string) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.objects[name]
	if !ok {
		return nil, fmt.Errorf("get %s: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// List returns the names of the objects that start with prefix, sorted.
func (m *Mem) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := []string{}
	for n := range m.objects {
		if strings.HasPrefix(n, prefix) {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	return names, nil
}

// Delete removes the object if it exists.
func (m *Mem) Delete(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, name)
	return nil
}

// Append adds a line to a log.
func (m *Mem) Append(_ context.Context, log string, line []byte) error {
	if err := CheckName(log); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.logs == nil {
		m.logs = map[string][]byte{}
	}
	m.logs[log] = append(append(m.logs[log], line...), '\n')
	return nil
}

// Log returns what was appended to a log.
func (m *Mem) Log(log string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.logs[log])
}
