// Package host is the requester's side of a run on a native machine: it serves a project to
// providers, follows the run, and keeps the results in the project's directory.
//
// A run offers the project to package server (offer.go), whose questions its roster answers: who
// trains what (plan.go), and whether an upload is what it should be (inspect.go). What happens is
// told and kept by its reporter (report.go). With other hosts it shares its state (shared.go).
package host

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/audit"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/journal"
	"github.com/ravnest/ravnest/native/members"
	"github.com/ravnest/ravnest/native/otlp"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
	"github.com/ravnest/ravnest/signaling/member"
	"github.com/ravnest/ravnest/signaling/proto"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// Options of a served run.
type Options struct {
	Listener net.Listener
	Token    string
	Agent    string // the program and its release, told to providers
	// Members admits providers by their keys; nil: only the token counts.
	Members *members.List
	Site    http.Handler
	Edge    Edge
	// Providers is how many to wait for, before planning by their benchmarks. 0: use the
	// stored plan.
	Providers int
	// Clusters is how many clusters to form of them; 0: as many as pay.
	Clusters int
	// Names fixes the providers' names if Providers is set; nil: any.
	Names []string
	// All has every provider take part, even where training is forecast to be faster with fewer.
	All bool
	// Alone says that no providers will join except those that Listening starts: if they
	// are too few, the run ends instead of waiting for another.
	Alone bool
	// Fresh starts from the beginning even if an unfinished run of the same job could be
	// resumed.
	Fresh bool
	// AuditEvery has the stretch before one in so many checkpoints audited while the run goes on,
	// for a job that asks for what audits need; 0: none. Whoever has computed something else is barred,
	// and the run goes back behind it; if that cannot be told, it ends, and the error wraps audit.ErrDiffers.
	AuditEvery int
	// AuditSpares has providers that wait compute that again, and this process only what none of them
	// can, or what they say is not right.
	AuditSpares bool
	// AuditLog is how many bytes of what audits compare are kept beside what they may still need; 0:
	// 256 MiB.
	AuditLog int64
	// NATS keeps the run's state for several hosts; the zero value: the directory alone does.
	NATS NATS
	// Spawned returns when the last provider was started, for FirstStepS; the zero time:
	// when the last one joined.
	Spawned func() time.Time
	// Listening is called with the host's URL once it accepts providers.
	Listening func(ctx context.Context, url string) error
	// Trace receives a trace of the run's machine, unless nil.
	Trace io.Writer
	// Telemetry takes the run's figures and spans; nil: nobody does.
	Telemetry *otlp.Exporter
	// Console takes what is told of the run, unless nil.
	Console *console.Console
}

// Edge configures how the host is reached over the network. The zero value is plain http
// without a relay.
type Edge struct {
	TLS      *tls.Config
	Public   *url.URL       // address by which the host is known outside; nil: the listener's
	Proxy    bool           // requests come through a trusted reverse proxy
	RelayUDP net.PacketConn // the relay's socket; nil: no relay
	RelayTCP net.Listener   // the relay's listener, if it has an address of its own; nil: the host's
}

// url returns the address to show people.
func (o *Options) url() string {
	if o.Edge.Public != nil {
		return strings.TrimRight(o.Edge.Public.String(), "/")
	}
	scheme := "http://"
	if o.Edge.TLS != nil {
		scheme = "https://"
	}
	return scheme + native.Reachable(o.Listener.Addr())
}

// run is a served run. It stays as it is while the server runs the job. What changes meanwhile
// belongs to its roster, which the server asks from goroutines of its own, or to its reporter, which
// is told of events from one goroutine.
type run struct {
	p      *project.Project
	opt    Options
	refs   refs
	store  server.Store
	shared *shared          // nil: no other host serves the job
	before *machine.Earlier // what the run goes on from; nil: it begins
	roster *roster
}

// Serve serves the project to providers, waits for the run to end and returns its summary.
// Cancelling ctx stops the run gracefully: batches in flight are finished and the state is
// saved.
func Serve(ctx context.Context, p *project.Project, opt Options) (journal.Summary, error) {
	if err := p.Job.Share(opt.Clusters); err != nil {
		return journal.Summary{}, err
	}
	if err := writable(p); err != nil {
		return journal.Summary{}, err
	}
	r := &run{p: p, opt: opt, refs: refs{data: map[string]proto.Ref{}}}
	r.roster = newRoster(p, &r.opt)
	job := r.offer()
	if opt.Providers == 0 {
		plan, err := readPlan(p)
		if err != nil {
			return journal.Summary{}, err
		}
		for _, c := range plan.Clusters {
			for _, s := range c.Stages {
				job.Names = append(job.Names, s.Name)
			}
		}
		job.Want, r.roster.plan = len(job.Names), plan
	}
	var err error
	if job.Blobs, err = r.publish(); err != nil {
		return journal.Summary{}, err
	}
	r.roster.refs = r.refs
	if err := os.MkdirAll(filepath.Join(p.Dir, project.StoreDir), 0o755); err != nil {
		return journal.Summary{}, fmt.Errorf("creating the store: %w", err)
	}
	osfs, err := store.OpenOS(filepath.Join(p.Dir, project.StoreDir))
	if err != nil {
		return journal.Summary{}, err
	}
	defer osfs.Close()
	dir := store.NewDir(osfs)
	defer dir.Close()
	if err := dir.Sweep(); err != nil {
		opt.Console.Say("warning: %v", err)
	}
	if opt.NATS.URL != "" {
		return r.serveShared(ctx, job, dir)
	}
	r.store = dir
	if err := r.alone(ctx, job); err != nil {
		return journal.Summary{}, err
	}
	srv, down, err := r.up(ctx, server.Config{})
	if err != nil {
		return journal.Summary{}, err
	}
	defer down()
	return r.train(ctx, srv, job)
}

// writable checks that files can be made where a host keeps checkpoints and results.
func writable(p *project.Project) error {
	for _, sub := range []string{"", "node_data", project.StoreDir} {
		dir := filepath.Join(p.Dir, sub)
		if _, err := os.Stat(dir); err != nil && sub != "" {
			continue // it is made later
		}
		f, err := os.CreateTemp(dir, ".writable-*")
		if err != nil {
			return fmt.Errorf("%s cannot be written, but checkpoints and results are kept there: %w: allow this user to write it, or use a copy of the job in a directory that can be written", dir, err)
		}
		_ = f.Close()
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// earlier is what a run goes on from. A damaged manifest is replaced by the copy for readers, and
// the parts that it names must be what was saved.
func (r *run) earlier(ctx context.Context, job server.Job) (*machine.Earlier, error) {
	e, err := server.Earlier(ctx, r.store, job.ID, job.Raw)
	if errors.Is(err, snapshot.ErrFormat) {
		c, cerr := weights.ManifestCopy(r.p)
		if cerr != nil {
			return nil, err
		}
		b, cerr := c.JSON()
		if cerr != nil {
			return nil, err
		}
		if cerr := r.store.Put(ctx, machine.ManifestObject(job.ID), bytes.NewReader(b)); cerr != nil {
			return nil, errors.Join(err, cerr)
		}
		r.opt.Console.Say("warning: %v: its copy %s is used", err, project.ManifestFile)
		e, err = server.Earlier(ctx, r.store, job.ID, job.Raw)
	}
	if err != nil || e == nil || e.Checkpoint == nil {
		return e, err
	}
	return e, server.Intact(ctx, r.store, e.Checkpoint)
}

// up starts the server, and listens.
func (r *run) up(ctx context.Context, conf server.Config) (_ *server.Server, down func(), err error) {
	conf.Token, conf.Agent, conf.Store, conf.Site, conf.Once, conf.Trace = r.opt.Token, r.opt.Agent, r.store, r.opt.Site, r.shared == nil, r.opt.Trace
	conf.AuditKeep = r.opt.AuditLog
	conf.TLS, conf.Public, conf.Proxy, conf.RelayUDP = r.opt.Edge.TLS, r.opt.Edge.Public, r.opt.Edge.Proxy, r.opt.Edge.RelayUDP
	if r.opt.Members != nil {
		conf.Members = r.opt.Members
	}
	srv, err := server.New(conf)
	if err != nil {
		return nil, nil, err
	}
	var serving sync.WaitGroup
	for _, ln := range []net.Listener{r.opt.Listener, r.opt.Edge.RelayTCP} {
		if ln == nil {
			continue
		}
		serving.Go(func() {
			if err := srv.Serve(ln); err != nil {
				r.opt.Console.Say("WARNING: %v: nobody can join there any more; start the host again to go on from the last checkpoint", err)
			}
		})
	}
	unwatch := func() {}
	stop := func() {
		unwatch()
		// Providers need a moment to receive the goodbye.
		sctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(sctx)
		serving.Wait()
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if r.opt.Listening != nil {
		if err := r.opt.Listening(ctx, r.opt.url()); err != nil {
			return nil, nil, err
		}
	}
	if r.opt.Members != nil {
		if unwatch, err = r.watchMembers(ctx, srv); err != nil {
			unwatch = func() {}
			return nil, nil, err
		}
	}
	return srv, stop, nil
}

// watchMembers has the host follow its list of members until stop is called.
func (r *run) watchMembers(ctx context.Context, srv *server.Server) (stop func(), err error) {
	m, url := r.opt.Members, r.opt.url()
	if err := m.Change(func(b *member.Book) error { b.URL = url; return nil }); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		m.Watch(ctx, func() {
			srv.MembersChanged()
			r.shareMembers()
		}, func(err error) { r.opt.Console.Say("%v: who may join stays as it was", err) })
	})
	return func() {
		cancel()
		wg.Wait()
	}, nil
}

// train runs the job, or goes on with it from where the store has it.
func (r *run) train(ctx context.Context, srv *server.Server, job server.Job) (sum journal.Summary, err error) {
	r.audits(&job)
	t := r.reporter()
	defer func() {
		if cerr := t.rec.Close(); err == nil {
			err = cerr
		}
	}()
	if !job.Fresh {
		if err := t.resume(ctx, job); err != nil {
			return journal.Summary{}, err
		}
	}
	r.roster.begin(t.rec.Open, r.before != nil)
	// A cancelled ctx asks for a graceful stop; the run ends by its own rules.
	stop := make(chan string, 1)
	job.Stop = stop
	defer context.AfterFunc(ctx, func() { stop <- "the requester stopped the run" })()
	event, unfollow := follow(r.opt.Telemetry, srv, t.event)
	res, err := srv.Run(context.WithoutCancel(ctx), job, event)
	unfollow()
	relayed := srv.Relayed()
	r.roster.end()
	t.end()
	// Even finding a direct path sends some kilobytes through the relay.
	if relayed != nil && relayed.Bytes > 100e3 {
		r.opt.Console.Say("relayed %s between providers without a direct path", native.FormatSize(relayed.Bytes))
	}
	sum = t.summary(res)
	if errors.Is(err, server.ErrStopped) && ctx.Err() != nil {
		err, sum.Interrupted = nil, true // stopped before training started
	}
	if errors.Is(err, server.ErrDiverged) {
		err = fmt.Errorf("%w: %s", err, r.p.WhenDiverged()) // err already says what is kept
		sum.Loss, sum.Error = journal.Number(math.NaN()), err.Error()
	}
	if errors.Is(err, audit.ErrDiffers) {
		sum.Error = err.Error()
	}
	if err == nil {
		err = t.fail
	}
	return sum, err
}
