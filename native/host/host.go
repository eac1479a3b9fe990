// Package host is the requester's side of a run on a native machine: it serves a project to
// providers, follows the run, and keeps the results in the project's directory.
package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/native/otlp"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// storeDir is the directory inside a project for uploaded stages.
const storeDir = "node_data/store"

// Options of a served run.
type Options struct {
	Listener net.Listener
	Token    string
	Agent    string // the program and its release, told to providers
	// Members admits providers by their keys; nil: only the token counts.
	Members *Members
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
	// and the run goes back behind it; if that cannot be told, it ends, and the error wraps ErrAudit.
	AuditEvery int
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

// blobs holds the run's blobs by hash: those in memory and the shards of its data.
type blobs struct {
	held   map[string][]byte
	shards *project.Shards // nil: none
}

func (b blobs) add(data []byte) proto.Ref {
	ref := proto.RefOf(data, nil)
	b.held[ref.SHA256] = data
	return ref
}

// Blob implements server.Blobs.
func (b blobs) Blob(sum string) (io.ReaderAt, int64, error) {
	data, ok := b.held[sum]
	switch {
	case !ok && b.shards != nil:
		f, size, err := b.shards.Open(sum)
		if err != nil {
			return nil, 0, err
		}
		return f, size, nil
	case !ok:
		return nil, 0, fs.ErrNotExist
	}
	return bytes.NewReader(data), int64(len(data)), nil
}

// runID turns a job's name, which may contain any characters, into an identifier for messages,
// files and addresses. Different names give different identifiers.
func runID(name string) string {
	const most = 32
	id := []byte(name)
	for i, c := range id {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '.' && i > 0:
		default:
			id[i] = '_'
		}
	}
	if string(id) == name && len(id) <= most && name != "" {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return string(id[:min(len(id), most)]) + "-" + hex.EncodeToString(sum[:4])
}

// run is a served run.
type run struct {
	p     *project.Project
	opt   Options
	plan  *project.Stored
	job   job.Spec // with the number of replicas of the attempt
	class string   // numeric class of the run's providers so far; "": none yet, or several
	graph proto.Ref
	data  map[string]proto.Ref
	// initial weights; nil: drawn from the seed
	weights    map[string]proto.Ref
	rec        *record
	joined     time.Time
	first      time.Time
	store      server.Store
	shared     *shared            // nil: no other host serves the job
	before     *machine.Earlier   // what the run goes on from; nil: it begins
	fail       error              // what keeps the results from being written; nil: nothing
	uncopied   *snapshot.Manifest // checkpoint whose stages are not copied yet; nil: none
	uncopyable error              // why not
	retry      time.Time          // when what could not be written is tried again
	begun      bool               // it has trained
	mu         sync.Mutex         // place is called from a goroutine of the server
	over       bool
	trips      trips
	pace       pace
	achieved   float64         // by what was forecast; 0: not known
	placed     []placed        // in the newest attempts, the newest last
	files      []string        // the last checkpoint's files, one a stage
	done       map[string]bool // providers that have finished
	single     bool            // the plan asked for last has one cluster
	past       []order.Period  // record of the replicas up to where the plan goes on from
	grew       bool            // the attempt before ended because more providers were there
}

// answers returns the most answers that a validation pass counts. Models that answer for every
// position of a row, as transformers do for tokens, give one for each.
func answers(p *project.Project) int64 {
	out, j := graph.Shape(p.Graph.AnswerShapes()[0]), p.Job
	if j.Several() {
		j = j.Part(0)
	}
	if n := len(out); n > 0 && j.Loss != job.BCE { // where each output is right or wrong for itself
		return int64(p.Data.Val.Len()) * int64(out.Elems()/out[n-1])
	}
	return int64(p.Data.Val.Len()) * int64(out.Elems())
}

// grows tells whether providers that come while the job is trained take part at once: where they can
// form clusters of their own, and neither a plan nor the user says how many there are.
func grows(j job.Spec, opt Options) bool {
	return j.Auto() || j.Replica() > 1 && opt.Providers > 0 && opt.Clusters == 0
}

// span returns the number of batches between two places where a run with replicas can stop; 0
// without replicas.
func span(j job.Spec) int64 {
	if j.Replica() == 1 || j.Gradients() {
		return 0
	}
	return int64(j.Replica()) * int64(j.Updates()) * int64(j.UpdateFrequency)
}

// Serve serves the project to providers, waits for the run to end and returns its summary.
// Cancelling ctx stops the run gracefully: batches in flight are finished and the state is
// saved.
func Serve(ctx context.Context, p *project.Project, opt Options) (Summary, error) {
	if err := p.Job.Share(opt.Clusters); err != nil {
		return Summary{}, err
	}
	if err := writable(p); err != nil {
		return Summary{}, err
	}
	r := &run{p: p, opt: opt, data: map[string]proto.Ref{}, done: map[string]bool{}, trips: trips{}, achieved: p.Achieved()}
	job := r.offer()
	if opt.Providers == 0 {
		if err := r.readPlan(); err != nil {
			return Summary{}, err
		}
		for _, c := range r.plan.Clusters {
			for _, s := range c.Stages {
				job.Names = append(job.Names, s.Name)
			}
		}
		job.Want = len(job.Names)
	}
	var err error
	if job.Blobs, err = r.publish(); err != nil {
		return Summary{}, err
	}
	if err := os.MkdirAll(filepath.Join(p.Dir, storeDir), 0o755); err != nil {
		return Summary{}, fmt.Errorf("creating the store: %w", err)
	}
	osfs, err := store.OpenOS(filepath.Join(p.Dir, storeDir))
	if err != nil {
		return Summary{}, err
	}
	defer osfs.Close()
	dir := store.NewDir(osfs)
	defer dir.Close()
	if opt.NATS.URL != "" {
		return r.serveShared(ctx, job, dir)
	}
	r.store = dir
	if err := r.alone(ctx, job); err != nil {
		return Summary{}, err
	}
	srv, down, err := r.up(ctx, server.Config{})
	if err != nil {
		return Summary{}, err
	}
	defer down()
	return r.train(ctx, srv, job)
}

// offer is the job as the server takes it, as far as it follows from the project and the options.
func (r *run) offer() server.Job {
	p, rows := r.p, r.p.Data.Train.Len()
	o := server.Job{
		Job: machine.Job{
			ID: runID(p.Job.Name), Raw: p.Job.JSON(), Want: r.opt.Providers, Names: r.opt.Names, Spares: true, Replan: true,
			Steps: int64(p.Job.Total(rows)), Val: answers(p), Span: span(p.Job), Audit: p.Job.Audit, Strict: r.opt.Alone,
			Batches: int64(p.Job.Batches(rows)), Grows: grows(p.Job, r.opt), Apart: (p.Job.Auto() || p.Job.Replica() > 1) && p.Job.Averaging().Optimizer == job.KeepState,
		},
		Plan: r.place, Worth: r.worth, Inspect: r.inspect, Shards: server.ShardCost(p.Shards.Len(), p.Shards.Bytes()), Fresh: r.opt.Fresh,
	}
	if p.Job.Auto() {
		order := p.Job.Order(rows, p.Data.Val.Len())
		o.Auto = &order
	}
	return o
}

// readPlan reads the plan that clusterize has stored, and checks that it is one of this job.
func (r *run) readPlan() (err error) {
	if r.plan, err = r.p.ReadPlan(); err != nil {
		if errors.Is(err, project.ErrMissing) {
			err = fmt.Errorf("%w: run clusterize first, or use --providers N to plan by the benchmarks of the first N providers to join", err)
		}
		return err
	}
	j, err := planned(r.p, &r.plan.Plan, server.Ask{})
	if err == nil {
		err = stage.Placement.Check(stage.Placement{Clusters: clusters(&r.plan.Plan, j)}, j, len(r.p.Graph.Nodes))
	}
	if err != nil {
		return fmt.Errorf("the plan is not one of this job: %w: run clusterize again", err)
	}
	return nil
}

// publish makes the blobs that providers need: graph, data and initial weights.
func (r *run) publish() (blobs, error) {
	p := r.p
	bl := blobs{held: map[string][]byte{}, shards: p.Shards}
	r.graph = bl.add(p.GraphJSON)
	for kind, half := range map[string]*data.Table{
		provider.TrainX: p.Data.Train.X(), provider.TrainY: p.Data.Train.Y(),
		provider.ValX: p.Data.Val.X(), provider.ValY: p.Data.Val.Y(),
	} {
		if half.Index != nil {
			r.data[kind] = bl.add(half.Index.Encode())
			continue
		}
		b, err := half.Encode()
		if err != nil {
			return blobs{}, fmt.Errorf("encoding %s: %w", kind, err)
		}
		r.data[kind] = bl.add(b)
	}
	if p.Weights != nil {
		var b bytes.Buffer
		if err := safetensors.Write(&b, p.Weights, nil); err != nil {
			return blobs{}, fmt.Errorf("encoding the initial weights: %w", err)
		}
		r.weights = map[string]proto.Ref{provider.Weights: bl.add(b.Bytes())}
	}
	return bl, nil
}

// earlier is what a run goes on from. A damaged manifest is replaced by the copy for readers, and
// the parts that it names must be what was saved.
func (r *run) earlier(ctx context.Context, job server.Job) (*machine.Earlier, error) {
	e, err := server.Earlier(ctx, r.store, job.ID, job.Raw)
	if errors.Is(err, snapshot.ErrFormat) {
		c, cerr := parseManifest(r.p, manifestFiles(r.p)[1])
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
	served := make(chan error, 2)
	lns := []net.Listener{r.opt.Listener}
	if ln := r.opt.Edge.RelayTCP; ln != nil {
		lns = append(lns, ln)
	}
	for _, ln := range lns {
		go func() { served <- srv.Serve(ln) }()
	}
	unwatch := func() {}
	stop := func() {
		unwatch()
		// Providers need a moment to receive the goodbye.
		sctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(sctx)
		for range lns {
			<-served
		}
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

// train runs the job, or goes on with it from where the store has it.
func (r *run) train(ctx context.Context, srv *server.Server, job server.Job) (sum Summary, err error) {
	r.audits(&job)
	r.rec = newRecord(r.p, "serve", r.opt.Console)
	defer func() {
		if cerr := r.rec.close(); err == nil {
			err = cerr
		}
	}()
	if !job.Fresh {
		if err := r.resume(ctx, job); err != nil {
			return Summary{}, err
		}
	}
	// A cancelled ctx asks for a graceful stop; the run ends by its own rules.
	stop := make(chan string, 1)
	job.Stop = stop
	defer context.AfterFunc(ctx, func() { stop <- "the requester stopped the run" })()
	event, unfollow := follow(r.opt.Telemetry, srv, r.event)
	res, err := srv.Run(context.WithoutCancel(ctx), job, event)
	unfollow()
	relayed := srv.Relayed()
	r.learned()
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.retry = time.Time{}
	r.write(time.Now())
	// Even finding a direct path sends some kilobytes through the relay.
	if relayed != nil && relayed.Bytes > 100e3 {
		r.opt.Console.Say("relayed %s between providers without a direct path", native.FormatSize(relayed.Bytes))
	}
	sum = r.summary(res)
	if errors.Is(err, server.ErrStopped) && ctx.Err() != nil {
		err, sum.Interrupted = nil, true // stopped before training started
	}
	if errors.Is(err, server.ErrDiverged) {
		err = fmt.Errorf("%w: %s", err, advice(r.p)) // err already says what is kept
		sum.Loss, sum.Error = Number(math.NaN()), err.Error()
	}
	if errors.Is(err, ErrAudit) {
		sum.Error = err.Error()
	}
	if err == nil {
		err = r.fail
	}
	return sum, err
}

// resume has the record go on from where the store has the run, if it has it.
func (r *run) resume(ctx context.Context, job server.Job) (err error) {
	if r.shared != nil {
		if r.before, err = r.earlier(ctx, job); err != nil {
			return fmt.Errorf("the state in NATS: %w: use --fresh to start from the beginning", err)
		}
	}
	if r.before == nil || r.before.Checkpoint == nil {
		return nil
	}
	r.rec.resume = int64(r.before.Checkpoint.Position.Step)
	if r.shared == nil {
		return nil
	}
	return r.replay(ctx, r.rec.resume)
}

// summary is that of a run which has ended with a result.
func (r *run) summary(res server.Result) Summary {
	sum := r.rec.summary()
	sum.Interrupted = res.Interrupted
	if r.plan != nil {
		sum.Providers = 0
		for c, cl := range r.plan.Clusters {
			sum.Providers += len(cl.Stages)
			for _, s := range cl.Stages {
				if c == 0 {
					sum.Cuts = append(sum.Cuts, r.p.Graph.Nodes[s.Start].Name)
				}
			}
		}
	}
	if !r.first.IsZero() {
		from := r.joined
		if r.opt.Spawned != nil {
			from = r.opt.Spawned()
		}
		sum.FirstStepS = r.first.Sub(from).Seconds()
	}
	if res.Checkpoint != nil && r.rec.opened {
		sum.Saved = true
		sum.Files = append(sum.Files, r.files...)
	}
	return sum
}

// event handles an event of the run. It is called from one goroutine.
func (r *run) event(ev server.Event) {
	now := time.Now()
	r.share(now, ev)
	switch e := ev.(type) {
	case server.Joined:
		r.joined = now
		r.opt.Console.Say("%s joined (%s, %s RAM, %.3g GFLOP/s), %d of %d", e.Name, e.Hello.Platform, native.FormatSize(e.Hello.RAM), e.Hello.Bench.GEMM, e.Have, e.Want)
	case server.Left:
		if e.Run == "" { // otherwise a Recovering event follows
			r.opt.Console.Say("%s left: %s", e.Name, e.Reason)
		}
	case server.Returned:
		r.opt.Console.Say("%s lost its connection to this host and has another one after %.1f s: nothing is lost", e.Name, e.After.Seconds())
	case server.StageDone:
		r.done[e.Name] = true
	case server.Refused:
		r.opt.Console.Say("refused %s at %s: %v", e.Name, e.Addr, e.Err)
	case server.Waiting:
		r.opt.Console.Say("%s", e.Reason)
	case server.Planned:
		r.announce(e)
	case server.Ready:
		r.mu.Lock()
		r.trips.note(e.Name, e.RTT)
		r.mu.Unlock()
	case server.Started:
		r.rec.begin(now, int64(e.Resume))
		r.begin(now)
		r.opt.Console.Say("%s", r.starts(e))
	case server.Recovering:
		r.learned()
		r.done = map[string]bool{}
		r.grew = e.Grows || e.Back
		if !e.Back {
			r.opt.Console.Say("%s: %s", e.Reason, redone(e))
			return
		}
		r.opt.Console.Say("%s", e.Reason)
		r.goBack(now, e.Step)
	case server.AuditPassed:
		r.opt.Console.Say("audited: steps %d to %d are what the job makes", e.From, e.To)
	case server.Condemned:
		r.condemned(e)
	case server.Resumed:
		r.opt.Console.Say("resuming the run that ended at step %d of epoch %d (--fresh starts from the beginning)", e.Step, e.Epoch+1)
	case server.Loss:
		if r.first.IsZero() {
			r.first = now
		}
		r.rec.loss(now, e.Epoch, e.Step, float64(e.Loss.Loss))
		r.rec.trained(e.Cluster, e.Step)
	case server.Val:
		r.rec.val(now, validated(e.Val))
	case server.Progress:
		r.rec.progress(&e)
		r.rec.tick(now)
		r.write(now)
	case server.Checkpointed:
		if e.After > 0 {
			r.opt.Console.Say("saved at step %d, after %.0f s in which nothing could be saved", e.Manifest.Position.Step, e.After.Seconds())
		}
		r.uncopied, r.retry = e.Manifest, time.Time{}
		r.write(now)
	case server.Warning:
		r.opt.Console.Say("warning: %v", e.Err)
	}
}

// announce tells of an attempt's plan.
func (r *run) announce(e server.Planned) {
	r.rec.attempt()
	for _, s := range e.Stages {
		r.rec.roles = append(r.rec.roles, s.Name)
	}
	r.mu.Lock() // the next plan may be in the making already
	plan, j := r.plan, r.job
	r.mu.Unlock()
	r.rec.placed(&plan.Plan, r.p.Graph, j)
	r.opt.Console.Say("%s", strings.TrimRight(plan.String(), "\n"))
	if len(plan.GA.Spares) > 0 && r.opt.Providers > 0 && r.opt.Clusters == 0 {
		r.opt.Console.Say("--clusters 1 would have all %d providers take part, in one pipeline", r.opt.Providers)
	}
	if n := len(j.Periods); n > 0 {
		r.opt.Console.Say("replicas auto: %d from step %d on, one for each provider that trains as far as epochs and memory allow", j.Replica(), j.Periods[n-1].Step)
	}
}

// starts says how an attempt's training begins.
func (r *run) starts(e server.Started) string {
	switch {
	case e.After > 0 && r.grew:
		return fmt.Sprintf("training resumes from step %d, %.1f s later", e.Resume, e.After.Seconds())
	case e.After > 0:
		return fmt.Sprintf("training resumes from step %d, %.1f s after the loss", e.Resume, e.After.Seconds())
	case e.Resume > 0:
		return fmt.Sprintf("training resumes from step %d", e.Resume)
	}
	return "training"
}

// rewrite is the time between attempts to write results that a disk has not taken.
const rewrite = 10 * time.Second

// write writes what is not in the project's directory yet: lines of the record, and copies of the
// newest checkpoint. What fails, as on a full disk, is told and tried again.
func (r *run) write(now time.Time) {
	err := r.rec.flush()
	if r.uncopied != nil && !now.Before(r.retry) {
		if r.uncopyable = r.saved(r.uncopied); r.uncopyable == nil {
			r.uncopied = nil
		}
		r.retry = now.Add(rewrite)
	}
	if err == nil {
		err = r.uncopyable
	}
	if (err == nil) != (r.fail == nil) {
		if err != nil {
			why, _, _ := strings.Cut(err.Error(), "\n")
			r.opt.Console.Say("warning: %s: training goes on, and it is tried again", why)
		} else {
			r.opt.Console.Say("the results can be written again")
		}
	}
	r.fail = err
}

// redone says which work a recovery repeats.
func redone(e server.Recovering) string {
	switch {
	case e.Reached > e.Step && e.Step > 0:
		return fmt.Sprintf("the run goes on from step %d; %d steps are repeated", e.Step, e.Reached-e.Step)
	case e.Step > 0:
		return fmt.Sprintf("the run goes on from step %d", e.Step)
	case e.Reached > 0:
		return fmt.Sprintf("nothing had been saved yet; %d steps are repeated", e.Reached)
	}
	return "the run goes on"
}

// saved copies a checkpoint's stages to the directories of the plan, for people, and then its
// manifest, which fuse and eval read.
func (r *run) saved(c *snapshot.Manifest) error {
	r.mu.Lock()
	plan := r.plan
	r.mu.Unlock()
	files := []string{}
	for _, e := range c.Parts {
		if plan == nil || e.Cluster >= len(plan.Clusters) || e.Stage >= len(plan.Clusters[e.Cluster].Stages) {
			continue // the cuts have changed since
		}
		rel := filepath.Join(plan.StageDir(e.Cluster, e.Stage), project.WeightsFile)
		if err := r.p.Inside(rel); err != nil {
			return err
		}
		path := filepath.Join(r.p.Dir, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("creating the directory of stage %d: %w", e.Stage, err)
		}
		f, err := r.store.Get(context.Background(), e.Object)
		if err != nil {
			return fmt.Errorf("reading the saved stage %d: %w", e.Stage, err)
		}
		err = native.Save(path, 0o644, func(w io.Writer) error {
			_, err := io.Copy(w, f)
			return err
		})
		_ = f.Close()
		if err != nil {
			return err
		}
		files = append(files, path)
	}
	b, err := c.JSON()
	if err != nil {
		return err
	}
	r.files = files
	return native.WriteFile(filepath.Join(r.p.Dir, project.ManifestFile), b, 0o644)
}
