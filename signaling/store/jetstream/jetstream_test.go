package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/ravnest/ravnest/signaling/store"
)

const (
	// lease is that of the tests: a host that a busy machine keeps from running for so long is
	// followed by another.
	lease = 2 * time.Second
	// patience is the limit for what takes milliseconds on an idle machine.
	patience = time.Minute
)

// serve starts a NATS server in this process.
func serve(t *testing.T, change func(*server.Options)) *server.Server {
	t.Helper()
	s := begin(t, change)
	if !s.ReadyForConnections(patience) {
		t.Fatal("NATS does not start")
	}
	return s
}

// begin is serve without waiting.
func begin(t *testing.T, change func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true}
	if change != nil {
		change(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

// said collects what a store tells its user.
type said struct {
	mu  sync.Mutex
	all []string
}

func (s *said) say(format string, a ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, fmt.Sprintf(format, a...))
}

func (s *said) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.all, "\n")
}

// options are those of a host of the tests' job.
func options(t *testing.T, name string) Options {
	o, err := store.OpenOS(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	d := store.NewDir(o)
	t.Cleanup(func() { _ = errors.Join(d.Close(), o.Close()) })
	return Options{
		Job: "digits", Identity: map[string]string{"job.json": "1", "model": "2"}, URL: "http://" + name, Cache: d,
		Manifest: "digits/manifest.json", Lease: lease, Patience: patience,
	}
}

func open(t *testing.T, url string, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// mustLead has a store lead.
func mustLead(t *testing.T, s *Store) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	if err := s.Lead(ctx); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, s *Store, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
}

func commit(s *Store, name, data string) chan error {
	done := make(chan error, 1)
	s.Commit(context.Background(), name, []byte(data), func(err error) { done <- err })
	return done
}

func within(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		t.Fatalf("nothing after %v", patience)
		return nil
	}
}

func get(t *testing.T, s interface {
	Get(context.Context, string) (io.ReadCloser, error)
}, name string,
) []byte {
	t.Helper()
	r, err := s.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func lines(t *testing.T, s *Store, log string) string {
	t.Helper()
	var all []string
	if err := s.Lines(t.Context(), log, func(l []byte) error {
		all = append(all, string(l))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func noise(n int) []byte {
	b := make([]byte, n)
	c := rand.NewChaCha8([32]byte{1})
	_, _ = c.Read(b)
	return b
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

// TestHandOver: what one host has put, committed and logged is there for the next.
func TestHandOver(t *testing.T) {
	t.Parallel()
	url := serve(t, nil).ClientURL()
	oa, ob := options(t, "a"), options(t, "b")
	a, b := open(t, url, oa), open(t, url, ob)
	mustLead(t, a)
	if at, own := a.Leader(); !own || at != "http://a" {
		t.Errorf("the leader is %q, %v", at, own)
	}
	big := noise(3*chunk + 17)
	put(t, a, "digits-1/cluster_0/stage_0/x", big)
	put(t, a, "digits/state.json", []byte("1"))
	put(t, a, "digits/old.json", []byte("old"))
	if err := a.Share("events", []byte("one\ntwo\n")); err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(t.Context(), "digits/old.json"); err != nil {
		t.Fatal(err)
	}
	if err := within(t, commit(a, "digits/manifest.json", "parts")); err != nil {
		t.Fatal(err)
	}

	next := make(chan error, 1)
	go func() { next <- b.Lead(t.Context()) }()
	eventually(t, "the one that stands by has a copy", func() bool {
		r, err := ob.Cache.Get(t.Context(), "digits/manifest.json")
		if err == nil {
			_ = r.Close()
		}
		return err == nil
	})
	if got := get(t, ob.Cache, "digits-1/cluster_0/stage_0/x"); !bytes.Equal(got, big) {
		t.Errorf("its copy has %d bytes of %d", len(got), len(big))
	}
	eventually(t, "they know each other", func() bool { return len(a.Others()) == 1 && a.Others()[0] == "http://b" })
	if at, own := b.Leader(); own || at != "http://a" {
		t.Errorf("the other one says that %q leads, %v", at, own)
	}
	time.Sleep(2 * lease)
	select {
	case err := <-next:
		t.Fatalf("two lead: %v", err)
	default:
	}
	begin := time.Now()
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := within(t, next); err != nil {
		t.Fatal(err)
	}
	t.Logf("handed over in %v", time.Since(begin))
	if err := within(t, commit(a, "digits/manifest.json", "late")); !errors.Is(err, ErrDeposed) {
		t.Errorf("a commit of the host that resigned: %v", err)
	}
	if got := lines(t, b, "events"); got != "one two" {
		t.Errorf("the log has %q", got)
	}
	if got := get(t, b, "digits/state.json"); string(got) != "1" {
		t.Errorf("the state is %q", got)
	}
	if _, err := b.Get(t.Context(), "digits/old.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was deleted: %v", err)
	}
	if l, err := b.List(t.Context(), "digits-"); err != nil || len(l) != 1 {
		t.Errorf("%q, %v", l, err)
	}
}

// TestKilled: a host whose process is gone is followed within a lease and a little.
func TestKilled(t *testing.T) {
	t.Parallel()
	url := serve(t, nil).ClientURL()
	a, b := open(t, url, options(t, "a")), open(t, url, options(t, "b"))
	mustLead(t, a)
	big := noise(2 * chunk)
	put(t, a, "digits-1/cluster_0/stage_0/x", big)
	if err := within(t, commit(a, "digits/manifest.json", "parts")); err != nil {
		t.Fatal(err)
	}
	next := make(chan error, 1)
	go func() { next <- b.Lead(t.Context()) }()
	eventually(t, "the other stands by", func() bool { at, _ := b.Leader(); return at == "http://a" })
	begin := time.Now()
	a.nc.Close() // and says nothing any more
	if err := within(t, next); err != nil {
		t.Fatal(err)
	}
	t.Logf("the other leads after %v, the lease is %v", time.Since(begin), lease)
	if got := get(t, b, "digits-1/cluster_0/stage_0/x"); !bytes.Equal(got, big) {
		t.Errorf("%d bytes of %d", len(got), len(big))
	}
}

// TestFence: a host that another has followed without its knowledge, as one that slept through
// its lease, writes nothing and removes nothing.
func TestFence(t *testing.T) {
	t.Parallel()
	url := serve(t, nil).ClientURL()
	oa := options(t, "a")
	oa.Lease = time.Minute // it gives no sign of life, and asks nobody
	a, b := open(t, url, oa), open(t, url, options(t, "b"))
	mustLead(t, a)
	same := noise(2 * chunk)
	put(t, a, "digits-1/cluster_0/stage_0/x", same)
	if err := within(t, commit(a, "digits/manifest.json", "first")); err != nil {
		t.Fatal(err)
	}
	_, fence, _, err := b.look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.take(t.Context(), fence); !got || err != nil {
		t.Fatal(got, err)
	}
	if err := b.Delete(t.Context(), "digits-1/cluster_0/stage_0/x"); err != nil {
		t.Fatal(err)
	}
	put(t, b, "digits-1/cluster_0/stage_0/x", same) // the same name: training is a function of the job
	if err := within(t, commit(b, "digits/manifest.json", "second")); err != nil {
		t.Fatal(err)
	}
	over := a.Deposed()
	l, err := a.term()
	if err != nil {
		t.Fatal("it knows already: ", err)
	}
	for what, err := range map[string]error{
		"a removal": a.remove(t.Context(), l, "digits-1/cluster_0/stage_0/x"),
		"an object": a.upload(l, "digits/manifest.json", strings.NewReader("third"), 5),
		"lines":     a.append(l, &op{name: "events", data: []byte("no\n"), id: "1"}),
	} {
		if !errors.Is(err, ErrDeposed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	select {
	case <-over:
	case <-time.After(patience):
		t.Error("it does not know that it is deposed")
	}
	if err := within(t, commit(a, "digits/manifest.json", "fourth")); !errors.Is(err, ErrDeposed) {
		t.Errorf("a commit: %v", err)
	}
	c := open(t, url, options(t, "c"))
	if err := b.End(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Lead(t.Context()); !errors.Is(err, ErrOver) {
		t.Fatal(err)
	}
	if got := get(t, c.opt.Cache, "digits/manifest.json"); string(got) != "second" {
		t.Errorf("the manifest is %q", got)
	}
	if got := get(t, c.opt.Cache, "digits-1/cluster_0/stage_0/x"); !bytes.Equal(got, same) {
		t.Errorf("%d bytes of %d", len(got), len(same))
	}
	if got := lines(t, c, "events"); got != "" {
		t.Errorf("the log has %q", got)
	}
}

// TestAway: while NATS is away, commits wait, and nobody else leads when it comes back.
func TestAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := serve(t, func(o *server.Options) { o.StoreDir = dir })
	url := n.ClientURL()
	var told said
	oa := options(t, "a")
	oa.Say = told.say
	a, b := open(t, url, oa), open(t, url, options(t, "b"))
	mustLead(t, a)
	next := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { next <- b.Lead(ctx) }()
	defer func() {
		stop()
		<-next
	}()
	port := n.Addr().(*net.TCPAddr).Port
	n.Shutdown()
	n.WaitForShutdown()
	put(t, a, "digits-1/cluster_0/stage_0/x", noise(2*chunk))
	if err := a.Share("events", []byte("one\n")); err != nil {
		t.Fatal(err)
	}
	done := commit(a, "digits/manifest.json", "first")
	time.Sleep(2 * lease)
	select {
	case err := <-done:
		t.Fatalf("committed to nothing: %v", err)
	default:
	}
	serve(t, func(o *server.Options) { o.StoreDir, o.Port = dir, port })
	if err := within(t, done); err != nil {
		t.Fatal(err)
	}
	if _, own := a.Leader(); !own {
		t.Error("it does not lead any more")
	}
	if got := lines(t, a, "events"); got != "one" {
		t.Errorf("the log has %q", got)
	}
	eventually(t, "the user is told", func() bool {
		s := told.text()
		return strings.Contains(s, "does not answer: training goes on, checkpoints wait") && strings.Contains(s, "answers again")
	})
}

// TestFullNATS: NATS has no room for a large object. That is told once, and once more when it has.
func TestFullNATS(t *testing.T) {
	t.Parallel()
	n := serve(t, nil)
	told := &said{}
	o := options(t, "a")
	o.Say = told.say
	a := open(t, n.ClientURL(), o)
	mustLead(t, a)
	size := func(bytes int64) {
		t.Helper()
		info, err := a.parts.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		cfg := info.Config
		cfg.MaxBytes, cfg.Discard = bytes, js.DiscardNew
		if _, err := a.js.UpdateStream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	size(1 << 20)
	part := noise(3 << 20)
	put(t, a, "digits-1/part", part)
	done := commit(a, "digits/manifest.json", "of the part")
	eventually(t, "it is told", func() bool { return strings.Contains(told.text(), "does not take") })
	time.Sleep(time.Second) // several tries
	select {
	case err := <-done:
		t.Errorf("committed without its part: %v", err)
	default:
	}
	size(-1)
	if err := within(t, done); err != nil {
		t.Fatal(err)
	}
	if text := told.text(); strings.Count(text, "does not take") != 1 || strings.Count(text, "takes the job's state again") != 1 {
		t.Errorf("told:\n%s", text)
	}
	b := open(t, n.ClientURL(), options(t, "b"))
	if err := b.Mirror(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(get(t, b.opt.Cache, "digits-1/part"), part) {
		t.Error("another host has not the same part")
	}
}

// TestAsks: a host that NATS does not answer asks the others whether one of them leads.
func TestAsks(t *testing.T) {
	t.Parallel()
	n := serve(t, nil)
	o := options(t, "a")
	var asked sync.Map
	o.Ask = func(_ context.Context, url string) bool {
		asked.Store(url, true)
		return true
	}
	a, b := open(t, n.ClientURL(), o), open(t, n.ClientURL(), options(t, "b"))
	mustLead(t, a)
	eventually(t, "they know each other", func() bool { return len(a.Others()) == 1 })
	over := a.Deposed()
	n.Shutdown()
	select {
	case <-over:
	case <-time.After(patience):
		t.Fatal("it leads on")
	}
	if at, own := a.Leader(); own || at != "http://b" {
		t.Errorf("it says that %q leads", at)
	}
	_ = b
}

// TestOtherJob: hosts must have the same job, unless one begins anew while none leads.
func TestOtherJob(t *testing.T) {
	t.Parallel()
	url := serve(t, nil).ClientURL()
	a := open(t, url, options(t, "a"))
	mustLead(t, a)
	put(t, a, "digits-1/cluster_0/stage_0/x", noise(2*chunk))
	if err := a.Share("events", []byte("one\n")); err != nil {
		t.Fatal(err)
	}
	if err := within(t, commit(a, "digits/manifest.json", "first")); err != nil {
		t.Fatal(err)
	}
	was := a.Run()
	o := options(t, "b")
	o.Identity = map[string]string{"job.json": "1", "model": "3", "weights": "4"}
	if _, err := Open(t.Context(), url, o); !errors.Is(err, ErrOtherJob) || !strings.Contains(err.Error(), `the model, weights of "digits" differ`) {
		t.Errorf("another job: %v", err)
	}
	o.Fresh = true
	b := open(t, url, o)
	if err := b.Lead(t.Context()); err == nil || !strings.Contains(err.Error(), "http://a leads this job: stop it") {
		t.Errorf("beginning anew while another leads: %v", err)
	}
	a.nc.Close()
	mustLead(t, b)
	if got := lines(t, b, "events"); got != "" || b.Run() == was {
		t.Errorf("the log has %q, the run is %s as before", got, was)
	}
	if l, err := b.List(t.Context(), ""); err != nil || len(l) != 0 {
		t.Errorf("%q is left, %v", l, err)
	}
	info, err := b.parts.Info(t.Context(), js.WithSubjectFilter(">"))
	if err != nil || info.State.Msgs != 0 {
		t.Errorf("%d chunks are left, %v", info.State.Msgs, err)
	}
}

// TestSweep: what a host leaves behind that ends in the middle of an upload is removed.
func TestSweep(t *testing.T) {
	t.Parallel()
	url := serve(t, nil).ClientURL()
	a, b := open(t, url, options(t, "a")), open(t, url, options(t, "b"))
	mustLead(t, a)
	l, err := a.term()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.send(t.Context(), fmt.Sprintf("%d.half", l.fence), bytes.NewReader(noise(chunk)), chunk); err != nil {
		t.Fatal(err)
	}
	put(t, a, "digits-1/cluster_0/stage_0/x", noise(2*chunk))
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustLead(t, b)
	info, err := b.parts.Info(t.Context())
	if err != nil || info.State.Msgs != 2 {
		t.Errorf("%d chunks are there, want 2, %v", info.State.Msgs, err)
	}
}

// TestTornObject: an object whose chunks are not all there is not taken for one.
func TestTornObject(t *testing.T) {
	t.Parallel()
	url := serve(t, nil).ClientURL()
	a, b := open(t, url, options(t, "a")), open(t, url, options(t, "b"))
	mustLead(t, a)
	put(t, a, "digits-1/cluster_0/stage_0/x", noise(4*chunk))
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.parts.DeleteMsg(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	mustLead(t, b)
	if _, err := b.Get(t.Context(), "digits-1/cluster_0/stage_0/x"); err == nil || !strings.Contains(err.Error(), "are not the 1048576 that were put there") {
		t.Errorf("an object without its second chunk: %v", err)
	}
	if _, err := b.opt.Cache.Get(t.Context(), "digits-1/cluster_0/stage_0/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cache has it: %v", err)
	}
}

// TestSecrets: no message has the password of an address.
func TestSecrets(t *testing.T) {
	n := serve(t, func(o *server.Options) { o.Username, o.Password = "u", "right" })
	at := n.Addr().String()
	for _, url := range []string{"nats://u:s3cret@" + at, "u:s3cret@" + at, "nats://u:s3cret@127.0.0.1:1", "nats://u:s3cret@h:bad", "http://u:s3cret@h", "nats://u:s3cret@127.0.0.1:1,nats://v:s3cret@" + at} {
		var told said
		o := options(t, "a")
		o.Patience, o.Say = 300*time.Millisecond, told.say
		s, err := Open(t.Context(), url, o)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", url)
			continue
		}
		if text := err.Error() + told.text(); strings.Contains(text, "s3cret") {
			t.Errorf("%s: %s", url, text)
		}
	}
	s := open(t, "nats://u:right@"+at, options(t, "b"))
	if s.At() != "nats://"+at {
		t.Errorf("it says %q", s.At())
	}
}

// TestRefused: what keeps a host from NATS is told.
func TestRefused(t *testing.T) {
	bare := serve(t, func(o *server.Options) { o.JetStream = false })
	o := options(t, "a")
	if _, err := Open(t.Context(), bare.ClientURL(), o); err == nil || !strings.Contains(err.Error(), "no JetStream: start it with nats-server -js") {
		t.Errorf("a server without JetStream: %v", err)
	}
	o.Patience = 300 * time.Millisecond
	if _, err := Open(t.Context(), "nats://127.0.0.1:1", o); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "check the address") {
		t.Errorf("no server: %v", err)
	}
	for v, want := range map[string]bool{"2.11.9": false, "2.12.0": true, "2.15.3": true, "3.0.0-beta": true, "1.9": false, "": false} {
		if modern(v) != want {
			t.Errorf("version %q: %v", v, !want)
		}
	}
}

// three starts three NATS servers that are one cluster. Each must know the ports of all before it
// starts, and another program may take one of them in between: then others are tried.
func three(t *testing.T) (ns []*server.Server) {
	t.Helper()
	for range 5 {
		var lns []net.Listener
		var routes []string
		for range 3 {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			lns, routes = append(lns, ln), append(routes, "nats://"+ln.Addr().String())
		}
		for _, ln := range lns {
			_ = ln.Close()
		}
		ns = nil
		for i, ln := range lns {
			ns = append(ns, begin(t, func(o *server.Options) {
				o.ServerName = fmt.Sprint("n", i)
				o.Cluster = server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port}
				o.Routes = server.RoutesFromStr(strings.Join(routes, ","))
			}))
		}
		ready := true
		for _, n := range ns {
			ready = ready && n.ReadyForConnections(10*time.Second)
		}
		if ready {
			return ns
		}
		for _, n := range ns {
			n.Shutdown()
		}
	}
	t.Fatal("NATS does not start")
	return nil
}

// TestCluster: three NATS servers keep three copies, and one of them may be lost.
func TestCluster(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("three servers take a while to find each other")
	}
	ns := three(t)
	var urls []string
	for _, n := range ns {
		urls = append(urls, n.ClientURL())
	}
	eventually(t, "the servers have a leader", func() bool {
		return ns[0].JetStreamIsLeader() || ns[1].JetStreamIsLeader() || ns[2].JetStreamIsLeader()
	})
	oa, ob := options(t, "a"), options(t, "b")
	for _, o := range []*Options{&oa, &ob} {
		o.Replicas, o.Lease = 3, 5*time.Second
	}
	all := strings.Join(urls, ",")
	a, b := open(t, all, oa), open(t, all, ob)
	mustLead(t, a)
	big := noise(20 * chunk)
	for i := range 10 {
		put(t, a, fmt.Sprintf("digits-1/cluster_0/stage_%d/x", i%3), big)
		put(t, a, "digits/state.json", fmt.Append(nil, i))
		if err := a.Share("events", fmt.Appendf(nil, "%d\n", i)); err != nil {
			t.Fatal(err)
		}
		if i == 5 {
			ns[1].Shutdown()
		}
	}
	if err := within(t, commit(a, "digits/manifest.json", "parts")); err != nil {
		t.Fatal(err)
	}
	if err := a.Resign(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustLead(t, b)
	if got := get(t, b, "digits-1/cluster_0/stage_2/x"); !bytes.Equal(got, big) {
		t.Errorf("%d bytes of %d", len(got), len(big))
	}
	if got := lines(t, b, "events"); got != "0 1 2 3 4 5 6 7 8 9" {
		t.Errorf("the log has %q", got)
	}
}
