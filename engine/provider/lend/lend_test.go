package lend_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/provider/lend"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/signaling/server"
)

// TestRests: a provider that may not be lent leaves its host and comes back by itself; one
// that may not yet does not even look for it.
func TestRests(t *testing.T) {
	s, err := server.New(server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	web := httptest.NewServer(s.Handler())
	defer web.Close()

	team := kernel.NewTeam(1)
	defer team.Close()
	var may atomic.Bool
	var mu sync.Mutex
	var states []machine.State
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error)
	began := time.Now()
	go func() {
		done <- lend.Lend(ctx, lend.Config{
			Host: web.URL, Agent: "test", Platform: "test", Team: team, RAM: 1 << 30, Loopback: true,
			Rules: machine.Rules{Wait: -1, Stay: true},
			Now:   func() time.Duration { return time.Since(began) },
			May:   func() (string, bool) { return "lunch", may.Load() },
			Watch: func(u provider.Update) {
				mu.Lock()
				defer mu.Unlock()
				if states = append(states, u.State); u.State == lend.Resting && u.Text != "lunch" {
					t.Errorf("it rests for %q", u.Text)
				}
			},
		})
	}()
	// Its word is waited for as well as the host's: one that is told to come back before it has said
	// that it rests does not say so.
	reach := func(state machine.State, members int) {
		t.Helper()
		there := func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(states) > 0 && states[len(states)-1] == state && len(s.Status().Members) == members
		}
		for end := time.Now().Add(2 * time.Minute); !there(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d providers, want %d and %s", len(s.Status().Members), members, state)
			}
		}
	}
	reach(lend.Resting, 0)
	time.Sleep(1200 * time.Millisecond)
	for range 2 {
		reach(lend.Resting, 0)
		may.Store(true)
		reach(machine.Waiting, 1)
		may.Store(false)
	}
	reach(lend.Resting, 0)
	why := errors.New("enough")
	cancel(why)
	if err := <-done; !errors.Is(err, why) {
		t.Errorf("it ended with %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	states = slices.Compact(states) // one that waits may say so again
	want := []machine.State{lend.Resting, lend.Benchmarking, machine.Waiting, lend.Resting, machine.Waiting}
	if len(states) < len(want) || !slices.Equal(states[:len(want)], want) {
		t.Errorf("it went through %v, want %v first", states, want)
	}
}
