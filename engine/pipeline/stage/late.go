// Updates that are put off. Where several replicas take turns, what completes the gradients of one
// (sums of tied parameters, and the norm by which gradients are clipped) is on its way while the
// others train. A stage adds its part as soon as its gradients are there, and makes the update right
// before its replica's next forward pass, which alone waits for the totals.
//
// Sums of tied parameters may be large, and go both ways at once. A stage that waited until its
// neighbour takes them could wait for ever, since the neighbour may be sending too. So they are sent
// by a goroutine for each link, straight from the vector of gradients, and whoever receives has
// room for those of all updates that can be under way. Few can: a stage takes totals in before it
// runs further ahead than the first stage's pipeline is deep, whether it needs them yet or not.

package stage

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/ravnest/ravnest/engine/codec"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/wire"
)

// late reports whether stages of the cluster put updates off. Digests of updates are closed at the
// same places in all of them, so that of what one sends with one update the next receives nothing
// with an earlier one.
func (c *Compiled) late() bool {
	return c.Job.Replica() > 1 && !c.Job.Gradients() && (c.clips() || c.Stage.Parted && c.under() > 1)
}

// putsOff reports whether this stage does.
func (c *Compiled) putsOff() bool { return c.late() && c.clips() || c.flows() }

// flows reports whether others train while sums of tied parameters are on their way. Otherwise the
// stages that hold them meet at each update.
func (c *Compiled) flows() bool {
	ps := c.tiedPeers()
	return len(ps) > 0 && c.under() > 1 && !slices.ContainsFunc(ps, func(p int) bool { return c.flowing(p) > wire.MaxWindow })
}

// under is how many updates can be under way at once.
func (c *Compiled) under() int {
	if c.Job.Gradients() {
		return 1
	}
	n := c.Job.Replica()
	if c.Placement.several() {
		n = c.Placement.Clusters[c.Placement.Cluster].room()
	}
	return min(n, c.slots)
}

// tiedPeers returns the stages with which this one sums up tied parameters.
func (c *Compiled) tiedPeers() []int {
	var ps []int
	for _, t := range c.ties {
		ps = append(ps, t.before, t.after)
	}
	slices.Sort(ps)
	return slices.DeleteFunc(slices.Compact(ps), func(p int) bool { return p < 0 })
}

// flowing is the window of a stage with which sums of tied parameters flow: room for all messages of
// passes, for norms, and for the sums and totals of all updates that can be under way, beside the
// quarter that may be used up and not granted again yet.
func (c *Compiled) flowing(peer int) int {
	_, ahead := c.passing(peer)
	n := (c.Stage.Of+1)*ahead + 2*(wire.MessageHeader+normBytes+wire.MessageCost)
	for _, t := range c.ties {
		if t.before != peer && t.after != peer {
			continue
		}
		for k := range t.pieces() {
			from, to := t.piece(k)
			n += c.under() * (wire.MessageHeader + codec.MaxSize(codec.FP32, to-from) + wire.MessageCost)
		}
	}
	return n * 4 / 3
}

// lateUpdate is an update whose replica has not gone on yet.
type lateUpdate struct {
	item   order.Item
	number int     // in the round, from 1
	whole  bool    // the totals of its tied parameters are here
	made   bool    // it is, and only its digest comes later
	sum    float64 // of the squares of this stage and the later ones
}

// putOff tells the stages before what this one and the later ones have of an update's gradients, and
// leaves the update for later.
func (s *Stage) putOff(ctx context.Context, it order.Item) error {
	s.updates++
	u := lateUpdate{item: it, number: s.updates}
	if !s.c.putsOff() {
		if err := s.reps.Gather(ctx, it); err != nil {
			return err
		}
		s.update(it)
		u.whole, u.made = true, true
		s.late = append(s.late, u)
		return nil
	}
	grads := s.reps.Grads(it.Replica)
	var err error
	if s.wires.couriers == nil {
		u.whole = true
		err = s.reps.tied(ctx, it.Seq, grads)
	} else if err = s.wires.sums(ctx, it.Seq, grads); err == nil {
		err = s.wires.totals(ctx, it.Seq, grads, (*tie).begins)
	}
	if err != nil {
		return err
	}
	if s.c.clips() {
		u.sum, err = s.wires.normSum(ctx, s.c.Stage.Of, it.Seq, func(after float64) float64 {
			defer s.busy.working()()
			return s.reps.squares(grads, after)
		})
		if err != nil {
			return err
		}
	}
	s.late = append(s.late, u)
	return nil
}

// overwrite makes sure that the gradients of an update before may be overwritten by those of item it.
func (s *Stage) overwrite(it order.Item) {
	if it.First {
		s.wires.taken(s.reps.Grads(it.Replica))
	}
}

// complete takes in the totals of an update's tied parameters.
func (s *Stage) complete(ctx context.Context, u *lateUpdate) error {
	if u.whole {
		return nil
	}
	u.whole = true
	grads := s.reps.Grads(u.item.Replica)
	s.wires.taken(grads)
	return s.wires.totals(ctx, u.item.Seq, grads, (*tie).goesOn)
}

// catchUp makes the updates that were put off and that an action depends on: that of a replica that
// goes on, or all, in their order, before anything but passes.
func (s *Stage) catchUp(ctx context.Context, a order.Action, obs Observer) error {
	due := func(lateUpdate) bool { return true }
	switch a.Kind {
	case order.Backward, order.BackwardInput, order.BackwardWeight, order.Update:
		return nil
	case order.Forward:
		// Before this pass the first stage had fewer micro-batches in flight than it has slots, so it
		// has told the totals of all other updates.
		for i := range s.late {
			if u := &s.late[i]; u.number+s.c.slots <= s.closed+1 {
				if err := s.complete(ctx, u); err != nil {
					return err
				}
			}
		}
		due = func(u lateUpdate) bool { return u.item.Replica == a.Item.Replica }
	default:
	}
	for i := 0; i < len(s.late); {
		u := s.late[i]
		if !due(u) {
			i++
			continue
		}
		s.late = slices.Delete(s.late, i, i+1)
		if err := s.makeUp(ctx, u, obs); err != nil {
			return err
		}
	}
	if a.Kind == order.Average {
		s.closed, s.updates = 0, 0
	}
	return nil
}

// makeUp makes an update that was put off.
func (s *Stage) makeUp(ctx context.Context, u lateUpdate, obs Observer) error {
	if !u.made {
		if err := s.complete(ctx, &u); err != nil {
			return err
		}
		if err := s.clipLate(ctx, u); err != nil {
			return err
		}
		s.update(u.item)
	}
	s.wires.tally.settle(u.item.Seq)
	s.commit(u.item.Step, false, obs)
	return nil
}

// clipLate clips the gradients of an update that was put off.
func (s *Stage) clipLate(ctx context.Context, u lateUpdate) error {
	if !s.c.clips() {
		return nil
	}
	sum, err := s.wires.normTotal(ctx, s.c.Stage.Of, u.item.Seq, u.sum)
	if err != nil {
		return err
	}
	grads := s.reps.Grads(u.item.Replica)
	s.wires.taken(grads)
	return s.reps.clip(grads, sum)
}

// parcel is what a courier has to send: the gradient of a tied parameter.
type parcel struct {
	t    *tie
	seq  uint64
	x    []float32
	read *sync.WaitGroup // done when x is not needed any more
}

// courier sends sums of tied parameters to one stage, in order.
type courier struct {
	to   int
	link Link
	out  chan parcel
	enc  *codec.Encoder
	buf  []byte
}

// couriers are those of a run in which sums of tied parameters flow.
type couriers struct {
	to   map[int]*courier
	read map[*float32]*sync.WaitGroup // by the first element of a vector of gradients
	wg   sync.WaitGroup
}

// hire starts a courier for each stage that a tied parameter is shared with. An error of sending
// ends ctx.
func (w *wiring) hire(ctx context.Context, c *Compiled, cancel context.CancelCauseFunc) {
	cs := &couriers{to: map[int]*courier{}, read: map[*float32]*sync.WaitGroup{}}
	for _, p := range c.tiedPeers() {
		// Of each replica there is one update at a time, so that nobody waits for room in out.
		o := &courier{to: p, link: w.links[p], out: make(chan parcel, 2*len(c.ties)*c.Job.Replica()), enc: codec.NewEncoder(codec.FP32)}
		o.enc.Plain(isNear(o.link))
		cs.to[p] = o
		cs.wg.Go(func() {
			for x := range o.out {
				if err := o.send(ctx, x); err != nil {
					cancel(err)
				}
				x.read.Done()
			}
		})
	}
	w.couriers = cs
}

// dismiss waits until everything has been sent, or the run's context is over.
func (w *wiring) dismiss() {
	for _, o := range w.couriers.to {
		close(o.out)
	}
	w.couriers.wg.Wait()
	w.couriers = nil
}

// give has a courier send x, a part of a vector of gradients.
func (cs *couriers) give(to int, t *tie, seq uint64, x, grads []float32) {
	n := cs.read[&grads[0]]
	if n == nil {
		n = &sync.WaitGroup{}
		cs.read[&grads[0]] = n
	}
	n.Add(1)
	cs.to[to].out <- parcel{t, seq, x, n}
}

// taken waits until couriers have sent what they are to send of a vector of gradients, which may
// then change.
func (w *wiring) taken(grads []float32) {
	if w.couriers == nil {
		return
	}
	if n := w.couriers.read[&grads[0]]; n != nil {
		n.Wait()
	}
}

func (o *courier) send(ctx context.Context, x parcel) error {
	for k := range x.t.pieces() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		from, end := x.t.piece(k)
		var err error
		if o.buf, err = o.enc.Encode(o.buf[:0], x.x[from:end]); err != nil {
			return err
		}
		if err := o.link.Send(ctx, x.t.header(k, x.seq), o.buf); err != nil {
			return fmt.Errorf("sending to stage %d: %w", o.to, err)
		}
	}
	return nil
}
