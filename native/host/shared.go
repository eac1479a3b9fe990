// Several hosts serve one job over NATS: one leads, the others stand by. The host that leads
// keeps everything that the result needs in the store, and tells what the run reports in a log;
// the next one makes its own files from that.

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ravnest/ravnest/engine/loss"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/journal"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/status"
	"github.com/ravnest/ravnest/signaling/member"
	"github.com/ravnest/ravnest/signaling/proto"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
	"github.com/ravnest/ravnest/signaling/store/jetstream"
	"github.com/ravnest/ravnest/site"
)

// NATS says where the hosts of a job keep its state.
type NATS struct {
	URL      string // of the server or servers, separated by commas; "": nowhere
	Creds    string // file with credentials; "": those of the URL, if any
	Replicas int    // copies kept by a cluster of servers; 0: 1
}

// ErrShared is wrapped where a directory's run and the place of its state do not fit.
var ErrShared = errors.New("the run's state is elsewhere")

// sharedFile notes which run over NATS the results in a directory are of.
const sharedFile = "node_data/nats.json"

// shared is a run's part in serving a job together with other hosts.
type shared struct {
	js  *jetstream.Store
	log string // of what the run reports
}

// told is a line of the log.
type told struct {
	At      int64       `json:"t"` // Unix milliseconds
	Cluster int         `json:"cluster,omitempty"`
	Loss    *proto.Loss `json:"loss,omitempty"`
	Val     *proto.Val  `json:"val,omitempty"`
}

// membersObject is where the list of members is in the store.
func membersObject(job string) string { return job + "/members.json" }

// identity is what all hosts must have the same, as digests.
func (r *run) identity() map[string]string {
	sum := func(b []byte) string {
		h := sha256.Sum256(b)
		return hex.EncodeToString(h[:])
	}
	id := map[string]string{"settings (job.json)": sum(r.p.Job.JSON()), "model": r.refs.graph.SHA256}
	var data bytes.Buffer
	for _, kind := range []string{"train_x", "train_y", "val_x", "val_y"} {
		fmt.Fprintln(&data, kind, r.refs.data[kind].SHA256)
	}
	id["data"] = sum(data.Bytes())
	for _, ref := range r.refs.weights {
		id["initial weights"] = ref.SHA256
	}
	return id
}

// alone checks that the directory alone has the run's state.
func (r *run) alone(ctx context.Context, job server.Job) error {
	if r.opt.Fresh {
		return r.note("")
	}
	var err error
	if r.before, err = r.earlier(ctx, job); err != nil {
		return fmt.Errorf("%w: put the file back if there is a copy of it, or use --fresh to start from the beginning", err)
	}
	if r.before != nil && r.noted() != "" {
		return fmt.Errorf("%w: that of %s is in NATS, and may be newer there: give --nats URL to go on with it, or --fresh to start from the beginning", ErrShared, r.p.Dir)
	}
	return nil
}

// noted returns the run over NATS that the directory is of; "": none.
func (r *run) noted() string {
	b, err := os.ReadFile(filepath.Join(r.p.Dir, sharedFile))
	var v struct {
		Run string `json:"run"`
	}
	if err != nil || json.Unmarshal(b, &v) != nil {
		return ""
	}
	return v.Run
}

// note is for noted. "": none.
func (r *run) note(id string) error {
	if id == r.noted() {
		return nil
	}
	if err := r.p.Inside(sharedFile); err != nil {
		return err
	}
	path := filepath.Join(r.p.Dir, sharedFile)
	if id == "" {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	b, err := json.Marshal(map[string]string{"run": id})
	if err != nil {
		return err
	}
	return native.WriteFile(path, append(b, '\n'), 0o644)
}

// claim sees that the directory holds nothing but this run, whose state NATS has.
func (r *run) claim(ctx context.Context, job server.Job, dir *store.Dir) error {
	if r.noted() == r.shared.js.Run() || r.opt.Fresh {
		return nil
	}
	if earlier, err := server.Earlier(ctx, dir, job.ID, job.Raw); err == nil && earlier != nil && earlier.Checkpoint != nil && r.noted() == "" {
		return fmt.Errorf("%w: %s has an unfinished run, saved at step %d, of which NATS knows nothing: finish it without --nats, or give --fresh to start from the beginning", ErrShared, r.p.Dir, earlier.Checkpoint.Position.Step)
	}
	n, err := r.p.MoveAside()
	if err != nil {
		return err
	}
	if n > 0 {
		r.opt.Console.Say("the older run's results are in %s", filepath.Join(r.p.Dir, project.OldDir, fmt.Sprint(n)))
	}
	return r.note(r.shared.js.Run())
}

// serveShared serves the job together with other hosts.
func (r *run) serveShared(ctx context.Context, job server.Job, dir *store.Dir) (journal.Summary, error) {
	fresh := job.Fresh
	job.Fresh = false // NATS begins anew, once
	opt := jetstream.Options{
		Job: job.ID, Identity: r.identity(), URL: r.opt.url(), Cache: dir, Manifest: machine.ManifestObject(job.ID),
		Creds: r.opt.NATS.Creds, Replicas: r.opt.NATS.Replicas, Fresh: fresh, Ask: r.asks,
		Say: func(format string, a ...any) { r.opt.Console.Say(format, a...) },
	}
	js, err := jetstream.Open(ctx, r.opt.NATS.URL, opt)
	if err != nil {
		return journal.Summary{}, err
	}
	defer js.Close()
	r.shared, r.store = &shared{js: js, log: job.ID + "/events"}, js
	if err := r.claim(ctx, job, dir); err != nil {
		return journal.Summary{}, err
	}
	if pages, ok := r.opt.Site.(*site.Site); ok {
		pages.Others = js.Others
	}
	srv, down, err := r.up(ctx, server.Config{Standby: r.standby, Hosts: r.hosts})
	if err != nil {
		return journal.Summary{}, err
	}
	defer down()
	for {
		err := js.Lead(ctx)
		switch {
		case errors.Is(err, jetstream.ErrOver):
			return r.results(ctx, job, err)
		case err != nil && ctx.Err() != nil:
			sum := journal.New(r.p, "serve", r.opt.Console).Summary()
			sum.Interrupted = true
			return sum, nil
		case err != nil:
			return journal.Summary{}, err
		}
		sum, err := r.lead(ctx, srv, job)
		if !errors.Is(err, server.ErrDeposed) {
			return sum, err
		}
		r.opt.Console.Say("another host leads the job now: this one stands by")
	}
}

// goodbye bounds how long a host that ends waits for NATS to have everything.
const goodbye = 30 * time.Second

// lead trains while this host leads.
func (r *run) lead(ctx context.Context, srv *server.Server, job server.Job) (journal.Summary, error) {
	js := r.shared.js
	r.opt.Console.Say("this host leads the job; its state is in NATS at %s", js.At())
	if err := errors.Join(r.note(js.Run()), r.takeMembers(ctx, srv, job)); err != nil {
		return journal.Summary{}, err
	}
	deposed, ended := js.Deposed(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		select {
		case <-deposed:
			srv.Depose(r.elsewhere())
		case <-ended:
		}
	})
	sum, err := r.train(ctx, srv, job)
	close(ended)
	wg.Wait()
	if errors.Is(err, server.ErrDeposed) {
		return sum, err
	}
	last, stop := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
	defer stop()
	var jerr error
	switch {
	case err == nil && !sum.Interrupted:
		jerr = js.End(last, "")
	case errors.Is(err, server.ErrDiverged), errors.Is(err, server.ErrPlan): // so it would for any host
		jerr = js.End(last, err.Error())
	default:
		others := js.Others()
		if jerr = js.Resign(last); jerr == nil && len(others) > 0 {
			r.opt.Console.Say("the run goes on with the host at %s", others[0])
			srv.Depose(&proto.Error{Code: proto.Elsewhere, Message: "this host was stopped: the one at " + others[0] + " goes on", Hint: "join that one", Host: others[0]})
			return sum, err
		}
	}
	srv.Depose(&proto.Error{Code: proto.Stopped, Message: "the run is over"})
	if jerr != nil && !errors.Is(jerr, jetstream.ErrDeposed) {
		jerr = fmt.Errorf("the end of the run could not be told to NATS: %w", jerr)
		if err == nil {
			err = jerr
		}
	}
	return sum, err
}

// results makes this host's files of a run that has ended elsewhere.
func (r *run) results(ctx context.Context, job server.Job, over error) (journal.Summary, error) {
	t := r.reporter()
	b, err := r.get(ctx, machine.ManifestObject(job.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return journal.Summary{}, over // nothing was saved
	}
	if err != nil {
		return journal.Summary{}, err
	}
	c, err := snapshot.ParseManifest(b)
	if err != nil {
		return journal.Summary{}, fmt.Errorf("the run's checkpoint: %w", err)
	}
	step := int64(c.Position.Step)
	t.rec.Resume(step)
	err = t.replay(ctx, step)
	if err == nil {
		err = t.saved(c)
	}
	if err == nil && len(c.Record) > 0 {
		err = r.p.WriteRounds(c.Record)
	}
	if cerr := t.rec.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return journal.Summary{}, err
	}
	t.rec.Reach(step)
	sum := t.rec.Summary()
	sum.Saved = true
	if over.Error() != jetstream.ErrOver.Error() {
		return sum, over
	}
	r.opt.Console.Say("the run is over: its results are in %s; ravnest fuse joins them, and --fresh would begin anew", r.p.Dir)
	return sum, nil
}

// get reads a small object.
func (r *run) get(ctx context.Context, name string) ([]byte, error) {
	f, err := r.shared.js.Get(ctx, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<20))
}

// hosts are the addresses that providers are told.
func (r *run) hosts() []string {
	all := append([]string{r.opt.url()}, r.shared.js.Others()...)
	return all[:min(len(all), proto.MaxHosts)]
}

// standby is server.Config.Standby.
func (r *run) standby() *proto.Error {
	if _, own := r.shared.js.Leader(); own {
		return nil
	}
	return r.elsewhere()
}

// elsewhere tells providers which host leads.
func (r *run) elsewhere() *proto.Error {
	at, own := r.shared.js.Leader()
	if at == "" || own {
		return &proto.Error{Code: proto.Elsewhere, Message: "this host stands by, and which host leads the job is not known yet", Hint: "try again in a moment"}
	}
	return &proto.Error{Code: proto.Elsewhere, Message: "this host stands by: the host at " + at + " leads the job", Hint: "join that one", Host: at}
}

// asks is jetstream.Options.Ask.
func (r *run) asks(ctx context.Context, url string) bool {
	ctx, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	s, err := status.Ask(ctx, url, r.opt.Token)
	return err == nil && s.Phase != server.StandingBy && s.Job == r.p.RunID()
}

// share notes what the other hosts need of a report. Losses come before the progress that they
// are a part of, and that before the checkpoint behind them.
func (r *reporter) share(now time.Time, ev server.Event) {
	if r.shared == nil {
		return
	}
	line := told{At: now.UnixMilli()}
	switch e := ev.(type) {
	case server.Loss:
		line.Cluster, line.Loss = e.Cluster, &e.Loss
	case server.Val:
		line.Cluster, line.Val = e.Cluster, &e.Val
	case server.Progress, server.Saved:
		if len(r.lines) > 0 {
			_ = r.shared.js.Share(r.shared.log, r.lines) // an error: another host leads, and makes them itself
			r.lines = nil
		}
		return
	default:
		return
	}
	b, err := json.Marshal(line)
	if err != nil {
		r.opt.Console.Say("warning: the other hosts are not told of a loss: %v", err)
		return
	}
	r.lines = append(append(r.lines, b...), '\n')
}

// replay makes the files of losses and figures anew from what was told before a step.
func (r *reporter) replay(ctx context.Context, step int64) error {
	err := r.rec.Replay(func() error {
		return r.shared.js.Lines(ctx, r.shared.log, func(b []byte) error {
			var l told
			if err := json.Unmarshal(b, &l); err != nil {
				return fmt.Errorf("the log of the run: %w", err)
			}
			at := time.UnixMilli(l.At)
			switch {
			case l.Loss != nil && l.Loss.Step < step:
				r.rec.Loss(at, l.Loss.Epoch, l.Loss.Step, float64(l.Loss.Loss))
			case l.Val != nil && l.Val.Step <= step:
				r.rec.Val(at, validated(*l.Val))
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("reading what the run has reported from NATS: %w", err)
	}
	return r.rec.Flush()
}

// validated is a validation pass as the record takes it.
func validated(v proto.Val) journal.Validation {
	p := journal.Validation{Epoch: v.Epoch, Step: v.Step, Correct: v.Correct, Total: v.Total, Loss: float64(v.Loss)}
	for _, m := range v.Metrics {
		p.Metrics = append(p.Metrics, loss.Metric{Name: m.Name, Value: float64(m.Value)})
	}
	return p
}

// takeMembers takes over the list of members of the host that led before.
func (r *run) takeMembers(ctx context.Context, srv *server.Server, job server.Job) error {
	if r.opt.Members == nil {
		return nil
	}
	b, err := r.get(ctx, membersObject(job.ID))
	if err == nil {
		b, err = r.sealer().open(b)
	}
	if err == nil {
		var book *member.Book
		if book, err = member.Parse(b); err == nil {
			book.URL = r.opt.url()
			err = r.opt.Members.Change(func(own *member.Book) error { *own = *book; return nil })
		}
		srv.MembersChanged()
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("the list of members in NATS: %w", err)
	}
	r.shareMembers()
	return nil
}

// shareMembers has the other hosts know the list of members.
func (r *run) shareMembers() {
	if r.shared == nil || r.opt.Members == nil {
		return
	}
	if _, own := r.shared.js.Leader(); !own {
		return
	}
	book, err := r.opt.Members.Book()
	if err != nil {
		return // Watch tells
	}
	book.URL = ""
	b, err := book.Encode()
	if err == nil {
		err = r.shared.js.Put(context.Background(), membersObject(r.p.RunID()), bytes.NewReader(r.sealer().seal(b)))
	}
	if err != nil && !errors.Is(err, jetstream.ErrDeposed) {
		r.opt.Console.Say("warning: the other hosts do not know who may join: %v", err)
	}
}
