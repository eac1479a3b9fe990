// States that are held in memory in case a stage is lost: the own one as of the last times that
// the host asked for it, and copies of other stages' states.

package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Copy says that a stage of a cluster keeps a copy of another one's state. They have a link.
type Copy struct {
	Of    int   `json:"of"`
	By    int   `json:"by"`
	Bytes int64 `json:"bytes"` // the most that the state takes
}

const (
	// versions is how many states of one stage are held: while the newest is not everywhere yet,
	// the one before it is what the run would go on from.
	versions = 2
	// copyPiece is the size of the pieces in which a state is copied, one frame each. A piece
	// waits until one of the copyAhead before it has arrived, so that training does not queue
	// behind a copy.
	copyPiece = wire.MaxFrame - wire.FrameHeader - wire.MessageHeader
	copyAhead = 2
	// copyEvery is how often the host is told of copies at most. It counts a provider's messages, and
	// this one must not pay for what another sends.
	copyEvery = 100 * time.Millisecond
)

// held is a state of a stage, as a file.
type held struct {
	run   string
	stage int
	step  int64
	ref   proto.Ref
	file  []byte
	read  bool // somebody reads the file, so its memory is not written to again
}

// stash holds states. It outlives attempts.
type stash struct {
	mu       sync.Mutex
	all      []*held    // oldest first
	bringing sync.Mutex // the host takes one upload at a time
}

// buffer returns memory for another state of a stage. If there are enough already, the oldest is
// forgotten and its memory returned, unless somebody reads it.
func (s *stash) buffer(run string, stage int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, oldest := 0, -1
	for i, h := range s.all {
		if h.run == run && h.stage == stage {
			if n++; oldest < 0 {
				oldest = i
			}
		}
	}
	if n < versions {
		return nil
	}
	h := s.all[oldest]
	s.all = slices.Delete(s.all, oldest, oldest+1)
	if h.read {
		return nil
	}
	return h.file[:0]
}

func (s *stash) add(h *held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, h)
}

// find returns the file with a digest, or nil. It stays as it is from then on, even when it is
// forgotten: a state may be on its way to the host while its stage holds newer ones.
func (s *stash) find(sha256 string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range s.all {
		if h.ref.SHA256 == sha256 {
			h.read = true
			return h.file
		}
	}
	return nil
}

func (s *stash) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = nil
}

// bring uploads a state that the host asks for.
func (d *driver) bring(a machine.Bring) {
	host, b := d.host, d.stash.find(a.Blob.SHA256)
	if host == nil || b == nil {
		d.cfg.Event("the host asks for a state of stage %d that is not held here any more", a.Stage)
		return
	}
	d.wg.Go(func() {
		d.stash.bringing.Lock()
		defer d.stash.bringing.Unlock()
		if _, err := d.upload(d.ctx, d.ctx, host, a.Run, a.Stage, b); err != nil && d.ctx.Err() == nil {
			d.cfg.Event("bringing the state of stage %d: %v", a.Stage, err)
		}
	})
}

// holding is an attempt's part in holding states.
type holding struct {
	to     int    // stage that keeps the copy of the own state; -1: none
	copies []Copy // kept here
	wg     sync.WaitGroup
	cancel context.CancelFunc // of the copy under way
	acks   chan uint32        // numbers of pieces that have arrived at to
}

// Holding is the memory that a stage of a cluster takes for states, beside what the stage itself
// promises to stay within. save is the most that its own state takes.
func (p *Plan) Holding(own int, save int64) int64 {
	if !p.Hold {
		return 0
	}
	need := (versions - 1) * save // the stage counts one
	for _, c := range p.Copies {
		if c.By == own {
			need += versions * c.Bytes
		}
		if c.Of == own || c.By == own {
			need += copyWindow
		}
	}
	return need
}

// plan takes what the assignment's plan says about holding, for a stage of so many.
func (h *holding) plan(p *Plan, own, stages int) error {
	h.to, h.acks = -1, make(chan uint32, copyAhead)
	if !p.Hold {
		return nil
	}
	for _, c := range p.Copies {
		if c.Of < 0 || c.Of >= stages || c.By < 0 || c.By >= stages || c.Of == c.By || c.Bytes < 0 || c.Bytes > math.MaxUint32 {
			return fmt.Errorf("the assignment's plan has stage %d of %d keep %d bytes of stage %d", c.By, stages, c.Bytes, c.Of)
		}
		if c.Of == own {
			h.to = c.By
		}
		if c.By == own {
			h.copies = append(h.copies, c)
		}
	}
	return nil
}

// copyWindow is the window of the pieces of a state, or of their receipts.
const copyWindow = (copyAhead + 1) * (wire.MessageHeader + copyPiece + wire.MessageCost)

// options are those of the link to a peer: with the generation, and with room for the states that
// are copied over it.
func (r *attempt) options(opt transport.Options, p proto.Peer) transport.Options {
	opt.Generation = uint32(r.a.Generation)
	at := slices.IndexFunc(r.hold.copies, func(c Copy) bool { return c.Of == p.Stage })
	if p.Cluster != r.a.Cluster || at < 0 && r.hold.to != p.Stage {
		return opt
	}
	opt.MaxTransfer = max(opt.MaxTransfer, wire.MessageHeader+copyPiece)
	opt.Credit += copyWindow
	var in *incoming
	if at >= 0 {
		in = &incoming{r: r, of: r.hold.copies[at], receipts: make(chan wire.Header, copyAhead+1), every: copyEvery}
	}
	opt.Aside = func(h wire.Header, piece []byte) {
		switch {
		case len(piece) > 0 && in != nil:
			in.take(h, piece)
		case len(piece) == 0 && r.hold.to == p.Stage:
			select {
			case r.hold.acks <- h.Rows:
			default: // more than were asked for
			}
		}
	}
	if in != nil {
		r.d.wg.Go(func() { in.acknowledge(p) })
	}
	return opt
}

// incoming puts a copy of another stage's state together. A piece that is not the next one ends
// the copy; the next begins with a first piece.
type incoming struct {
	r        *attempt
	of       Copy
	file     []byte
	step     uint64
	total    int
	next     uint32 // number of the next piece; 0: none is under way
	receipts chan wire.Header
	every    time.Duration // at least, between two copies that the host is told of
	telling  atomic.Bool   // the last one is, or was less than that ago
}

func (in *incoming) take(h wire.Header, piece []byte) {
	if h.Rows == 0 {
		in.next = 0
		if int64(h.Elems) > in.of.Bytes || h.Seq > math.MaxInt64 {
			return
		}
		if in.total, in.step = int(h.Elems), h.Seq; cap(in.file) < in.total {
			if in.file = in.r.d.stash.buffer(in.r.a.Run, in.of.Of); cap(in.file) < in.total {
				in.file = make([]byte, 0, in.total)
			}
		}
		in.file = in.file[:0]
	}
	if h.Rows != in.next || h.Seq != in.step || int(h.Elems) != in.total || len(in.file)+len(piece) > in.total {
		in.next = 0
		return
	}
	in.file = append(in.file, piece...)
	in.next++
	select {
	case in.receipts <- wire.Header{Kind: wire.Copy, Rows: h.Rows, Seq: h.Seq}:
	default: // the other side sends more than it may
	}
	if len(in.file) < in.total {
		return
	}
	file, step := in.file, int64(in.step)
	in.file, in.next = nil, 0
	if in.telling.Swap(true) {
		return // the other side copies more often than any host asks for
	}
	in.r.d.wg.Go(func() {
		defer in.telling.Store(false)
		ref := proto.RefOf(file, in.r.cfg.Between)
		in.r.d.stash.add(&held{run: in.r.a.Run, stage: in.of.Of, step: step, ref: ref, file: file})
		if in.r.host.Send(in.r.ctx, &proto.Held{Run: in.r.a.Run, Stage: in.of.Of, Step: step, Blob: ref}) != nil {
			return
		}
		select {
		case <-time.After(in.every):
		case <-in.r.ctx.Done():
		}
	})
}

// acknowledge sends receipts until the attempt is over.
func (in *incoming) acknowledge(p proto.Peer) {
	r := in.r
	for {
		select {
		case h := <-in.receipts:
			r.linked.Lock()
			l := r.links[stage.Peer{Cluster: p.Cluster, Stage: p.Stage}]
			r.linked.Unlock()
			if l == nil || l.Send(r.ctx, h, nil) != nil {
				return
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// keep holds the own state in memory and has it copied while training goes on.
func (h *holding) keep(r *attempt, s stage.Saved) error {
	h.stop()
	b := bytes.NewBuffer(r.d.stash.buffer(r.a.Run, r.a.Stage))
	if err := r.cfg.write(b, s.Part); err != nil {
		return err
	}
	at, err := json.Marshal(s.Part.Position)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.ctx)
	h.cancel = cancel
	h.wg.Go(func() {
		file := b.Bytes()
		ref := proto.RefOf(file, r.cfg.Between)
		r.d.stash.add(&held{run: r.a.Run, stage: r.a.Stage, step: int64(s.Step), ref: ref, file: file})
		// The host must know all losses up to a state before the state itself.
		if r.flush(r.ctx) != nil {
			return
		}
		if r.host.Send(r.ctx, &proto.Held{Run: r.a.Run, Stage: r.a.Stage, Step: int64(s.Step), Blob: ref, Position: at}) == nil {
			h.copy(ctx, r, s.Step, file)
		}
	})
	return nil
}

// copy sends a state to the stage that keeps its copy.
func (h *holding) copy(ctx context.Context, r *attempt, step uint64, file []byte) {
	l := r.links[stage.Peer{Cluster: r.a.Cluster, Stage: h.to}]
	if h.to < 0 || l == nil {
		return
	}
	for len(h.acks) > 0 {
		<-h.acks // of a copy that was given up
	}
	away := 0
	for i := 0; i*copyPiece < len(file); i++ {
		for ; away == copyAhead; away-- {
			select {
			case <-h.acks:
			case <-ctx.Done():
				return
			}
		}
		piece := file[i*copyPiece : min((i+1)*copyPiece, len(file))]
		if l.Send(ctx, wire.Header{Kind: wire.Copy, Rows: uint32(i), Seq: step, Elems: uint32(len(file))}, piece) != nil {
			return
		}
		away++
	}
}

// stop gives up the copy under way, if any.
func (h *holding) stop() {
	if h.cancel != nil {
		h.cancel()
	}
	h.wg.Wait()
}
