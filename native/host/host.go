// Package host is the requester's side of a run on a native machine: it serves a project to
// providers, follows the run, and keeps the results in the project's directory.
package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
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
	"slices"
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
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/native"
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
	// Alone says that no providers will join except those that Listening starts: if they
	// are too few, the run ends instead of waiting for another.
	Alone bool
	// Fresh starts from the beginning even if an unfinished run of the same job could be
	// resumed.
	Fresh bool
	// AuditEvery has the stretch before one in so many checkpoints audited while the run goes on,
	// for a job that asks for what audits need; 0: none. A run that is not what the job makes is
	// stopped, and the error wraps ErrAudit.
	AuditEvery int
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
	Output
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
	h := sha256.Sum256(data)
	ref := proto.Ref{SHA256: hex.EncodeToString(h[:]), Size: int64(len(data))}
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
	checks     *checks
	mu         sync.Mutex // place is called from a goroutine of the server
	over       bool
	trips      trips
	pace       pace
	achieved   float64         // by what was forecast; 0: not known
	placed     []placed        // in the newest attempts, the newest last
	files      []string        // the last checkpoint's files, one a stage
	done       map[string]bool // providers that have finished
	past       []order.Period  // record of the replicas up to where the plan goes on from
	grew       bool            // the attempt before ended because more providers were there
}

// placed is what an attempt's stages are. What they upload can come when the next is planned.
type placed struct {
	run      string
	job      job.Spec         // with its number of replicas
	stages   [][]*graph.Stage // by cluster
	clusters []stage.Cluster
}

// Plan forms clusters from the project's pool file and writes node_data.
// At most so many are formed, 0: as many as pay; or exactly so many, unless that is 0.
func Plan(p *project.Project, maxClusters, exactly int) (*project.Stored, error) {
	pool, err := p.Pool()
	if err != nil {
		return nil, err
	}
	nodes := make([]ga.Node, len(pool))
	for i, n := range pool {
		nodes[i] = n.Node
	}
	f := planner.Facts{Train: p.Data.Train.Len(), Val: p.Data.Val.Len(), Achieved: p.Achieved()}
	plan, err := form(p, f, nodes, 0, func(j job.Spec) ga.Options {
		opt := options(j, len(pool), max(maxClusters, exactly))
		opt.MinClusters = exactly
		return opt
	})
	if err != nil {
		return nil, err
	}
	return p.WritePlan(pool, plan)
}

func options(j job.Spec, pool, maxClusters int) ga.Options {
	o := ga.Options{MaxClusters: maxClusters}
	if o.MaxClusters == 0 {
		o.MaxClusters = j.Replica() // each trains at least one
	}
	if pool == 1 {
		o.MinSize = 1 // a single provider can be root and leaf at once
	}
	return o
}

// form forms clusters. Where the job leaves the number of replicas to the host and none is given,
// there is one for each provider as far as Project.Replicas allows, and fewer, by halves, where
// the providers have not the memory for so many.
func form(p *project.Project, f planner.Facts, nodes []ga.Node, replicas int, opt func(job.Spec) ga.Options) (*planner.Plan, error) {
	j := p.Job
	if !j.Auto() {
		return f.Make(j, p.Graph, nodes, opt(j), j.Seed)
	}
	fixed := replicas > 0
	if !fixed {
		replicas = max(p.Replicas(len(nodes)), opt(j).MinClusters)
	}
	for {
		j.Replicas = job.Count(replicas)
		plan, err := f.Make(j, p.Graph, nodes, opt(j), j.Seed)
		if err == nil {
			plan.Replicas = replicas
			return plan, nil
		}
		least := max(1, opt(j).MinClusters)
		if fixed || replicas <= least || !errors.Is(err, ga.ErrRAM) {
			return nil, err
		}
		replicas = max(replicas/2, least)
	}
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
	job := server.Job{
		Job: machine.Job{
			ID: runID(p.Job.Name), Raw: p.Job.JSON(), Want: opt.Providers, Names: opt.Names, Spares: true, Replan: true,
			Steps: int64(p.Job.Total(p.Data.Train.Len())), Val: answers(p), Span: span(p.Job), Audit: p.Job.Audit, Strict: opt.Alone,
			Batches: int64(p.Job.Batches(p.Data.Train.Len())), Grows: grows(p.Job, opt), Apart: (p.Job.Auto() || p.Job.Replica() > 1) && p.Job.Averaging().Optimizer == job.KeepState,
		},
		Plan: r.place, Inspect: r.inspect, Fresh: opt.Fresh,
	}
	if p.Job.Auto() {
		o := p.Job.Order(p.Data.Train.Len(), p.Data.Val.Len())
		job.Auto = &o
	}
	if opt.Providers == 0 {
		var err error
		if r.plan, err = p.ReadPlan(); err != nil {
			if errors.Is(err, project.ErrMissing) {
				err = fmt.Errorf("%w: run clusterize first, or use --providers N to plan by the benchmarks of the first N providers to join", err)
			}
			return Summary{}, err
		}
		j, err := planned(p, &r.plan.Plan, server.Ask{})
		if err == nil {
			err = stage.Placement.Check(stage.Placement{Clusters: clusters(&r.plan.Plan, j)}, j, len(p.Graph.Nodes))
		}
		if err != nil {
			return Summary{}, fmt.Errorf("the plan is not one of this job: %w: run clusterize again", err)
		}
		for _, c := range r.plan.Clusters {
			for _, s := range c.Stages {
				job.Names = append(job.Names, s.Name)
			}
		}
		job.Want = len(job.Names)
	}
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
			return Summary{}, fmt.Errorf("encoding %s: %w", kind, err)
		}
		r.data[kind] = bl.add(b)
	}
	if p.Weights != nil {
		var b bytes.Buffer
		if err := safetensors.Write(&b, p.Weights, nil); err != nil {
			return Summary{}, fmt.Errorf("encoding the initial weights: %w", err)
		}
		r.weights = map[string]proto.Ref{provider.Weights: bl.add(b.Bytes())}
	}
	job.Blobs = bl
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
		r.opt.say("warning: %v: its copy %s is used", err, project.ManifestFile)
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
	r.checks = newChecks(r.p, r.opt.AuditEvery, func(a Audit) {
		r.opt.say("audited: steps %d to %d are what the job makes", a.From, a.To)
	})
	r.rec = newRecord(r.p, "serve", r.opt.Output)
	defer func() {
		if cerr := r.rec.close(); err == nil {
			err = cerr
		}
	}()
	if !job.Fresh {
		if r.shared != nil {
			if r.before, err = r.earlier(ctx, job); err != nil {
				return Summary{}, fmt.Errorf("the state in NATS: %w: use --fresh to start from the beginning", err)
			}
		}
		if r.before != nil && r.before.Checkpoint != nil {
			r.rec.resume = int64(r.before.Checkpoint.Position.Step)
			if r.shared != nil {
				if err := r.replay(ctx, r.rec.resume); err != nil {
					return Summary{}, err
				}
			}
		}
	}
	// A cancelled ctx asks for a graceful stop; the run ends by its own rules.
	ended := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			srv.Stop("the requester stopped the run")
		case <-r.checks.bad:
			srv.Stop("an audit does not agree with what was trained")
		case <-ended:
		}
	}()
	event, unfollow := follow(r.opt.Telemetry, srv, r.event)
	res, err := srv.Run(context.WithoutCancel(ctx), job, event)
	unfollow()
	close(ended)
	relayed := srv.Relayed()
	r.learned()
	found := r.checks.close(ctx)
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.rec.clear()
	r.retry = time.Time{}
	r.write(time.Now())
	// Even finding a direct path sends some kilobytes through the relay.
	if relayed != nil && relayed.Bytes > 100e3 {
		r.opt.say("relayed %s between providers without a direct path", native.FormatSize(relayed.Bytes))
	}
	sum = r.rec.summary()
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
	if errors.Is(err, server.ErrStopped) && ctx.Err() != nil {
		err, sum.Interrupted = nil, true // stopped before training started
	}
	if errors.Is(err, server.ErrDiverged) {
		err = fmt.Errorf("%w: %s", err, advice(r.p)) // err already says what is kept
		sum.Loss, sum.Error = Number(math.NaN()), err.Error()
	}
	if found != nil {
		err = found
		sum.Error = err.Error()
	}
	if err == nil {
		err = r.fail
	}
	return sum, err
}

// place is the server's planner: it uses the stored plan with its names, or plans by the
// members' benchmarks.
func (r *run) place(_ context.Context, ask server.Ask) ([]server.Assignment, error) {
	pool, free := ask.Pool, ask.Free
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, server.ErrStopped
	}
	r.past = ask.Record
	if r.opt.Providers > 0 || free {
		if err := r.planClass(pool, free); err != nil {
			return nil, err
		}
	}
	j, err := planned(r.p, &r.plan.Plan, ask)
	if err != nil {
		return nil, err
	}
	r.job = j
	byName := map[string]server.Member{}
	for _, m := range pool {
		byName[m.Name] = m
	}
	var as []server.Assignment
	var members []server.Member
	r.placed = slices.DeleteFunc(r.placed, func(p placed) bool { return p.run == ask.Run }) // planned for others
	now := placed{run: ask.Run, job: j}
	var need, ram [][]int64 // by cluster and stage
	all := clusters(&r.plan.Plan, j)
	now.clusters = all
	for c, cl := range r.plan.Clusters {
		starts := cl.Starts()
		raw, err := json.Marshal(provider.Plan{Clusters: all, Train: r.p.Data.Train.Len(), Val: r.p.Data.Val.Len(), MicroBatches: cl.MicroBatches, InFlight: cl.InFlight, Record: j.Periods})
		if err != nil {
			return nil, err
		}
		stages, err := r.p.Graph.Cut(starts)
		if err != nil {
			return nil, err
		}
		now.stages = append(now.stages, stages)
		need, ram = append(need, nil), append(ram, nil)
		for k, s := range cl.Stages {
			m, ok := byName[s.Name]
			if !ok {
				return nil, fmt.Errorf("%w: the plan needs a provider %q, which has not joined", server.ErrPool, s.Name)
			}
			if m.Hello.RAM > 0 && int64(s.Memory) > m.Hello.RAM {
				return nil, fmt.Errorf("%w: %w: stage %d of cluster %d needs %s, but provider %s lends %s", server.ErrPool, ga.ErrRAM, k, c, native.FormatSize(int64(s.Memory)), s.Name, native.FormatSize(m.Hello.RAM))
			}
			members = append(members, m)
			need[c], ram[c] = append(need[c], int64(s.Memory)), append(ram[c], m.Hello.RAM)
			seg := snapshot.Segment{From: starts[k], To: len(r.p.Graph.Nodes)}
			if k+1 < len(starts) {
				seg.To = starts[k+1]
			}
			as = append(as, server.Assignment{
				MemberID: m.ID, Cluster: c, Stage: k, Stages: len(cl.Stages), Segment: seg, MaxUpload: maxPart(j, stages[k], stage.Placement{Cluster: c, Clusters: all}),
				Graph: r.graph, Data: r.data, Weights: r.weights, Plan: raw, Record: j.Periods, Share: len(all[c].Replicas), Forecast: cl.Rate,
			})
		}
	}
	r.noteClass(members)
	r.placed = append(r.placed[max(0, len(r.placed)-7):], now)
	if err := hold(as, now, need, ram); err != nil {
		return nil, err
	}
	if err := r.rec.open(); err != nil || !r.p.Job.Auto() {
		return as, err
	}
	return as, r.unlessBegun(r.p.WriteRounds(j.Periods))
}

// planned is the job with the replicas of a plan that was asked for.
func planned(p *project.Project, plan *planner.Plan, ask server.Ask) (job.Spec, error) {
	if !p.Job.Auto() {
		return p.Job, nil
	}
	if plan.Replicas < 1 {
		return p.Job, errors.New("the plan does not say how many replicas it is for: run clusterize again")
	}
	record := order.Extend(ask.Record, ask.Step, plan.Replicas)
	if err := p.CheckRecord(record); err != nil {
		return p.Job, fmt.Errorf("the record of replicas: %w", err)
	}
	return p.Job.In(record)
}

// clusters are those of a plan as their stages know them.
func clusters(p *planner.Plan, j job.Spec) []stage.Cluster {
	var all []stage.Cluster
	for _, c := range p.Clusters {
		own := c.Replicas
		if len(p.Clusters) == 1 && len(own) == 0 {
			for k := range j.Replica() {
				own = append(own, k)
			}
		}
		all = append(all, stage.Cluster{Starts: c.Starts(), Replicas: own, Room: c.Room})
	}
	return all
}

// formed is a plan by the members' benchmarks, and the members as nodes.
func (r *run) formed(pool []server.Member, free bool) ([]project.Node, *planner.Plan, error) {
	var nodes []project.Node
	var gn []ga.Node
	for i, m := range pool {
		h := m.Hello
		n := project.Node{Address: fmt.Sprintf("0.0.0.0:%d", 8080+i), Node: ga.Node{
			Name: m.Name, RAM: float64(h.RAM), Bandwidth: min(h.Bench.Up, h.Bench.Down), Compute: 1e9 * h.Bench.Conv,
		}}
		if h.Bench.GEMM > 0 && h.Bench.Conv > 0 {
			n.Compute = 2e9 / (1/h.Bench.GEMM + 1/h.Bench.Conv)
		}
		if n.Compute > 1e9*provider.Peak(h.Threads) {
			n.Compute = 0 // impossible: treat it as not measured
		}
		nodes, gn = append(nodes, n), append(gn, n.Node)
	}
	siblings(pool, gn)
	for i := range nodes {
		nodes[i].Node = gn[i]
	}
	replicas := 0
	if n := len(r.past); n == order.MaxPeriods {
		replicas = r.past[n-1].Replicas // no more changes fit
	}
	plan, err := form(r.p, r.facts(pool), ga.Repair(gn), replicas, func(j job.Spec) ga.Options {
		opt := options(j, len(pool), r.opt.Clusters)
		if !free || len(pool) >= r.opt.Providers && r.p.Job.Auto() {
			opt.MinClusters = r.opt.Clusters // after a loss fewer are better than none
		}
		// Who would slow the others is better kept to take the place of one that is lost.
		opt.Spares = r.opt.Clusters == 0 && j.Replica() > 1
		return opt
	})
	return nodes, plan, err
}

// settled are the members that the last plan was for, if all of them are here and others beside
// them, in a job that takes newcomers; else none.
func (r *run) settled(pool []server.Member) []server.Member {
	if r.plan == nil || r.p.Job.Auto() || !grows(r.p.Job, r.opt) {
		return nil
	}
	used := map[string]bool{}
	for _, c := range r.plan.Clusters {
		for _, s := range c.Stages {
			used[s.Name] = true
		}
	}
	rest := slices.DeleteFunc(slices.Clone(pool), func(m server.Member) bool { return !used[m.Name] })
	if len(rest) < len(used) || len(rest) == len(pool) {
		return nil
	}
	return rest
}

// planPool plans by the members' benchmarks and writes the plan to the project. free says that
// somebody was lost, or that more have come.
func (r *run) planPool(pool []server.Member, free bool) error {
	nodes, plan, err := r.formed(pool, free)
	if rest := r.settled(pool); err == nil && rest != nil {
		if _, without, err := r.formed(rest, free); err == nil && plan.Rate > 0 && without.Rate >= plan.Rate {
			r.opt.say("%d newcomer(s) to spare: with them %.3g samples/s are forecast, without them %.3g", len(pool)-len(rest), plan.Rate, without.Rate)
			return r.planPool(rest, free)
		}
	}
	// Leave out providers that lend too little for any stage, if there are enough others.
	var small *planner.TooSmall
	if errors.As(err, &small) && len(pool)-len(small.Members) >= max(r.opt.Providers, 1) {
		var rest []server.Member
		for i, m := range pool {
			if !slices.Contains(small.Members, i) {
				rest = append(rest, m)
			}
		}
		r.opt.say("not used for now: %v", small)
		return r.planPool(rest, free)
	}
	if err == nil && r.p.Job.Auto() && len(plan.GA.Spares) > 0 {
		// Who does not train has no replica.
		var rest []server.Member
		var out []string
		for i, m := range pool {
			if slices.Contains(plan.GA.Spares, i) {
				out = append(out, m.Name)
			} else {
				rest = append(rest, m)
			}
		}
		r.opt.say("%s to spare: training would be slower with them", strings.Join(out, ", "))
		return r.planPool(rest, free)
	}
	if !r.opt.Alone && (errors.Is(err, ga.ErrRAM) || errors.Is(err, ga.ErrInvalid)) {
		return fmt.Errorf("%w: %w", server.ErrPool, err)
	}
	if err != nil {
		return err
	}
	// Move the older run's weights aside before its plan, which locates them, is replaced.
	if err := r.rec.open(); err != nil {
		return err
	}
	stored, err := r.p.WritePlan(nodes, plan)
	if stored == nil {
		return err
	}
	r.plan = stored
	return r.unlessBegun(err)
}

// unlessBegun is an error of writing what a run can go on without, if it has not begun. Else it
// is told.
func (r *run) unlessBegun(err error) error {
	if err == nil || !r.begun && r.before == nil {
		return err
	}
	r.opt.say("warning: %v: the run goes on all the same", err)
	return nil
}

// siblings replaces the benchmarks of providers on this machine that use equally many threads
// by their median. They were measured at the same time and disturbed each other, and equal
// machines should get the same cuts in every run.
func siblings(pool []server.Member, nodes []ga.Node) {
	groups := map[int][]int{}
	for i, m := range pool {
		if host, _, err := net.SplitHostPort(m.Addr); err == nil && net.ParseIP(host).IsLoopback() {
			groups[m.Hello.Threads] = append(groups[m.Hello.Threads], i)
		}
	}
	for _, g := range groups {
		for _, field := range []func(*ga.Node) *float64{
			func(n *ga.Node) *float64 { return &n.Compute },
			func(n *ga.Node) *float64 { return &n.Bandwidth },
		} {
			var vs []float64
			for _, i := range g {
				vs = append(vs, *field(&nodes[i]))
			}
			slices.Sort(vs)
			for _, i := range g {
				*field(&nodes[i]) = vs[len(vs)/2]
			}
		}
	}
}

// event handles an event of the run. It is called from one goroutine.
func (r *run) event(ev server.Event) {
	now := time.Now()
	r.share(now, ev)
	switch e := ev.(type) {
	case server.Joined:
		r.joined = now
		r.opt.say("%s joined (%s, %s RAM, %.3g GFLOP/s), %d of %d", e.Name, e.Hello.Platform, native.FormatSize(e.Hello.RAM), e.Hello.Bench.GEMM, e.Have, e.Want)
	case server.Left:
		if e.Run == "" { // otherwise a Recovering event follows
			r.rec.clear()
			r.opt.say("%s left: %s", e.Name, e.Reason)
		}
	case server.Returned:
		r.rec.clear()
		r.opt.say("%s lost its connection to this host and has another one after %.1f s: nothing is lost", e.Name, e.After.Seconds())
	case server.StageDone:
		r.done[e.Name] = true
	case server.Refused:
		r.rec.clear()
		r.opt.say("refused %s at %s: %v", e.Name, e.Addr, e.Err)
	case server.Waiting:
		r.rec.clear()
		r.opt.say("%s", e.Reason)
	case server.Planned:
		r.rec.attempt()
		for _, s := range e.Stages {
			r.rec.roles = append(r.rec.roles, s.Name)
		}
		r.mu.Lock()
		plan := r.plan.String()
		r.rec.placed(&r.plan.Plan, r.p.Graph, r.job)
		r.mu.Unlock()
		r.opt.say("%s", strings.TrimRight(plan, "\n"))
		if n := len(r.job.Periods); n > 0 {
			r.opt.say("replicas auto: %d from step %d on, one for each provider that trains as far as epochs and memory allow", r.job.Replica(), r.job.Periods[n-1].Step)
		}
	case server.Ready:
		r.mu.Lock()
		r.trips.note(e.Name, e.RTT)
		r.mu.Unlock()
	case server.Started:
		r.rec.begin(now, int64(e.Resume))
		r.begin(now)
		switch {
		case e.After > 0 && r.grew:
			r.opt.say("training resumes from step %d, %.1f s later", e.Resume, e.After.Seconds())
		case e.After > 0:
			r.opt.say("training resumes from step %d, %.1f s after the loss", e.Resume, e.After.Seconds())
		case e.Resume > 0:
			r.opt.say("training resumes from step %d", e.Resume)
		default:
			r.opt.say("training")
		}
	case server.Recovering:
		r.learned()
		r.rec.clear()
		r.done = map[string]bool{}
		r.grew = e.Grows
		r.opt.say("%s: %s", e.Reason, redone(e))
	case server.Resumed:
		r.opt.say("resuming the run that ended at step %d of epoch %d (--fresh starts from the beginning)", e.Step, e.Epoch+1)
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
			r.rec.clear()
			r.opt.say("saved at step %d, after %.0f s in which nothing could be saved", e.Manifest.Position.Step, e.After.Seconds())
		}
		r.uncopied, r.retry = e.Manifest, time.Time{}
		r.write(now)
		r.checks.saved(e.Manifest.Position)
	case server.Warning:
		r.rec.clear()
		r.opt.say("warning: %v", e.Err)
	}
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
		r.rec.clear()
		if err != nil {
			why, _, _ := strings.Cut(err.Error(), "\n")
			r.opt.say("warning: %s: training goes on, and it is tried again", why)
		} else {
			r.opt.say("the results can be written again")
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
