package host

import (
	"slices"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/server"
)

// roster says who trains which stage. The server asks it from goroutines of its own, several of them
// at once, and the reporter tells it what was measured: mu guards what stands below it. A plan is made
// under mu from beginning to end, so that there is one at a time, and so that none is in the making
// once end has returned.
type roster struct {
	p    *project.Project
	opt  *Options
	refs refs

	loads loads // of the attempt that trains

	mu       sync.Mutex
	open     func() error // makes room for the results; nil: there is
	resumes  bool         // the run goes on from an earlier one
	over     bool         // no plan is wanted
	trained  bool         // an attempt has begun to train
	ask      server.Ask   // that the last plan was made for
	plan     *project.Stored
	job      job.Spec // with the number of replicas of plan
	class    string   // numeric class of the run's providers so far; "": none yet, or several
	placed   []placed // in the newest attempts, the newest last
	trips    trips
	pace     pace
	achieved float64            // by what was forecast; 0: not known
	took     map[string]float64 // as the plan was made with
}

func newRoster(p *project.Project, opt *Options) *roster {
	return &roster{p: p, opt: opt, trips: trips{}, achieved: p.Achieved()}
}

// begin has it make plans until end. open is called before the first one is answered, so that
// what it makes may be used by whoever is told of a plan.
func (r *roster) begin(open func() error, resumes bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open, r.resumes, r.over = open, resumes, false
}

// end refuses further plans.
func (r *roster) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
}

// opened sees that there is room for the results. r.mu is held.
func (r *roster) opened() error {
	if r.open == nil {
		return nil
	}
	err := r.open()
	if err == nil {
		r.open = nil
	}
	return err
}

// current is the newest plan, which may be of an attempt that nobody has been told of yet; nil: none.
func (r *roster) current() *project.Stored {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan
}

// of is the plan of an attempt and the job in it; nil: it is none of the newest.
func (r *roster) of(run string) (*project.Stored, job.Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.attempt(run)
	return p.plan, p.job
}

// attempt is what was planned for an attempt; all zero: it is none of the newest. r.mu is held.
func (r *roster) attempt(run string) placed {
	if i := slices.IndexFunc(r.placed, func(p placed) bool { return p.run == run }); i >= 0 {
		return r.placed[i]
	}
	return placed{}
}

// measured notes round trips that a provider has measured.
func (r *roster) measured(name string, rtt map[string]time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trips.note(name, rtt)
}

// trains notes that an attempt begins to train, after so many samples and with this forecast.
func (r *roster) trains(now time.Time, run string, samples int64, forecast float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads.begin(r.attempt(run), r.p.Job.BatchSize)
	r.trained = true
	r.pace = pace{now, samples, forecast, r.achieved}
}

// learn is what an attempt that is over says of forecasts; false: nothing.
func (r *roster) learn(ended time.Time, samples int64) (float64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.pace.learn(ended, samples, r.p.Job.BatchSize)
	r.pace = pace{}
	if ok {
		r.achieved = f
	}
	return f, ok
}
