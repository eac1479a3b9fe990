package host

// A run as spans for telemetry: the run, its attempts, recoveries, rounds and saves.

import (
	"sync"
	"time"

	"github.com/ravnest/ravnest/native/otlp"
	"github.com/ravnest/ravnest/signaling/metric"
	"github.com/ravnest/ravnest/signaling/server"
)

// lookEvery is how often a run's status is looked at for its rounds.
const lookEvery = time.Second

// follow makes telemetry of a run, if x is not nil: its events go through the function that it
// returns. stop keeps the last figures.
func follow(x *otlp.Exporter, srv *server.Server, next func(server.Event)) (event func(server.Event), stop func()) {
	if x == nil {
		return next, func() {}
	}
	x.Collect(func(to metric.Sink) { srv.Figures(srv.Status(), to) })
	var mu sync.Mutex
	t := &spans{add: x.Add}
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case now := <-tick.C:
				st := srv.Status()
				mu.Lock()
				t.look(now, st)
				mu.Unlock()
			}
		}
	}()
	event = func(ev server.Event) {
		mu.Lock()
		t.event(time.Now(), ev)
		mu.Unlock()
		next(ev)
	}
	return event, func() {
		close(over)
		<-done
		st := srv.Status()
		x.Collect(func(to metric.Sink) { srv.Figures(st, to) })
	}
}

// spans makes them of the run's events. It sees no clock.
type spans struct {
	add   func(...otlp.Span)
	run   otlp.Span // the others' parent; it has a name while the run goes on
	parts int64     // saved of the checkpoint that is under way

	attempt, recovery, save, round otlp.Span // with a name while they last
}

// begin opens a span within the run.
func (t *spans) begin(s *otlp.Span, now time.Time, name string, attributes map[string]any) {
	*s = otlp.Span{Trace: t.run.Trace, ID: otlp.NewID(), Parent: t.run.ID, Name: name, Start: now, Attributes: attributes}
}

// end closes a span, if it is open.
func (t *spans) end(s *otlp.Span, now time.Time, fault string) {
	if s.Name == "" {
		return
	}
	s.End, s.Fault = now, fault
	t.add(*s)
	*s = otlp.Span{}
}

func (t *spans) event(now time.Time, ev server.Event) {
	if t.run.Name == "" { // the first, whatever it is
		t.run = otlp.Span{Trace: otlp.NewTrace(), ID: otlp.NewID(), Name: "run", Start: now, Attributes: map[string]any{}}
	}
	switch e := ev.(type) {
	case server.Planned:
		t.end(&t.attempt, now, "")
		t.begin(&t.attempt, now, "attempt", map[string]any{"run": e.Run, "generation": int64(e.Generation), "stages": int64(len(e.Stages)), "from_step": int64(e.Resume)})
	case server.Started:
		if t.attempt.Name != "" {
			t.attempt.Attributes["connecting_seconds"] = now.Sub(t.attempt.Start).Seconds()
		}
		t.end(&t.recovery, now, "")
	case server.Recovering:
		fault := e.Reason
		if e.Grows {
			fault = ""
		}
		t.close(now, fault)
		t.begin(&t.recovery, now, "recovery", map[string]any{"run": e.Run, "reason": e.Reason, "from_step": int64(e.Step), "reached_step": int64(e.Reached), "grows": e.Grows})
	case server.Saved:
		if t.save.Name == "" {
			t.begin(&t.save, now, "save", map[string]any{})
			t.parts = 0
		}
		t.parts++
	case server.Checkpointed:
		if t.save.Name == "" { // all parts were there already
			t.begin(&t.save, now, "save", map[string]any{})
		}
		t.save.Attributes["step"], t.save.Attributes["parts"] = int64(e.Manifest.Position.Step), t.parts
		t.end(&t.save, now, "")
	case server.Done:
		t.close(now, "")
		t.end(&t.run, now, "")
	case server.Failed:
		t.close(now, e.Err.Error())
		t.end(&t.run, now, e.Err.Error())
	}
}

// close ends what an attempt's end ends, a recovery among it.
func (t *spans) close(now time.Time, fault string) {
	t.end(&t.recovery, now, fault)
	t.end(&t.attempt, now, fault)
	t.end(&t.round, now, fault)
	t.end(&t.save, now, fault)
}

// look takes a status, from which rounds follow: as exactly as it is taken often.
func (t *spans) look(now time.Time, st server.Status) {
	if t.run.Name == "" || t.round.Name != "" && t.round.Attributes["round"] == st.Round {
		return
	}
	t.end(&t.round, now, "")
	if st.Round > 0 {
		t.begin(&t.round, now, "round", map[string]any{"round": st.Round, "replicas": int64(st.Replicas)})
	}
}
