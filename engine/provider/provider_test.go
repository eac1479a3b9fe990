package provider_test

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
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/data"
	"github.com/ravnest/ravnest/engine/format/safetensors"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/engine/state"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/zoo"
	"github.com/ravnest/ravnest/signaling/proto"
)

// exchange stands in for the network: it relays signals and pairs up dialers.
type exchange struct {
	mu    sync.Mutex
	pipes map[string]chan transport.Pipe
}

func (x *exchange) Here() json.RawMessage { return json.RawMessage(`"here"`) }

// Connect pairs the two sides by what the offering one sends through the host.
func (x *exchange) Connect(ctx context.Context, offer bool, _ json.RawMessage, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	if offer {
		a, b := mem.Pair(mem.Faults{Unread: 1 << 20}, mem.Faults{Unread: 1 << 20}) // as SCTP receives
		x.mu.Lock()
		key, err := json.Marshal(len(x.pipes))
		if err != nil {
			return nil, err
		}
		ch := make(chan transport.Pipe, 1)
		ch <- b
		x.pipes[string(key)] = ch
		x.mu.Unlock()
		return a, send(key)
	}
	select {
	case key := <-recv:
		x.mu.Lock()
		ch := x.pipes[string(key)]
		x.mu.Unlock()
		return <-ch, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// fakeHost is one provider's connection to a host that the test plays.
type fakeHost struct {
	in, out chan proto.Message
	gone    chan struct{} // closed when the host goes away
	blobs   map[string][]byte
	once    sync.Once
	mu      sync.Mutex
	refuse  func(state []byte) bool // there is no room for it yet
	refused [][]byte
	saved   [][]byte
	fetched map[string]int
}

func (h *fakeHost) Send(ctx context.Context, m proto.Message) error {
	if _, err := proto.Encode(m); err != nil {
		return err
	}
	select {
	case h.out <- m:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *fakeHost) Recv(ctx context.Context) (proto.Message, error) {
	select {
	case m := <-h.in: // messages sent before the end come first
		return m, nil
	default:
	}
	select {
	case m := <-h.in:
		return m, nil
	case <-h.gone:
		return nil, errGone
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

var errGone = errors.New("the host is gone")

func (h *fakeHost) Close(string) { h.end() }

// end hangs up.
func (h *fakeHost) end() { h.once.Do(func() { close(h.gone) }) }

func (h *fakeHost) Blob(_ context.Context, r proto.Ref, _ func(int64)) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fetched == nil {
		h.fetched = map[string]int{}
	}
	h.fetched[r.SHA256]++
	if b, ok := h.blobs[r.SHA256]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (h *fakeHost) BlobTo(ctx context.Context, r proto.Ref, w io.Writer, have func(int64)) error {
	b, err := h.Blob(ctx, r, have)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

func (h *fakeHost) Upload(_ context.Context, _ string, _ int, b []byte) (proto.Ref, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil && h.refuse(b) {
		h.refused = append(h.refused, b)
		return proto.Ref{}, &proto.Error{Code: proto.Storage, Message: "no space left on device"}
	}
	h.saved = append(h.saved, b)
	return proto.Ref{SHA256: strings.Repeat("0", 64), Size: int64(len(b))}, nil
}

// world is a run of the walkthrough over two providers.
type world struct {
	hosts   []*fakeHost
	mu      sync.Mutex // guards assigns while providers play
	assigns []*proto.Assign
	crash   bool // the host ends without saying goodbye
	x       *exchange
}

func newWorld(t *testing.T, change func(*job.Spec)) *world {
	t.Helper()
	j := job.Default()
	j.Epochs, j.Steps, j.Schedule = 1, 5, job.Async
	if change != nil {
		change(&j)
	}
	g, err := zoo.CNN().JSON()
	if err != nil {
		t.Fatal(err)
	}
	set, err := data.Digits()
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{"graph": g}
	refs := map[string]proto.Ref{}
	for kind, tab := range map[string]*data.Table{provider.TrainX: set.Train.X(), provider.TrainY: set.Train.Y(), provider.ValX: set.Val.X(), provider.ValY: set.Val.Y()} {
		b, err := tab.Encode()
		if err != nil {
			t.Fatal(err)
		}
		blobs[kind], refs[kind] = b, proto.Ref{SHA256: kind, Size: int64(len(b))}
	}
	w := &world{x: &exchange{pipes: map[string]chan transport.Pipe{}}}
	for k := range 2 {
		w.hosts = append(w.hosts, &fakeHost{in: make(chan proto.Message, 64), out: make(chan proto.Message, 4096), gone: make(chan struct{}), blobs: blobs})
		plan, err := json.Marshal(provider.Plan{Clusters: []stage.Cluster{{Starts: []int{0, 12}, Replicas: []int{0}}}, Train: set.Train.Len(), Val: set.Val.Len()})
		if err != nil {
			t.Fatal(err)
		}
		w.assigns = append(w.assigns, &proto.Assign{
			Run: "r", Stage: k, Stages: 2, Name: "n", Job: j.JSON(), Graph: proto.Ref{SHA256: "graph"}, Data: refs, Plan: plan,
			Peers: []proto.Peer{{Stage: 1 - k, ID: []string{"p1", "p0"}[k], Name: "other", Class: "fma"}},
		})
	}
	return w
}

// of is what provider k has been assigned.
func (w *world) of(k int) *proto.Assign {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.assigns[k]
}

// play runs both providers and passes every message that they send to on. The host says
// goodbye when both are done or one has failed.
func (w *world) play(t *testing.T, cfg func(k int, c *provider.Config), on func(k int, m proto.Message)) []error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	errs := make([]error, 2)
	var wg, relay sync.WaitGroup
	ready, done := 0, 0
	over := func() {
		for _, h := range w.hosts {
			h.end()
		}
	}
	var mu sync.Mutex
	began := time.Now()
	for k, h := range w.hosts {
		h.in <- w.assigns[k]
		wg.Go(func() {
			c := provider.Config{
				Join:  func(context.Context) (provider.Host, provider.Dialer, error) { return h, w.x, nil },
				Judge: func(err error) (bool, bool) { return errors.Is(err, errGone) && !w.crash, false },
				Rules: machine.Rules{Once: true, Connect: time.Minute},
				Now:   func() time.Duration { return time.Since(began) },
			}
			if cfg != nil {
				cfg(k, &c)
			}
			errs[k] = provider.Serve(ctx, c)
			close(h.out)
		})
		relay.Go(func() {
			for m := range h.out {
				end := false
				switch m := m.(type) {
				case *proto.Signal:
					if ps := w.of(1 - k).Peers; len(ps) > 0 {
						w.hosts[1-k].in <- &proto.Signal{Run: m.Run, From: ps[0].ID, Body: m.Body}
					}
				case *proto.Ready:
					mu.Lock()
					if ready++; ready == 2 {
						for _, o := range w.hosts {
							o.in <- &proto.Start{Run: "r"}
						}
					}
					mu.Unlock()
				case *proto.Done:
					mu.Lock()
					done++
					end = done == 2
					mu.Unlock()
				case *proto.Failed:
					end = k == 0 && m.Run == w.of(k).Run // the provider that the tests disturb
				}
				if on != nil {
					on(k, m)
				}
				if end {
					over()
				}
			}
		})
	}
	wg.Wait()
	relay.Wait()
	return errs
}

// TestRun has two providers train five batches: the leaf must report each loss once, and
// both must save and report that they are done.
func TestRun(t *testing.T) {
	w := newWorld(t, nil)
	var mu sync.Mutex
	var losses, vals, done int
	var peak [2]int64
	errs := w.play(t, nil, func(k int, m proto.Message) {
		mu.Lock()
		defer mu.Unlock()
		switch m := m.(type) {
		case *proto.Progress:
			for _, l := range m.Losses {
				if l.Step != int64(losses) {
					t.Errorf("loss of step %d after %d losses", l.Step, losses)
				}
				losses++
			}
			vals += len(m.Vals)
		case *proto.Ready:
			peak[k] = m.Peak
		case *proto.Done:
			done++
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if losses != 5 || vals != 1 || done != 2 || peak[0] == 0 || peak[1] == 0 {
		t.Errorf("%d losses, %d validations, %d done, peaks %v", losses, vals, done, peak)
	}
	names := 0
	for _, h := range w.hosts {
		if len(h.saved) != 1 {
			t.Fatalf("%d uploads", len(h.saved))
		}
		p, err := snapshot.Parse(h.saved[0])
		if err != nil {
			t.Fatal(err)
		}
		names += len(p.State)
	}
	if names != 23 {
		t.Errorf("the stages saved %d entries, the model has 23", names)
	}
}

// TestThreadsOfThePlan: a provider computes with the threads that the plan says, never with more than it
// lends, and the states are those of all threads, bit for bit.
func TestThreadsOfThePlan(t *testing.T) {
	train := func(threads []int) (states [][]byte, said []string, errs []error) {
		w := newWorld(t, nil)
		for _, a := range w.assigns {
			var p provider.Plan
			if err := json.Unmarshal(a.Plan, &p); err != nil {
				t.Fatal(err)
			}
			p.Threads = threads
			var err error
			if a.Plan, err = json.Marshal(p); err != nil {
				t.Fatal(err)
			}
		}
		said = make([]string, 2)
		errs = w.play(t, func(k int, c *provider.Config) {
			c.Team = kernel.NewTeam(3)
			t.Cleanup(c.Team.Close)
			c.Event = func(format string, a ...any) {
				if s := fmt.Sprintf(format, a...); strings.HasPrefix(s, "computing on") {
					said[k] = s
				}
			}
		}, nil)
		for _, h := range w.hosts {
			states = append(states, h.saved...)
		}
		return states, said, errs
	}
	all, said, errs := train(nil)
	if err := errors.Join(errs...); err != nil || said[0]+said[1] != "" || len(all) != 2 {
		t.Fatalf("all threads: %v, %q, %d states", err, said, len(all))
	}
	fewer, said, errs := train([]int{2, 9})
	if err := errors.Join(errs...); err != nil || !strings.HasPrefix(said[0], "computing on 2 of 3") || said[1] != "" {
		t.Errorf("two threads and nine: %v, %q", err, said)
	}
	if !slices.EqualFunc(all, fewer, bytes.Equal) {
		t.Error("the number of threads has changed a bit")
	}
	if _, _, errs := train([]int{-1, 1}); errs[0] == nil || !strings.Contains(errs[0].Error(), "threads") {
		t.Errorf("-1 threads: %v", errs)
	}
}

// TestWeightsOfAStage: providers begin with a model's weights, of which they take those of their stage
// into memory: the file may be larger than what they lend.
func TestWeightsOfAStage(t *testing.T) {
	var mu sync.Mutex
	var begins []float64 // the first loss of each run
	note := func(_ int, m proto.Message) {
		mu.Lock()
		defer mu.Unlock()
		if p, ok := m.(*proto.Progress); ok && len(p.Losses) > 0 && p.Losses[0].Step == 0 {
			begins = append(begins, float64(p.Losses[0].Loss))
		}
	}
	first := newWorld(t, nil)
	if err := errors.Join(first.play(t, nil, note)...); err != nil {
		t.Fatal(err)
	}
	var model state.Dict
	for _, h := range first.hosts {
		p, err := snapshot.Parse(h.saved[0])
		if err != nil {
			t.Fatal(err)
		}
		model = append(model, p.State...)
	}
	const lent = 16 << 20
	model = append(model, state.Tensor{Name: "of.another.stage", Shape: []int{lent / 4}, F32: make([]float32, lent/4)})
	var file bytes.Buffer
	if err := safetensors.Write(&file, model, nil); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, nil)
	for k, h := range w.hosts {
		h.blobs["weights"] = file.Bytes()
		w.assigns[k].Weights = map[string]proto.Ref{provider.Weights: {SHA256: "weights", Size: int64(file.Len())}}
	}
	if err := errors.Join(w.play(t, func(_ int, c *provider.Config) { c.RAM = lent }, note)...); err != nil {
		t.Fatal(err)
	}
	if len(begins) != 2 || begins[1] >= begins[0] {
		t.Errorf("the runs begin with the losses %v: the second does not go on from the weights", begins)
	}
}

// TestDataIsKept: providers that get their stages again after a loss fetch no data twice, and one that
// gets another stage fetches what that needs.
func TestDataIsKept(t *testing.T) {
	for _, swapped := range []bool{false, true} {
		w := newWorld(t, func(j *job.Spec) { j.Steps, j.Epochs = 0, 10_000 })
		short := newWorld(t, nil)
		next := make([]*proto.Assign, 2)
		for k := range next {
			next[k] = short.assigns[k]
			if swapped {
				next[k] = short.assigns[1-k]
				next[k].Peers[0].ID = w.assigns[k].Peers[0].ID
			}
			next[k].Run = "r2"
		}
		var mu sync.Mutex
		ready := 0
		errs := w.play(t, nil, func(_ int, m proto.Message) {
			mu.Lock()
			defer mu.Unlock()
			if _, ok := m.(*proto.Ready); !ok {
				return
			}
			if ready++; ready == 2 {
				w.mu.Lock()
				w.assigns = next
				w.mu.Unlock()
			}
			for k, h := range w.hosts {
				switch ready {
				case 2:
					h.in <- &proto.Stop{Run: "r", Reason: "somebody left", Mode: proto.Now}
					h.in <- next[k]
				case 4:
					h.in <- &proto.Start{Run: "r2"}
				}
			}
		})
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for k, h := range w.hosts {
			want := map[string]int{"graph": 2}
			for at, kinds := range [][]string{{provider.TrainX, provider.ValX}, {provider.TrainY, provider.ValY}} {
				for _, kind := range kinds {
					if at == k || swapped {
						want[kind] = 1
					}
				}
			}
			if !maps.Equal(h.fetched, want) {
				t.Errorf("stages swapped: %v: provider %d has fetched %v, want %v", swapped, k, h.fetched, want)
			}
		}
	}
}

// TestLinesAreKept: two providers that have a link in the next attempt, too, connect once, in whichever
// stages they are, and the next attempt computes what it would over a connection of its own.
func TestLinesAreKept(t *testing.T) {
	alone := newWorld(t, nil)
	if err := errors.Join(alone.play(t, nil, nil)...); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(k, attempt int, a *proto.Assign)
		want   int
	}{
		"kept":           {func(int, int, *proto.Assign) {}, 1},
		"another peer":   {func(_, n int, a *proto.Assign) { a.Peers[0].ID += []string{"", "", "x", "x"}[n] }, 2},
		"one has it":     {func(k, n int, a *proto.Assign) { a.Peers[0].ID += []string{"", "x"}[min(k*n, 1)] }, 2},
		"no generations": {func(_, _ int, a *proto.Assign) { a.Generation = 0 }, 4},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(j *job.Spec) { j.Steps, j.Epochs = 0, 10_000 })
			var attempts [][]*proto.Assign
			for n := range 4 {
				as := newWorld(t, func(j *job.Spec) {
					if n < 3 {
						j.Steps, j.Epochs = 0, 10_000
					}
				}).assigns
				if n == 1 {
					as[0], as[1] = as[1], as[0]
				}
				for k, a := range as {
					a.Run, a.Generation = fmt.Sprint("r", n), n+1
					a.Peers[0].ID = w.assigns[k].Peers[0].ID
					tc.change(k, n, a)
				}
				attempts = append(attempts, as)
			}
			w.assigns = attempts[0]
			var mu sync.Mutex
			n, ready := 0, 0
			errs := w.play(t, nil, func(_ int, m proto.Message) {
				mu.Lock()
				defer mu.Unlock()
				switch m := m.(type) {
				case *proto.Ready:
					if ready++; ready == 2 {
						for _, h := range w.hosts {
							h.in <- &proto.Start{Run: fmt.Sprint("r", n)}
						}
					}
				case *proto.Progress: // in the middle of training
					if n == 3 || m.Run != fmt.Sprint("r", n) || m.Samples == 0 {
						return
					}
					n, ready = n+1, 0
					w.mu.Lock()
					w.assigns = attempts[n]
					w.mu.Unlock()
					for k, h := range w.hosts {
						h.in <- &proto.Stop{Run: fmt.Sprint("r", n-1), Reason: "somebody left", Mode: proto.Now}
						h.in <- attempts[n][k]
					}
				}
			})
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
			if len(w.x.pipes) != tc.want {
				t.Errorf("%d connections, want %d", len(w.x.pipes), tc.want)
			}
			for k, h := range w.hosts {
				if len(h.saved) != 1 || !bytes.Equal(h.saved[0], alone.hosts[k].saved[0]) {
					t.Errorf("provider %d has saved %d states; the last should be that of a run of its own", k, len(h.saved))
				}
			}
		})
	}
}

// TestGracefulStop checks that batches in flight are finished and saved.
func TestGracefulStop(t *testing.T) {
	w := newWorld(t, func(j *job.Spec) { j.Epochs, j.Steps = 10000, 0 })
	var once sync.Once
	errs := w.play(t, nil, func(_ int, m proto.Message) {
		if _, ok := m.(*proto.Progress); ok {
			once.Do(func() {
				for _, h := range w.hosts {
					h.in <- &proto.Stop{Run: "r", Mode: proto.Graceful, Reason: "enough"}
				}
			})
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if len(w.hosts[0].saved) == 0 || len(w.hosts[1].saved) == 0 {
		t.Error("nothing was saved")
	}
}

// TestHostWithoutRoom: the host has no room for what is saved at first. Training goes on, a state is
// forgotten when there is a newer one, and the last one is offered until it is taken.
func TestHostWithoutRoom(t *testing.T) {
	const steps = 1000
	w := newWorld(t, func(j *job.Spec) { j.Schedule, j.Epochs, j.Steps = job.Sync, 1000, steps })
	step := func(b []byte) int {
		part, err := snapshot.Parse(b)
		if err != nil {
			t.Error(err)
			return -1
		}
		return int(part.Position.Step)
	}
	for _, h := range w.hosts { // until each has offered its last state once
		h.refuse = func([]byte) bool { return len(h.refused) == 0 || step(h.refused[len(h.refused)-1]) != steps }
	}
	var mu sync.Mutex
	var saved []int64
	asked := false
	errs := w.play(t, nil, func(k int, m proto.Message) {
		mu.Lock()
		defer mu.Unlock()
		switch m := m.(type) {
		case *proto.Progress:
			if !asked && len(m.Losses) > 0 {
				asked = true
				w.hosts[0].in <- &proto.Checkpoint{Run: "r"}
			}
		case *proto.Saved:
			saved = append(saved, m.Step)
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(saved, []int64{steps, steps}) {
		t.Errorf("saved at steps %v, want the last one twice", saved)
	}
	for k, h := range w.hosts {
		n := len(h.refused)
		if n < 2 || step(h.refused[0]) == steps || len(h.saved) != 1 || !bytes.Equal(h.refused[n-1], h.saved[0]) {
			t.Errorf("stage %d: %d states refused, the first of step %d; %d taken", k, n, step(h.refused[0]), len(h.saved))
		}
	}
}

// TestEnds checks that every way of ending has its error, and that the host is told of those
// that it cannot know.
func TestEnds(t *testing.T) {
	long := func(j *job.Spec) { j.Epochs, j.Steps = 10000, 0 }
	t.Run("stopped now", func(t *testing.T) {
		w := newWorld(t, long)
		var once sync.Once
		var stopping atomic.Int32
		errs := w.play(t, func(_ int, c *provider.Config) {
			c.Event = func(format string, a ...any) {
				// The host is gone once both know, else one may hear of the other's end first.
				if strings.HasPrefix(fmt.Sprintf(format, a...), "stopping") && stopping.Add(1) == 2 {
					for _, h := range w.hosts {
						h.end()
					}
				}
			}
		}, func(_ int, m proto.Message) {
			if _, ok := m.(*proto.Progress); ok {
				once.Do(func() {
					for _, h := range w.hosts {
						h.in <- &proto.Stop{Run: "r", Mode: proto.Now, Reason: "a provider left"}
					}
				})
			}
		})
		for _, err := range errs {
			if !errors.Is(err, provider.ErrStopped) {
				t.Errorf("got %v, want ErrStopped", err)
			}
		}
	})
	t.Run("host gone", func(t *testing.T) {
		w := newWorld(t, long)
		w.crash = true
		var once sync.Once
		errs := w.play(t, nil, func(_ int, m proto.Message) {
			if _, ok := m.(*proto.Progress); ok {
				once.Do(func() {
					for _, h := range w.hosts {
						h.end()
					}
				})
			}
		})
		for _, err := range errs {
			if !errors.Is(err, errGone) {
				t.Errorf("got %v, want that the host is gone", err)
			}
		}
	})
	for name, c := range map[string]struct {
		spoil func(w *world)
		cfg   func(k int, c *provider.Config)
		want  string
	}{
		"memory": {nil, func(_ int, c *provider.Config) { c.RAM = 1000 }, "0.0 MB are offered"},
		"plan": {func(w *world) {
			w.assigns[0].Plan = json.RawMessage(`{"clusters":[{"starts":[0],"replicas":[0]}],"train":1}`)
		}, nil, "plan has 1 stages"},
		"rows": {func(w *world) {
			w.assigns[0].Plan = json.RawMessage(`{"clusters":[{"starts":[0,12],"replicas":[0]}],"train":9,"val":3}`)
		}, nil, "the plan says"},
		"one row": {func(w *world) {
			w.assigns[0].Plan = json.RawMessage(`{"clusters":[{"starts":[0,12],"replicas":[0]}],"train":65,"val":3}`)
		}, nil, "batch norm needs 2"},
		"job": {func(w *world) { w.assigns[0].Job = json.RawMessage(`{}`) }, nil, "invalid job"},
		"cut": {func(w *world) {
			w.assigns[0].Plan = json.RawMessage(`{"clusters":[{"starts":[0,99],"replicas":[0]}],"train":1078,"val":719}`)
		}, nil, "invalid placement"},
		"no data":     {func(w *world) { w.assigns[0].Data = nil }, nil, "no train_x"},
		"nobody else": {func(w *world) { w.assigns[0].Peers = nil }, nil, "no provider for stage 1"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			if c.spoil != nil {
				c.spoil(w)
			}
			failed := ""
			var mu sync.Mutex
			errs := w.play(t, func(k int, cfg *provider.Config) {
				if c.cfg != nil {
					c.cfg(k, cfg)
				}
			}, func(k int, m proto.Message) {
				if f, ok := m.(*proto.Failed); ok && k == 0 {
					mu.Lock()
					failed = f.Error
					mu.Unlock()
				}
			})
			if errs[0] == nil || !strings.Contains(errs[0].Error(), c.want) || !strings.Contains(failed, c.want) {
				t.Errorf("got %v and told the host %q, want %q", errs[0], failed, c.want)
			}
		})
	}
}

// TestHeld: stages hold their states when the root is told to, copy them to each other, and bring
// what the host asks for; own state and copy are the same bytes.
func TestHeld(t *testing.T) {
	w := newWorld(t, func(j *job.Spec) { j.Schedule, j.Epochs, j.Steps = job.Sync, 10000, 0 })
	for _, a := range w.assigns {
		var p provider.Plan
		if err := json.Unmarshal(a.Plan, &p); err != nil {
			t.Fatal(err)
		}
		p.Hold, p.Copies = true, []provider.Copy{{Of: 0, By: 1, Bytes: 10 << 20}, {Of: 1, By: 0, Bytes: 10 << 20}}
		a.Plan, _ = json.Marshal(p)
	}
	type said struct {
		proto.Held
		by int
	}
	var mu sync.Mutex
	var all []said
	asked := false
	losses := map[int64]bool{}
	held, uploads := map[string]bool{}, 0
	for _, h := range w.hosts { // the run ends when all states were brought
		h.refuse = func(b []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			if !held[proto.RefOf(b, nil).SHA256] {
				return false
			}
			if uploads++; uploads == 4 {
				for _, o := range w.hosts {
					o.in <- &proto.Stop{Run: "r", Mode: proto.Graceful, Reason: "enough"}
				}
			}
			return false
		}
	}
	errs := w.play(t, nil, func(k int, m proto.Message) {
		mu.Lock()
		defer mu.Unlock()
		switch m := m.(type) {
		case *proto.Progress:
			for _, l := range m.Losses {
				losses[l.Step] = true
			}
			if !asked && len(m.Losses) > 0 {
				asked = true
				w.hosts[0].in <- &proto.Checkpoint{Run: "r", Hold: true}
			}
		case *proto.Held:
			all = append(all, said{*m, k})
			held[m.Blob.SHA256] = true
			if k == 1 && m.Stage == 1 {
				for s := range m.Step {
					if !losses[s] {
						t.Errorf("a state of step %d is held before the loss of step %d was reported", m.Step, s)
					}
				}
			}
			if len(all) == 4 {
				for _, h := range all {
					w.hosts[h.by].in <- &proto.Bring{Run: "r", Stage: h.Stage, Blob: h.Blob}
				}
			}
		}
	})
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if len(all) != 4 {
		t.Fatalf("%d states are held, want two and their copies: %+v", len(all), all)
	}
	sums := map[string]int{}
	for _, h := range all {
		sums[fmt.Sprint(h.Stage, h.Step, h.Blob)]++
		if own := h.by == h.Stage; own != (h.Position != nil) {
			t.Errorf("stage %d says of the state of stage %d that its position is %s", h.by, h.Stage, h.Position)
		}
	}
	if len(sums) != 2 {
		t.Errorf("copies differ from what they are copies of: %v", sums)
	}
	brought := map[string]int{}
	for _, h := range w.hosts {
		for _, b := range h.saved {
			sum := sha256.Sum256(b)
			brought[hex.EncodeToString(sum[:])]++
			if p, err := snapshot.Parse(b); err != nil || p.Position.Step == 0 {
				t.Errorf("brought: %v", err)
			}
		}
	}
	for _, h := range all {
		if brought[h.Blob.SHA256] != 2 {
			t.Errorf("the state of stage %d was brought %d times", h.Stage, brought[h.Blob.SHA256])
		}
	}
}
