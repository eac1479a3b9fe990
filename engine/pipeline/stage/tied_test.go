package stage_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/engine/zoo"
)

// tiedGPT is a decoder whose answer is a product with the embedding, as GPT-2's, and whose
// second layer is the first again, as ALBERT's.
func tiedGPT() *graph.Graph {
	g := zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 3, Heads: 2, Width: 8, Tokens: 7, Vocab: 5, Dropout: 0.2})
	for i := range g.Nodes {
		n := &g.Nodes[i]
		names := map[string]string{}
		for _, s := range n.Op.Params() {
			full := n.Full(s.Name)
			switch {
			case n.Name == "lm_head" && s.Name == "weight":
				full = "transformer.wte.weight"
			case strings.Contains(n.Name, ".h.1."):
				full = strings.Replace(full, ".h.1.", ".h.0.", 1)
			default:
				continue
			}
			names[s.Name] = full
		}
		if len(names) > 0 {
			n.Names = names
		}
	}
	if err := g.Check(); err != nil {
		panic(err)
	}
	return g
}

func tiedWorld(change func(*job.Spec)) *world {
	w := newWorld(func(j *job.Spec) {
		j.Loss, j.Epochs, j.BatchSize, j.MicroBatches = "cross_entropy", 2, 12, 2
		if change != nil {
			change(j)
		}
	})
	w.g = tiedGPT()
	w.tx, w.vx = integers(60, 7, 0, 5, 1), integers(9, 7, 0, 5, 3)
	w.ty, w.vy = labelled{integers(60, 7, 0, 5, 2)}, labelled{integers(9, 7, 0, 5, 4)}
	return w
}

// TestTiedWeights: parameters that several stages hold train to the bits of one process under
// every schedule that sums their gradients, with replicas and split batches.
func TestTiedWeights(t *testing.T) {
	if n := len(tiedGPT().Ties()); n < 10 {
		t.Fatalf("%d ties", n)
	}
	for _, c := range []struct {
		name   string
		change func(*job.Spec)
	}{
		{"sync", nil},
		{"zb", func(j *job.Spec) { j.Schedule, j.MicroBatches = job.ZB, 3 }},
		{"update frequency", func(j *job.Spec) { j.UpdateFrequency = 2 }},
		{"recompute", func(j *job.Spec) { j.Recompute = "full" }},
		{"replicas", func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.MicroBatches = 3, 2, 1 }},
		{"replicas in turns", func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.InFlight, j.UpdateFrequency = 4, 2, 3, 2 }},
		{"clipped replicas", func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.ClipNorm, j.Schedule = 3, 2, 0.1, job.ZB }},
		{"replicas of zb", func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.Schedule = 2, 1, job.ZB }},
		{"split batches", func(j *job.Spec) { j.Replicas, j.Average = 3, job.Average{Of: job.Gradients} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := tiedWorld(c.change)
			want, dict := w.local(t)
			for _, n := range []int{1, 2, 3, 5} {
				got, d, err := w.pipeline(t, w.starts(n), mem.Faults{}, nil)
				if err != nil {
					t.Fatal(err)
				}
				equal(t, fmt.Sprintf("%d stages", n), got, want, d, dict)
			}
		})
	}
}

// TestTiedResumes: a checkpoint of three stages goes on in two, and in one process.
func TestTiedResumes(t *testing.T) {
	w := tiedWorld(nil)
	want, dict := w.local(t)
	asked := 0
	stop := func() order.Mark {
		if asked++; asked == 4 {
			return order.Stop
		}
		return order.Continue
	}
	if _, _, err := w.pipeline(t, w.starts(3), mem.Faults{}, stop); err != nil {
		t.Fatal(err)
	}
	var parts []*snapshot.Part
	for _, l := range w.logs {
		parts = append(parts, l.saved[len(l.saved)-1].Part)
	}
	for _, n := range []int{1, 2} {
		got, d, err := w.resume(t, w.starts(n), mem.Faults{}, nil, parts)
		if err != nil {
			t.Fatal(err)
		}
		if got.losses[len(got.losses)-1] != want.losses[len(want.losses)-1] || !d.Equal(dict) {
			t.Errorf("%d stages go on to other weights", n)
		}
	}
}

// TestTiedAsync: a schedule whose updates overlap refuses a cut between the holders.
func TestTiedAsync(t *testing.T) {
	w := tiedWorld(func(j *job.Spec) { j.Schedule = job.Async })
	cut, err := w.g.Cut(w.starts(2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stage.Compile(w.job, cut[0], stage.Placement{}); !errors.Is(err, stage.ErrTied) || !strings.Contains(err.Error(), "use sync or zb") {
		t.Errorf("got %v", err)
	}
	if us := w.g.JoinTied(w.g.Units()); len(us) != 1 && us[0].To < len(w.g.Nodes)-1 {
		t.Errorf("joined units %+v", us)
	}
}

// held is a link that holds totals back until the other stage has told its part of so many updates,
// one message for each tied parameter.
type held struct {
	stage.Link
	parts chan struct{} // sent by the other stage
	left  *int
}

func (h held) Send(ctx context.Context, m wire.Header, payload []byte) error {
	for ; m.Kind == wire.Tied && *h.left > 0; *h.left-- {
		select {
		case <-h.parts:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(3 * time.Minute):
			return errors.New("the other stage waits for the totals")
		}
	}
	return h.Link.Send(ctx, m, payload)
}

// told is a link that tells when a tied gradient is sent.
type told struct {
	stage.Link
	parts chan struct{}
}

func (l told) Send(ctx context.Context, m wire.Header, payload []byte) error {
	if m.Kind == wire.Tied {
		l.parts <- struct{}{}
	}
	return l.Link.Send(ctx, m, payload)
}

// wideGPT is a decoder whose embedding, which is its answer's too, takes several messages.
func wideGPT() *world {
	w := tiedWorld(func(j *job.Spec) {
		j.Epochs, j.BatchSize, j.MicroBatches, j.ValEvery = 1, 2, 1, 0
		j.Replicas, j.ReduceFactor, j.Steps = 3, 2, 6
	})
	w.g = zoo.GPT(zoo.GPTConfig{Name: "gpt", Layers: 1, Heads: 2, Width: 256, Tokens: 7, Vocab: 5000})
	head := &w.g.Nodes[len(w.g.Nodes)-1]
	head.Names = map[string]string{"weight": "transformer.wte.weight"}
	if err := w.g.Check(); err != nil {
		panic(err)
	}
	return w
}

// TestTiedFlow: while the gradients of one replica's tied parameters are summed up, stages train the
// others. Here the first stage tells no total before it has the last one's part of as many replicas as
// there are stages. Parts and totals, of 5 MB each, go both ways at once, with tensors of passes between them.
func TestTiedFlow(t *testing.T) {
	w := wideGPT()
	want, dict := w.local(t)
	for _, starts := range [][]int{w.starts(2), w.starts(3)} {
		last, parts, left := len(starts)-1, make(chan struct{}, 1000), 2*len(starts) // each takes two messages
		w.wrap = func(a, b int, l stage.Link) stage.Link {
			switch {
			case a == 0 && b == last:
				return held{l, parts, &left}
			case a == last && b == 0:
				return told{l, parts}
			}
			return l
		}
		got, d, err := w.pipeline(t, starts, mem.Faults{Queue: 256 << 10}, nil)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, fmt.Sprintf("%d stages", len(starts)), got, want, d, dict)
	}
}

// TestTiedFlowEnds: a stage that is lost while sums are on their way ends the others' runs, with an
// error that names it.
func TestTiedFlowEnds(t *testing.T) {
	w := wideGPT()
	w.job.Steps, w.apart = 0, true
	_, _, err := w.pipeline(t, w.starts(2), mem.Faults{CutAt: 300}, nil)
	if !errors.Is(err, transport.ErrPeerGone) {
		t.Fatal(err)
	}
	for k, err := range w.errs {
		if !errors.Is(err, transport.ErrPeerGone) || !strings.Contains(err.Error(), fmt.Sprintf("stage %d", 1-k)) {
			t.Errorf("stage %d: %v", k, err)
		}
	}
}

// renumbered is a link that sends gradients of another tied parameter than it says.
type renumbered struct{ stage.Link }

func (l renumbered) Send(ctx context.Context, m wire.Header, payload []byte) error {
	if m.Kind == wire.Tied {
		m.Edge = 9999
	}
	return l.Link.Send(ctx, m, payload)
}

// TestTiedOfNobody: the gradient of a parameter that two stages do not share is refused at once, in
// whatever order it comes.
func TestTiedOfNobody(t *testing.T) {
	for _, replicas := range []job.Count{1, 3} {
		w := tiedWorld(func(j *job.Spec) { j.Replicas, j.ReduceFactor, j.MicroBatches = replicas, 2, 1 })
		w.wrap = func(a, _ int, l stage.Link) stage.Link {
			if a == 1 {
				return renumbered{l}
			}
			return l
		}
		_, _, err := w.pipeline(t, w.starts(2), mem.Faults{}, nil)
		if !errors.Is(err, stage.ErrProtocol) || !strings.Contains(err.Error(), "tied parameter 9999") {
			t.Errorf("%d replicas: %v", replicas, err)
		}
	}
}

// normed is a link that sends a norm before each message.
type normed struct{ stage.Link }

func (l normed) Send(ctx context.Context, m wire.Header, payload []byte) error {
	if err := l.Link.Send(ctx, wire.Header{Kind: wire.Norm, Seq: m.Seq}, make([]byte, 8)); err != nil {
		return err
	}
	return l.Link.Send(ctx, m, payload)
}

// TestNormOfNobody: a norm is refused where gradients are not clipped.
func TestNormOfNobody(t *testing.T) {
	w := tiedWorld(func(j *job.Spec) { j.Schedule = job.Sync })
	w.wrap = func(a, _ int, l stage.Link) stage.Link {
		if a == 0 {
			return normed{l}
		}
		return l
	}
	_, _, err := w.pipeline(t, w.starts(2), mem.Faults{}, nil)
	if !errors.Is(err, stage.ErrProtocol) || !strings.Contains(err.Error(), "norm of gradients") {
		t.Error(err)
	}
}
