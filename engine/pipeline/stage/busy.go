// How long a stage computes, as others see it while it does.

package stage

import (
	"sync"
	"time"
)

// meter adds up the time between start and stop. Reading it is for any goroutine and
// includes what is still going on: a pass may take longer than the time between reports.
type meter struct {
	now func() time.Duration // nil: nothing is measured

	mu      sync.Mutex
	sum     time.Duration
	began   time.Duration
	running bool
}

func (m *meter) start() {
	if m.now == nil {
		return
	}
	m.mu.Lock()
	m.began, m.running = m.now(), true
	m.mu.Unlock()
}

func (m *meter) stop() {
	if m.now == nil {
		return
	}
	m.mu.Lock()
	m.sum, m.running = m.sum+m.now()-m.began, false
	m.mu.Unlock()
}

func (m *meter) read() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running {
		return m.sum + m.now() - m.began
	}
	return m.sum
}

// working counts the time until the returned function is called.
func (m *meter) working() (stop func()) {
	m.start()
	return m.stop
}
