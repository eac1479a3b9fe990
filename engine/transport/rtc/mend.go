//go:build !js

package rtc

import (
	"net"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/transport/rtc/repair"
)

// mended is the connection below SCTP with its losses repaired.
type mended struct {
	net.Conn
	begin time.Time

	writing sync.Mutex // held while packets go out, so that they do so in order

	mu    sync.Mutex
	path  *repair.Path
	timer *time.Timer
	due   time.Duration // of the timer; 0: it is off
	over  bool
}

func mend(c net.Conn, mtu int) *mended {
	m := &mended{Conn: c, begin: time.Now(), path: repair.New(mtu)}
	m.timer = time.AfterFunc(time.Hour, m.tick)
	m.timer.Stop()
	return m
}

// now is the time since the beginning.
func (m *mended) now() time.Duration { return time.Since(m.begin) }

// schedule sets the timer. The caller holds mu.
func (m *mended) schedule(now time.Duration) {
	due := m.path.Due()
	// The timer may be early: it then sets itself again. So it is not touched at each packet.
	if due == 0 || m.over || m.due > 0 && m.due <= due {
		return
	}
	m.due = due
	m.timer.Reset(max(due-now, 0))
}

func (m *mended) tick() {
	m.mu.Lock()
	m.due = 0
	if now := m.now(); !m.over {
		if due := m.path.Due(); due > 0 && due <= now {
			m.path.Tick(now)
		}
		m.schedule(now)
	}
	m.mu.Unlock()
	m.repeat()
}

// moved is called when there is another path.
func (m *mended) moved() {
	m.mu.Lock()
	now := m.now()
	m.path.Moved(now)
	m.schedule(now)
	m.mu.Unlock()
	m.repeat()
}

// repeat sends again what was lost. Errors show at the next packet that SCTP sends.
func (m *mended) repeat() {
	m.writing.Lock()
	defer m.writing.Unlock()
	for {
		m.mu.Lock()
		raw := m.path.Next(m.now())
		m.mu.Unlock()
		if raw == nil {
			return
		}
		_, _ = m.Conn.Write(raw)
	}
}

// Write implements net.Conn. It keeps b, which SCTP makes anew for each packet.
func (m *mended) Write(b []byte) (int, error) {
	m.writing.Lock()
	defer m.writing.Unlock()
	m.mu.Lock()
	now := m.now()
	send := m.path.Out(now, b)
	m.schedule(now)
	m.mu.Unlock()
	if !send {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

// Read implements net.Conn.
func (m *mended) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	if err != nil {
		return n, err
	}
	m.mu.Lock()
	now := m.now()
	up := m.path.In(now, b[:n])
	again := m.path.Waiting()
	m.schedule(now)
	m.mu.Unlock()
	n = copy(b, up)
	if again {
		m.repeat()
	}
	return n, nil
}

// Close implements net.Conn.
func (m *mended) Close() error {
	m.mu.Lock()
	m.over = true
	m.timer.Stop()
	m.mu.Unlock()
	return m.Conn.Close()
}
