// Package simulate runs a job on simulated volunteers. It uses the host's machine
// (signaling/run), the providers' machine (engine/provider/machine) and the planner (ga),
// with random machines, links and sessions, under a virtual clock. A day with ten thousand
// providers takes minutes, and the same seed gives the same figures.
//
// Not simulated are limits of the host's own link and processor, and the competition of a
// provider's uploads with its training for bandwidth.
package simulate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/run/runtest"
)

// Options describe a simulation.
type Options struct {
	Providers int           // at a time
	Time      time.Duration // virtual length of the run
	Seed      uint64
	Session   time.Duration // mean; 0: MeanSession, negative: nobody leaves
	Steps     int           // after which the run ends; 0: it ends after Time
	Model     Model         // zero: Blocks
	// Replicas are shared by as many clusters as pay, at most one each; 0: one. Each trains
	// Updates batches between two averages; 0: 32.
	Replicas, Updates int
	Placer            Placer    // nil: Best
	Trace             io.Writer // receives a trace of the host's machine, unless nil
	// Hour is called at every full hour of the simulation.
	Hour func(h int, r Result)
}

// Limits of Options.
const (
	MaxProviders = 15000 // supported by the planner, with room for newcomers
	MaxTime      = 10000 * time.Hour
	MaxReplicas  = 64
	MaxUpdates   = 1024
)

// ErrOptions is wrapped by errors about Options.
var ErrOptions = errors.New("cannot simulate this")

func (o *Options) fill() error {
	if o.Session == 0 {
		o.Session = MeanSession()
	}
	if o.Model == (Model{}) {
		o.Model = Blocks()
	}
	o.Replicas = max(o.Replicas, 1)
	if o.Updates == 0 {
		o.Updates = 32
	}
	if o.Placer == nil {
		o.Placer = Best{Replicas: o.Replicas, Updates: o.Updates}
	}
	switch {
	case o.Replicas > MaxReplicas:
		return fmt.Errorf("%w: %d replicas; 1 to %d are supported", ErrOptions, o.Replicas, MaxReplicas)
	case o.Updates < 1 || o.Updates > MaxUpdates:
		return fmt.Errorf("%w: %d updates between averages; 1 to %d are supported", ErrOptions, o.Updates, MaxUpdates)
	case o.Providers < 1 || o.Providers > MaxProviders:
		return fmt.Errorf("%w: %d providers; 1 to %d are supported", ErrOptions, o.Providers, MaxProviders)
	case o.Time <= 0 || o.Time > MaxTime:
		return fmt.Errorf("%w: a time of %v; it must be more than 0 and at most %v", ErrOptions, o.Time, MaxTime)
	case o.Session > 0 && o.Session < time.Second:
		return fmt.Errorf("%w: a mean session of %v; it must be at least 1 s", ErrOptions, o.Session)
	}
	return nil
}

// heartbeat returns the interval of a real host for up to 1,000 providers. With more it
// limits the rate to 667 pings a second.
func (o *Options) heartbeat() time.Duration {
	return 1500 * time.Millisecond * time.Duration(max(1000, o.Providers)) / 1000
}

// Result is the outcome of a simulation. Times are in seconds.
type Result struct {
	Providers  int     `json:"providers"`
	Hours      float64 `json:"hours"`
	Seed       uint64  `json:"seed"`
	Session    float64 `json:"mean_session_h"` // 0: nobody left
	HeartbeatS float64 `json:"heartbeat_s"`
	Replicas   int     `json:"replicas"`
	Clusters   int     `json:"clusters"`      // in the last plan
	Most       int     `json:"most_clusters"` // in any plan
	PerHour    float64 `json:"steps_per_h"`   // batches that were trained and kept

	Steps       int     `json:"steps"`           // in the last checkpoint
	StepS       float64 `json:"step_s"`          // a batch, of the first clusters together
	QuietSteps  float64 `json:"quiet_steps"`     // that the first clusters would do in the time if nobody left
	Throughput  float64 `json:"throughput"`      // Steps divided by QuietSteps
	Redone      int     `json:"redone_steps"`    // lost and repeated
	RedoneShare float64 `json:"redone_share"`    // of all steps
	Checkpoints int     `json:"checkpoints"`     //
	CheckpointS float64 `json:"checkpoint_s"`    // mean time between two
	Idle        float64 `json:"recovering_s"`    // time without training after the first start
	Exact       bool    `json:"exact"`           // the weights are those of an undisturbed run
	Error       string  `json:"error,omitempty"` // why the run failed early

	Recoveries int     `json:"recoveries"`
	Median     float64 `json:"recovery_median_s"` // from the host's report of a loss to the next start
	P90        float64 `json:"recovery_p90_s"`
	Longest    float64 `json:"recovery_max_s"`

	Joined  int `json:"joined"`
	Polite  int `json:"left_politely"`
	Closed  int `json:"closed"`
	Silent  int `json:"fell_silent"`
	Missing int `json:"missing"` // live providers unknown to the host, which would be a bug

	Messages   int64   `json:"messages"` // between host and providers
	Uploaded   int64   `json:"uploaded_bytes"`
	Downloaded int64   `json:"downloaded_bytes"`
	Peers      float64 `json:"peer_bytes"` // activations and gradients
}

// Run runs a simulation. Its error is about the options, ctx or the trace; a simulated run
// that fails is a result.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.fill(); err != nil {
		return Result{}, err
	}
	s := &sim{o: o}
	hb := o.heartbeat()
	set := run.Settings{Heartbeat: hb, MaxMembers: ga.MaxNodes}
	nature := runtest.Nature{
		Tick:    hb / 4,
		Latency: func(p *runtest.Provider) time.Duration { return of(p).Latency },
		Step:    s.step,
		State:   func(g snapshot.Segment) int64 { return int64(o.Model.State) * int64(g.To-g.From) },
		Upload: func(p *runtest.Provider, n int64) time.Duration {
			return time.Duration(8 * float64(n) / of(p).Up * float64(time.Second))
		},
		Fetch: func(p *runtest.Provider, n int64) time.Duration {
			return time.Duration(8 * float64(n) / of(p).Down * float64(time.Second))
		},
		Closed: 500 * time.Millisecond, Silent: 3500 * time.Millisecond,
		Average: s.average, Wait: 30 * time.Second,
		Place:  s.place,
		Report: s.report, Forget: true,
	}
	if o.Trace != nil {
		nature.Event = func(now time.Time, ev run.Event) {
			if s.trace == nil {
				s.trace = run.NewTrace(o.Trace, now, set)
			}
			s.trace.Event(now, ev)
		}
	}
	s.w = runtest.NewWorld(nature, set)
	for i := range o.Providers {
		s.enter(time.Duration(i) * 5 * time.Second / time.Duration(o.Providers))
	}
	s.w.Run(5*time.Second + hb) // all have joined and answered before the job is submitted
	steps := o.Steps
	if steps == 0 {
		steps = 1 << 40
	}
	s.began = s.w.Now
	job := run.Job{ID: "simulated", Raw: json.RawMessage(`{}`), Want: min(o.Providers, o.Model.Stages), Replan: true}
	if o.Replicas > 1 {
		n := epochRounds * o.Replicas * o.Updates
		job.Rounds = &order.Run{
			Train: n, BatchSize: 1, Epochs: steps/n + 1, Steps: steps, MicroBatches: 1, UpdateFrequency: 1,
			Replicas: o.Replicas, ReduceFactor: o.Updates,
		}
	}
	s.w.Submit(job, steps)
	if err := s.run(ctx); err != nil {
		return Result{}, err
	}
	if s.trace != nil {
		if err := s.trace.Flush(); err != nil {
			return Result{}, fmt.Errorf("writing the trace: %w", err)
		}
	}
	r := s.result()
	s.verify(&r)
	r.Missing = s.missing()
	return r, nil
}

// sim is one simulation.
type sim struct {
	o      Options
	w      *runtest.World
	trace  *run.Trace
	began  time.Time
	people int // volunteers drawn so far

	first      time.Duration // step time of the first cluster
	started    time.Time     // when training first started
	lost       time.Time     // when the last attempt ended; zero: training
	idle       time.Duration
	recoveries []time.Duration
	saved      []time.Time
	r          Result
}

func of(p *runtest.Provider) *volunteer { return p.Nature.(*volunteer) }

// enter makes a volunteer join after d, stay, leave, and be replaced by another.
func (s *sim) enter(d time.Duration) {
	s.w.After(d, func() {
		s.people++
		v := draw(s.o.Seed, s.people, max(s.o.Session, time.Second))
		id := fmt.Sprintf("p%d", s.people)
		s.r.Joined++
		p := s.w.JoinAs(id, v.hello(), func(p *runtest.Provider) { p.Nature = &v })
		if s.o.Session < 0 {
			return
		}
		p.Gone = func() { s.enter(v.Away) }
		s.w.After(v.Stays, func() { s.leave(p, v.Goes) })
	})
}

func (s *sim) leave(p *runtest.Provider, how way) {
	switch how {
	case polite:
		s.r.Polite++
		p.Leave()
	case closed:
		s.r.Closed++
		p.Kill()
	case silent:
		s.r.Silent++
		p.Freeze()
	}
}

// epochRounds is how many rounds an epoch has where there are replicas.
const epochRounds = 100

// place is the planner, and notes what it does.
func (s *sim) place(pool []run.Member) ([]run.Assignment, error) {
	as, err := s.o.Placer.Place(s.o.Model, pool)
	if err != nil {
		return nil, err
	}
	n := 0
	for _, a := range as {
		n = max(n, a.Cluster+1)
	}
	s.r.Clusters, s.r.Most = n, max(s.r.Most, n)
	if s.first == 0 {
		s.first = s.o.Model.round(pool, as, s.o.Replicas, s.o.Updates)
	}
	return as, nil
}

// average returns how long clusters take to average what they have: each stage sends and
// receives what it holds almost twice.
func (s *sim) average(clusters [][]*runtest.Provider) time.Duration {
	var ms []holder
	for _, ps := range clusters {
		for _, p := range ps {
			v := of(p)
			ms = append(ms, holder{p.Segment.To - p.Segment.From, min(v.Up, v.Down)})
		}
	}
	return s.o.Model.averaging(ms, len(clusters))
}

// step returns the time of a cluster's update, computed from its members' figures.
func (s *sim) step(ps []*runtest.Provider) time.Duration {
	m := s.o.Model
	stages := make([]ga.Stage, len(ps))
	for i, p := range ps {
		v := of(p)
		cuts := 2.0
		if i == 0 {
			cuts--
		}
		if i == len(ps)-1 {
			cuts--
		}
		s.r.Peers += cuts * m.Cut / 2 // a cut has two ends
		stages[i] = ga.Stage{
			ComputeSeconds: float64(p.Segment.To-p.Segment.From) * m.FLOPs / v.Compute,
			LinkSeconds:    8 * cuts * m.Cut / min(v.Up, v.Down),
		}
	}
	return m.step(stages)
}

// report handles a report to the requester.
func (s *sim) report(e run.Report) {
	now := s.w.Now
	switch e := e.(type) {
	case run.Started:
		if s.started.IsZero() {
			s.started = now
		}
		if !s.lost.IsZero() {
			d := now.Sub(s.lost)
			s.idle += d
			s.recoveries = append(s.recoveries, d)
			s.lost = time.Time{}
		}
	case run.Recovering:
		s.r.Redone += int(max(e.Reached, e.Step) - e.Step)
		if s.lost.IsZero() && !s.started.IsZero() {
			s.lost = now
		}
	case run.Checkpointed:
		s.saved = append(s.saved, now)
	}
}

// run runs the simulation for its time, and then stops the run as a requester does.
func (s *sim) run(ctx context.Context) error {
	end := s.began.Add(s.o.Time)
	for h := 1; len(s.w.Results) == 0 && s.w.Now.Before(end); h++ {
		hour := s.began.Add(time.Duration(h) * time.Hour)
		for len(s.w.Results) == 0 && s.w.Now.Before(hour) && s.w.Now.Before(end) {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("simulating: %w", err)
			}
			next := s.w.Now.Add(time.Minute)
			for _, t := range []time.Time{hour, end} {
				if t.Before(next) {
					next = t
				}
			}
			s.w.Run(next.Sub(s.w.Now))
		}
		if s.o.Hour != nil && !s.w.Now.Before(hour) {
			s.o.Hour(h, s.result())
		}
	}
	if len(s.w.Results) == 0 {
		s.w.Step(run.StopRequest{Mode: proto.Graceful, Reason: "the time is over"})
		s.w.Run(time.Hour)
	}
	if len(s.w.Results) == 0 {
		return errors.New("the run does not end")
	}
	return nil
}

// result returns the figures so far.
func (s *sim) result() Result {
	r := s.r
	o := s.o
	r.Providers, r.Hours, r.Seed, r.HeartbeatS = o.Providers, o.Time.Hours(), o.Seed, o.heartbeat().Seconds()
	if o.Session > 0 {
		r.Session = o.Session.Hours()
	}
	took := o.Time
	if len(s.w.Results) > 0 {
		res := s.w.Results[0]
		if o.Steps > 0 || res.Err != nil {
			took = s.w.Now.Sub(s.began)
		}
		if res.Err != nil {
			r.Error = res.Err.Error()
		}
		if c := res.Result.Checkpoint; c != nil {
			r.Steps = int(c.Position.Step)
		}
	} else {
		took = s.w.Now.Sub(s.began)
		if c := s.w.M.Checkpointed(); c != nil {
			r.Steps = int(c.Position.Step)
		}
	}
	r.Replicas, r.PerHour = o.Replicas, float64(r.Steps)/took.Hours()
	r.StepS = s.first.Seconds()
	if s.first > 0 {
		r.QuietSteps = float64(took) / float64(s.first)
		r.Throughput = float64(r.Steps) / r.QuietSteps
	}
	if all := r.Steps + r.Redone; all > 0 {
		r.RedoneShare = float64(r.Redone) / float64(all)
	}
	r.Idle = s.idle.Seconds()
	if n := len(s.saved); n > 0 {
		r.Checkpoints = n
		r.CheckpointS = s.saved[n-1].Sub(s.began).Seconds() / float64(n)
	}
	if n := len(s.recoveries); n > 0 {
		ds := slices.Sorted(slices.Values(s.recoveries))
		r.Recoveries, r.Median, r.P90, r.Longest = n, ds[n/2].Seconds(), ds[n*9/10].Seconds(), ds[n-1].Seconds()
	}
	t := s.w.Traffic
	r.Messages, r.Uploaded, r.Downloaded = t.Messages, t.Uploaded, t.Fetched
	return r
}

// verify compares the weights of the last checkpoint with those of an undisturbed run.
func (s *sim) verify(r *Result) {
	c := s.w.Results[0].Result.Checkpoint
	if c == nil {
		return
	}
	got, err := s.w.Weights(c)
	r.Exact = err == nil && maps.Equal(got, runtest.Undisturbed(r.Steps))
}

// missing counts the providers that should be members but are not.
func (s *sim) missing() int {
	known := map[string]bool{}
	for _, m := range s.w.M.Status(s.w.Now).Members {
		known[m.Name] = true
	}
	n := 0
	for _, id := range s.w.Alive() {
		if p := s.w.Provider(id); p.Name != "" && !known[p.Name] {
			n++
		}
	}
	return n
}
