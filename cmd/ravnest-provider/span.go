package main

// What this provider does as spans for telemetry.

import (
	"slices"
	"sync"
	"time"

	lent "github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/native/otlp"
)

// steps makes spans of a provider's states: an assignment, and within it fetching, connecting and
// training. It sees no clock.
type steps struct {
	mu         sync.Mutex
	add        func(...otlp.Span)
	state      machine.State
	since      time.Time
	assignment otlp.Span // with a name while there is one
	last       lent.Update
}

// assigned are the states of a provider that has a stage.
var assigned = []machine.State{machine.Fetching, machine.Connecting, machine.Training}

func (s *steps) watch(now time.Time, u lent.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.State == s.state {
		s.last = u
		return
	}
	if slices.Contains(assigned, s.state) {
		s.add(otlp.Span{
			Trace: s.assignment.Trace, ID: otlp.NewID(), Parent: s.assignment.ID, Name: string(s.state), Start: s.since, End: now,
			Attributes: map[string]any{"stage": int64(s.last.Stage), "stages": int64(s.last.Stages), "samples": int64(s.last.Progress.Samples)},
		})
	}
	switch has := slices.Contains(assigned, u.State); {
	case has && (s.assignment.Name == "" || slices.Index(assigned, u.State) < slices.Index(assigned, s.state)):
		s.end(now)
		s.assignment = otlp.Span{Trace: otlp.NewTrace(), ID: otlp.NewID(), Name: "assignment", Start: now}
	case !has:
		s.end(now)
	}
	s.state, s.since, s.last = u.State, now, u
}

// end closes the assignment, if there is one.
func (s *steps) end(now time.Time) {
	if s.assignment.Name != "" {
		s.assignment.End = now
		s.add(s.assignment)
		s.assignment = otlp.Span{}
	}
}
