package provider

// A browser has one thread. Reading, writing and hashing a large state may take longer there than
// the host waits for a sign of life, so Config.Between is called piece by piece.

import (
	"bytes"
	"io"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
)

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
