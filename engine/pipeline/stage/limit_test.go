package stage_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
)

// TestTooLargeForAMessage: a tensor between two stages that no message holds is refused
// before anything runs, with what would help.
func TestTooLargeForAMessage(t *testing.T) {
	for _, c := range []struct {
		side, batch, micro int
		want               string // "": it fits
	}{
		{256, 64, 1, "set micro_batches to at least 5"},
		{256, 64, 4, "set micro_batches to at least 5"},
		{256, 64, 5, ""},
		{1200, 2, 2, "cut the model elsewhere"},
	} {
		w := newWorld(nil)
		w.job.BatchSize, w.job.MicroBatches = c.batch, c.micro
		conv := &graph.Conv2d{In: 1, Out: 64, Kernel: graph.Pair{1, 1}}
		g := &graph.Graph{Name: "large", Inputs: []graph.Input{{Name: "x", Shape: graph.Shape{1, c.side, c.side}}}, Output: "y", Nodes: []graph.Node{
			{Name: "c", Op: conv, Inputs: []string{"x"}},
			{Name: "d", Op: &graph.Conv2d{In: 64, Out: 1, Kernel: graph.Pair{1, 1}}, Inputs: []string{"c"}},
			{Name: "f", Op: &graph.Flatten{}, Inputs: []string{"d"}},
			{Name: "y", Op: &graph.Linear{In: c.side * c.side, Out: 10}, Inputs: []string{"f"}},
		}}
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		cut, err := g.Cut([]int{0, 1})
		if err != nil {
			t.Fatal(err)
		}
		for k, s := range cut {
			_, err := stage.Compile(w.job, s, stage.Placement{})
			if c.want == "" && err != nil {
				t.Errorf("stage %d, %d micro-batches: %v", k, c.micro, err)
			}
			if c.want != "" && (!errors.Is(err, stage.ErrMessage) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `"c"`)) {
				t.Errorf("stage %d, %d micro-batches: %v, want %q", k, c.micro, err, c.want)
			}
		}
	}
}

// TestHostileSizes: a neighbour that sends a message of 200 MB where the plan has some
// kilobytes is cut off at its first chunk. (That a window's worth of messages takes no more
// than wire.Bytes is a test of wire.)
func TestHostileSizes(t *testing.T) {
	w := newWorld(nil)
	cut, err := w.g.Cut(w.starts(2))
	if err != nil {
		t.Fatal(err)
	}
	c, err := stage.Compile(w.job, cut[1], stage.Placement{})
	if err != nil {
		t.Fatal(err)
	}
	opt, promised := c.Link(0), c.Memory().In
	if opt.MaxTransfer > 1<<20 || promised > 4<<20 || opt.MaxTransfer >= 200<<20 {
		t.Fatalf("link %+v, %d bytes promised", opt, promised)
	}
	before := heap()
	evil, mine := mem.Pair(mem.Faults{}, mem.Faults{})
	l := transport.NewLink(mine, opt)
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	hello := wire.Frame{Type: wire.Hello, Total: wire.FirstWindow, Index: wire.MaxTransfer}
	if err := evil.Send(ctx, hello.Append(nil)); err != nil {
		t.Fatal(err)
	}
	const large = 200 << 20
	h := wire.Header{Kind: wire.Activation, Rows: 64, Elems: large / 4, Bytes: large}
	head := h.Append(nil)
	payload := make([]byte, wire.MaxFrame)
	announced := wire.Frame{
		Type: wire.Data, Number: 1, ID: 1, Count: uint32(wire.Chunks(large + wire.MessageHeader)), Total: large + wire.MessageHeader,
		Body: append(head, payload[:wire.MaxFrame-wire.FrameHeader-len(head)]...),
	}
	if err := evil.Send(ctx, announced.Append(nil)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.Done():
	case <-ctx.Done():
		t.Fatal("the link lives on")
	}
	if err := l.Err(); !errors.Is(err, wire.ErrProtocol) || !strings.Contains(err.Error(), "the limit is") {
		t.Errorf("the link ends with %v", err)
	}
	if got := heap() - before; got > promised {
		t.Errorf("%d bytes more in use, %d promised", got, promised)
	}
}
