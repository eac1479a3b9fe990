// Package host is the requester's side of a run on a native machine: it serves a
// project to providers, watches the run, and keeps what comes of it in the project's
// directory.
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

	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/planner"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/ga"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// ErrClusters is returned for a plan that this version cannot run.
var ErrClusters = errors.New("averaging across clusters is not in this version")

// storeDir is where uploaded stages are kept inside a project.
const storeDir = "node_data/store"

// Options of a served run.
type Options struct {
	Listener net.Listener
	Token    string
	Site     http.Handler
	Edge     Edge
	// Providers is how many to wait for and plan by their benchmarks; 0: the stored
	// plan's.
	Providers int
	// Names fixes the providers' names where Providers is set; nil: any.
	Names []string
	// Alone tells that nobody will join but those whom Listening starts: a pool that is
	// too small ends the run instead of waiting for another provider.
	Alone bool
	// Fresh begins anew even where an unfinished run of the same job could go on.
	Fresh bool
	// Spawned tells when the last provider was started, for FirstStepS; the zero time:
	// when the last one joined.
	Spawned func() time.Time
	// Listening is called with the host's URL once it accepts providers.
	Listening func(ctx context.Context, url string) error
	// Trace takes all that the run's machine is told; nil: nobody.
	Trace io.Writer
	Output
}

// Edge is how the host meets the network beyond this machine. The zero value is plain
// http, without a relay.
type Edge struct {
	TLS      *tls.Config
	Public   *url.URL       // by which the host is known outside; nil: the listener's address
	Proxy    bool           // a trusted reverse proxy stands before it
	RelayUDP net.PacketConn // of the relay; nil: none
	RelayTCP net.Listener   // of the relay where it has an address of its own; nil: the host's
}

// url is the address to tell people.
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

// blobs are the run's contents by hash.
type blobs map[string][]byte

func (b blobs) add(data []byte) proto.Ref {
	h := sha256.Sum256(data)
	ref := proto.Ref{SHA256: hex.EncodeToString(h[:]), Size: int64(len(data))}
	b[ref.SHA256] = data
	return ref
}

// Blob implements server.Blobs.
func (b blobs) Blob(sum string) (io.ReaderAt, int64, error) {
	data, ok := b[sum]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return bytes.NewReader(data), int64(len(data)), nil
}

// runID makes an identifier that messages, files and addresses take of a job's name, which is
// a label and may hold any letters. Names that differ give identifiers that differ.
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
	class string // numeric, of the run's providers so far; "": none yet, or several
	graph proto.Ref
	data  map[string]proto.Ref
	// weights that the run begins with; nil: drawn by the seed
	weights map[string]proto.Ref
	rec     *record
	joined  time.Time
	first   time.Time
	store   *store.Dir
	fail    error      // of keeping what came
	mu      sync.Mutex // of place, which the server calls from a goroutine of its own
	over    bool
	stages  []*graph.Stage  // of the plan
	files   []string        // the stages' files of the last checkpoint
	done    map[string]bool // providers that have finished
}

// Plan forms clusters from the project's pool file and writes node_data.
func Plan(p *project.Project, maxClusters int) (*project.Stored, error) {
	pool, err := p.Pool()
	if err != nil {
		return nil, err
	}
	nodes := make([]ga.Node, len(pool))
	for i, n := range pool {
		nodes[i] = n.Node
	}
	plan, err := planner.Make(p.Job, p.Graph, nodes, options(len(pool), maxClusters), p.Job.Seed)
	if err != nil {
		return nil, err
	}
	if err := p.WritePlan(pool, plan); err != nil {
		return nil, err
	}
	return p.ReadPlan()
}

func options(pool, maxClusters int) ga.Options {
	o := ga.Options{MaxClusters: maxClusters}
	if pool == 1 {
		o.MinSize = 1 // one provider is root and leaf at once
	}
	return o
}

// answers is how many a validation pass counts at most: one for every position of a row
// where the model answers for each, as transformers do for tokens.
func answers(p *project.Project) int64 {
	out := p.Graph.Shape(p.Graph.OutputValue())
	return int64(p.Data.Val.Len()) * int64(out.Elems()/out[len(out)-1])
}

// span is the batches between two places where a run of replicas can stop; 0 with one.
func span(j job.Spec) int64 {
	if j.Replica() == 1 || j.Gradients() {
		return 0
	}
	return int64(j.Replica()) * int64(j.Updates()) * int64(j.UpdateFrequency)
}

// Serve serves the project to providers, waits for the run to end and returns its
// figures. Cancelling ctx stops the run cleanly: what is in flight is finished and
// saved.
func Serve(ctx context.Context, p *project.Project, opt Options) (Summary, error) {
	r := &run{p: p, opt: opt, data: map[string]proto.Ref{}, done: map[string]bool{}}
	job := server.Job{
		ID: runID(p.Job.Name), Raw: p.Job.JSON(), Plan: r.place, Inspect: r.inspect, Want: opt.Providers, Names: opt.Names,
		Spares: true, Replan: true, Fresh: opt.Fresh,
		Steps: int64(p.Job.Total(p.Data.Train.Len())), Val: answers(p), Span: span(p.Job),
	}
	if opt.Providers == 0 {
		var err error
		if r.plan, err = p.ReadPlan(); err != nil {
			if errors.Is(err, project.ErrMissing) {
				err = fmt.Errorf("%w: run clusterize first, or say --providers N to plan by the benchmarks of the first N that join", err)
			}
			return Summary{}, err
		}
		if n := len(r.plan.Clusters); n > 1 {
			return Summary{}, fmt.Errorf("%w: the plan has %d clusters: run clusterize again with --max-clusters 1", ErrClusters, n)
		}
		for _, s := range r.plan.Clusters[0].Stages {
			job.Names = append(job.Names, s.Name)
		}
		job.Want = len(job.Names)
	}
	bl := blobs{}
	r.graph = bl.add(p.GraphJSON)
	for kind, half := range map[string]interface{ Encode() ([]byte, error) }{
		provider.TrainX: p.Data.Train.X(), provider.TrainY: p.Data.Train.Y(),
		provider.ValX: p.Data.Val.X(), provider.ValY: p.Data.Val.Y(),
	} {
		b, err := half.Encode()
		if err != nil {
			return Summary{}, fmt.Errorf("encoding %s: %w", kind, err)
		}
		r.data[kind] = bl.add(b)
	}
	if p.Weights != nil {
		var b bytes.Buffer
		if err := safetensors.Write(&b, p.Weights, nil); err != nil {
			return Summary{}, fmt.Errorf("encoding the weights to begin with: %w", err)
		}
		r.weights = map[string]proto.Ref{provider.Weights: bl.add(b.Bytes())}
	}
	job.Blobs = bl
	if err := os.MkdirAll(filepath.Join(p.Dir, storeDir), 0o755); err != nil {
		return Summary{}, fmt.Errorf("making the store: %w", err)
	}
	osfs, err := store.OpenOS(filepath.Join(p.Dir, storeDir))
	if err != nil {
		return Summary{}, err
	}
	defer osfs.Close()
	r.store = store.NewDir(osfs)
	defer r.store.Close()
	r.rec = newRecord(p, "serve", opt.Output)
	if !opt.Fresh {
		earlier, err := server.Earlier(ctx, r.store, job.ID, job.Raw)
		if err != nil {
			return Summary{}, fmt.Errorf("%w: say --fresh to begin anew", err)
		}
		if earlier != nil && earlier.Checkpoint != nil {
			r.rec.resume = int64(earlier.Checkpoint.Position.Step)
		}
	}
	sum, err := r.serve(ctx, job)
	if cerr := r.rec.close(); err == nil {
		err = cerr
	}
	return sum, err
}

func (r *run) serve(ctx context.Context, job server.Job) (Summary, error) {
	srv, err := server.New(server.Config{
		Token: r.opt.Token, Store: r.store, Site: r.opt.Site, Once: true, Trace: r.opt.Trace,
		TLS: r.opt.Edge.TLS, Public: r.opt.Edge.Public, Proxy: r.opt.Edge.Proxy, RelayUDP: r.opt.Edge.RelayUDP,
	})
	if err != nil {
		return Summary{}, err
	}
	served := make(chan error, 2)
	lns := []net.Listener{r.opt.Listener}
	if ln := r.opt.Edge.RelayTCP; ln != nil {
		lns = append(lns, ln)
	}
	for _, ln := range lns {
		go func() { served <- srv.Serve(ln) }()
	}
	defer func() {
		// Providers that are told goodbye need a moment to hear it.
		sctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = srv.Shutdown(sctx)
		for range lns {
			<-served
		}
	}()
	if r.opt.Listening != nil {
		if err := r.opt.Listening(ctx, r.opt.url()); err != nil {
			return Summary{}, err
		}
	}
	// A cancelled ctx is the requester's wish to stop; the run itself ends by its rules.
	ended := make(chan struct{})
	go func() {
		select {
		case <-ctx.Done():
			srv.Stop("the requester stopped the run")
		case <-ended:
		}
	}()
	res, err := srv.Run(context.WithoutCancel(ctx), job, r.event)
	close(ended)
	relayed := srv.Relayed()
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.rec.clear()
	// Looking for a direct path takes some kilobytes by the relay, too.
	if relayed != nil && relayed.Bytes > 100e3 {
		r.opt.say("relayed %s between providers without a direct path", bytesText(float64(relayed.Bytes)))
	}
	sum := r.rec.summary()
	sum.Interrupted = res.Interrupted
	if r.plan != nil {
		sum.Providers = len(r.plan.Clusters[0].Stages)
		for _, s := range r.plan.Clusters[0].Stages {
			sum.Cuts = append(sum.Cuts, r.p.Graph.Nodes[s.Start].Name)
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
		err, sum.Interrupted = nil, true // before the start; a run that goes on ends well
	}
	if errors.Is(err, server.ErrDiverged) {
		err = fmt.Errorf("%w: %s", err, advice(r.p)) // what is kept has been said
		sum.Loss, sum.Error = Number(math.NaN()), err.Error()
	}
	if err == nil {
		err = r.fail
	}
	return sum, err
}

// place is the server's planner: the stored plan by names, or a plan from the
// members' benchmarks.
func (r *run) place(_ context.Context, pool []server.Member, free bool) ([]server.Assignment, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return nil, server.ErrStopped
	}
	if r.opt.Providers > 0 || free {
		if err := r.planClass(pool); err != nil {
			return nil, err
		}
	}
	byName := map[string]server.Member{}
	for _, m := range pool {
		byName[m.Name] = m
	}
	cl := r.plan.Clusters[0]
	starts := cl.Starts()
	raw, err := json.Marshal(provider.Plan{Starts: starts, Train: r.p.Data.Train.Len(), Val: r.p.Data.Val.Len(), MicroBatches: cl.MicroBatches, InFlight: cl.InFlight})
	if err != nil {
		return nil, err
	}
	stages, err := r.p.Graph.Cut(starts)
	if err != nil {
		return nil, err
	}
	r.stages = stages
	var as []server.Assignment
	var placed []server.Member
	for k, s := range cl.Stages {
		m, ok := byName[s.Name]
		if !ok {
			return nil, fmt.Errorf("%w: the plan wants a provider %q, which is not here", server.ErrPool, s.Name)
		}
		if m.Hello.RAM > 0 && int64(s.Memory) > m.Hello.RAM {
			return nil, fmt.Errorf("%w: %w: stage %d needs %s, provider %s lends %s", server.ErrPool, ga.ErrRAM, k, bytesText(float64(s.Memory)), s.Name, bytesText(float64(m.Hello.RAM)))
		}
		placed = append(placed, m)
		seg := snapshot.Segment{From: starts[k], To: len(r.p.Graph.Nodes)}
		if k+1 < len(starts) {
			seg.To = starts[k+1]
		}
		as = append(as, server.Assignment{
			MemberID: m.ID, Stage: k, Stages: len(cl.Stages), Segment: seg, MaxUpload: maxPart(r.p.Job, stages[k]),
			Graph: r.graph, Data: r.data, Weights: r.weights, Plan: raw,
		})
	}
	r.noteClass(placed)
	return as, r.rec.open()
}

// planPool plans by what the members measured and writes the plan to the project.
func (r *run) planPool(pool []server.Member) error {
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
			n.Compute = 0 // no machine can: as if it had not measured
		}
		nodes, gn = append(nodes, n), append(gn, n.Node)
	}
	siblings(pool, gn)
	for i := range nodes {
		nodes[i].Node = gn[i]
	}
	plan, err := planner.Make(r.p.Job, r.p.Graph, ga.Repair(gn), options(len(pool), 1), r.p.Job.Seed)
	// Those who lend too little for any stage are left waiting, if enough others are here.
	var small *planner.TooSmall
	if errors.As(err, &small) && len(pool)-len(small.Members) >= max(r.opt.Providers, 1) {
		var rest []server.Member
		for i, m := range pool {
			if !slices.Contains(small.Members, i) {
				rest = append(rest, m)
			}
		}
		r.opt.say("left waiting: %v", small)
		return r.planPool(rest)
	}
	if !r.opt.Alone && (errors.Is(err, ga.ErrRAM) || errors.Is(err, ga.ErrInvalid)) {
		return fmt.Errorf("%w: %w", server.ErrPool, err)
	}
	if err != nil {
		return err
	}
	// The older run's weights lie where its plan put them.
	if err := r.rec.open(); err != nil {
		return err
	}
	if err := r.p.WritePlan(nodes, plan); err != nil {
		return err
	}
	r.plan, err = r.p.ReadPlan()
	return err
}

// siblings gives the providers of this machine that use as many threads the same
// figures, the median of theirs: they measured at the same time, which is to say each
// other, and equal machines should be cut alike run after run.
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

// event watches the run. It is called from one goroutine.
func (r *run) event(ev server.Event) {
	now := time.Now()
	switch e := ev.(type) {
	case server.Joined:
		r.joined = now
		r.opt.say("%s joined (%s, %s RAM, %.3g GFLOP/s), %d of %d", e.Name, e.Hello.Platform, bytesText(float64(e.Hello.RAM)), e.Hello.Bench.GEMM, e.Have, e.Want)
	case server.Left:
		if e.Run == "" { // else the run says what that means for it
			r.rec.clear()
			r.opt.say("%s left: %s", e.Name, e.Reason)
		}
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
		r.mu.Unlock()
		r.opt.say("%s", strings.TrimRight(plan, "\n"))
	case server.Started:
		r.rec.begin(now, int64(e.Resume))
		switch {
		case e.After > 0:
			r.opt.say("training goes on from step %d, %.1f s after the loss", e.Resume, e.After.Seconds())
		case e.Resume > 0:
			r.opt.say("training goes on from step %d", e.Resume)
		default:
			r.opt.say("training")
		}
	case server.Recovering:
		r.rec.clear()
		r.done = map[string]bool{}
		r.opt.say("%s: %s", e.Reason, redone(e))
	case server.Resumed:
		r.opt.say("going on with the run that ended at step %d of epoch %d (--fresh begins anew)", e.Step, e.Epoch+1)
	case server.Loss:
		if r.first.IsZero() {
			r.first = now
		}
		r.rec.loss(now, e.Epoch, e.Step, float64(e.Loss.Loss))
	case server.Val:
		r.rec.val(now, e.Epoch, e.Correct, e.Total, float64(e.Val.Loss))
	case server.Progress:
		r.rec.progress(e.Name, e.Out, e.Busy, e.RSS)
		r.rec.tick(now)
		r.keep(r.rec.flush())
	case server.Checkpointed:
		r.keep(r.saved(e.Manifest))
	case server.Warning:
		r.rec.clear()
		r.opt.say("warning: %v", e.Err)
	}
}

// keep remembers the first failure to store what the run brings.
func (r *run) keep(err error) {
	if err != nil && r.fail == nil {
		r.fail = err
		r.opt.say("error: %v", err)
	}
}

// redone says what a recovery means for the work.
func redone(e server.Recovering) string {
	switch {
	case e.Reached > e.Step && e.Step > 0:
		return fmt.Sprintf("the run goes on from step %d; %d steps are done again", e.Step, e.Reached-e.Step)
	case e.Step > 0:
		return fmt.Sprintf("the run goes on from step %d", e.Step)
	case e.Reached > 0:
		return fmt.Sprintf("nothing had been saved yet; %d steps are done again", e.Reached)
	}
	return "the run goes on"
}

// saved copies a checkpoint's stages to where people look for them, and then the
// manifest, which is what fuse and eval read.
func (r *run) saved(c *snapshot.Manifest) error {
	r.mu.Lock()
	plan := r.plan
	r.mu.Unlock()
	files := []string{}
	for _, e := range c.Parts {
		if e.Cluster >= len(plan.Clusters) || e.Stage >= len(plan.Clusters[e.Cluster].Stages) {
			continue // the cut has changed since
		}
		rel := filepath.Join(plan.StageDir(e.Cluster, e.Stage), project.WeightsFile)
		if err := r.p.Inside(rel); err != nil {
			return err
		}
		path := filepath.Join(r.p.Dir, rel)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("making the directory of stage %d: %w", e.Stage, err)
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
