package provider

// A browser has one thread. Reading, writing and hashing a large state may take longer there than
// the host waits for a sign of life, so Config.Between is called piece by piece.

import (
	"bytes"
	"io"
	"sync/atomic"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
)

// work is the provider's sign that it does not hang. It goes up with every kernel and every piece of
// a file, and while something is waited for that is not the computation's: the platform, as in a tab
// that is paused, or the host.
type work struct{ done, away atomic.Int64 }

// between counts what comes between kernels, and then calls f, unless it is nil.
func (w *work) between(f func()) func() {
	return func() {
		w.done.Add(1)
		if f != nil {
			defer w.elsewhere()()
			f()
		}
	}
}

// elsewhere says that the computation has to wait until the returned function is called.
func (w *work) elsewhere() (back func()) {
	w.away.Add(1)
	return func() { w.away.Add(-1) }
}

// told is the work up to a report.
func (w *work) told() int64 {
	if w.away.Load() > 0 {
		return w.done.Add(1)
	}
	return w.done.Load()
}

// yield gives the event loop its turn, if there is one.
func (c *Config) yield() {
	if c.Between != nil {
		c.Between()
	}
}

// yielding yields before every access.
type yielding struct {
	io.Writer
	io.ReaderAt
	c *Config
}

func (y yielding) Write(b []byte) (int, error) {
	y.c.yield()
	return y.Writer.Write(b)
}

func (y yielding) ReadAt(b []byte, off int64) (int, error) {
	y.c.yield()
	return y.ReaderAt.ReadAt(b, off)
}

// reader reads a file in memory.
func (c *Config) reader(file []byte) io.ReaderAt {
	return yielding{ReaderAt: bytes.NewReader(file), c: c}
}

// write writes a state's file.
func (c *Config) write(b *bytes.Buffer, p *snapshot.Part) error {
	b.Grow(p.Size())
	return p.Write(yielding{Writer: b, c: c})
}
