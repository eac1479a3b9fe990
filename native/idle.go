// Whether somebody uses this machine.

package native

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"
)

// ErrNoIdle is returned where the system does not tell whether somebody uses it.
var ErrNoIdle = errors.New("this system does not tell whether somebody uses it")

// Idle watches for how long nobody has used this machine.
type Idle struct {
	look  func() (silent time.Duration, by string, err error)
	after time.Duration
	by    string

	mu     sync.Mutex
	looked time.Time
	silent time.Duration
	err    error
}

// lookEvery bounds how often the system is asked.
const lookEvery = 5 * time.Second

// NewIdle watches by whatever the system offers. A machine counts as idle after that long
// without a key, a touch or a move. The error wraps ErrNoIdle where there is nothing to go by.
func NewIdle(after time.Duration) (*Idle, error) {
	return newIdle(after, silence)
}

func newIdle(after time.Duration, look func() (time.Duration, string, error)) (*Idle, error) {
	_, by, err := look()
	if err != nil {
		return nil, fmt.Errorf("%w (%s): %w", ErrNoIdle, runtime.GOOS, err)
	}
	return &Idle{look: look, after: after, by: by}, nil
}

// By says what it goes by.
func (i *Idle) By() string { return i.by }

// May tells whether nobody uses this machine, and if somebody does, says so.
func (i *Idle) May() (why string, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := time.Now(); i.looked.IsZero() || now.Sub(i.looked) >= min(lookEvery, i.after) {
		i.looked = now
		i.silent, _, i.err = i.look()
	}
	switch {
	case i.err != nil:
		return fmt.Sprintf("whether this machine is idle is not known: %v", i.err), false
	case i.silent < i.after:
		return fmt.Sprintf("somebody uses this machine (lent after %v without input)", i.after), false
	}
	return "", true
}
