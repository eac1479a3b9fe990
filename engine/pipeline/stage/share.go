// Which cluster trains which replicas of the next round. At a round's end the roots tell each other,
// with the scales, what the round has taken their clusters; every root then finds the same shares, and
// tells the stages behind it with the mark before the round. So no message is added but a few
// numbers to those that are sent anyway.

package stage

import (
	"fmt"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// tick is what times are counted in. Whole numbers are the same on every machine.
const tick = time.Microsecond

// perPull is how many numbers a cluster tells of itself.
const perPull = 2

// A Sharer is an Observer that is told which replicas the cluster trains from a round on, where that
// has changed. The call is from Run's goroutine, before the round's first batch.
type Sharer interface{ Share(own order.Set) }

// shares is the clusters' shares of the replicas.
type shares struct {
	now, next []order.Set // by cluster; next: from the next round on
	began     time.Duration
	dealer    order.Dealer
}

// share makes all clusters' shares those of the next round. It is for between two rounds.
func (s *Stage) share(all []order.Set) {
	s.shares.now, s.shares.next = all, nil
	if len(all) < 2 {
		return
	}
	own := all[s.c.Placement.Cluster]
	s.run.Own = own
	var replicas []int
	for k := range s.run.Replicas {
		if own.Has(k) {
			replicas = append(replicas, k)
		}
	}
	s.reps.take(replicas)
	s.rings.sets = all
}

// open begins a round with the shares that were told with the mark before it.
func (s *Stage) open(obs Observer) {
	if x := &s.shares; x.next != nil {
		changed := x.next[s.c.Placement.Cluster] != x.now[s.c.Placement.Cluster]
		s.share(x.next)
		if changed {
			s.sched.Share(s.run.Own)
			if o, ok := obs.(Sharer); ok {
				o.Share(s.run.Own)
			}
		}
	}
	if s.cfg.Now != nil {
		s.shares.began = s.cfg.Now()
	}
}

// fill is how many units fill the cluster's pipeline: P stages pass m micro-batches in the time of
// P+m-1.
func (s *Stage) fill() int {
	m := s.run.UpdateFrequency * min(s.run.MicroBatches, s.run.BatchSize)
	return (s.c.Stage.Of + 2*m - 2) / m
}

// measure notes what the round that is over has taken, on a root.
func (s *Stage) measure() {
	x := &s.shares
	if !s.first || !s.c.Placement.moves() || s.cfg.Now == nil || s.run.Short(s.reps.at.Step) {
		s.rings.took = 0 // not known
		return
	}
	s.rings.fill, s.rings.took = s.fill(), min(max(int64((s.cfg.Now()-x.began)/tick), 1), order.MaxTook)
}

// deal finds the shares of the next round, on a root.
func (s *Stage) deal() {
	if !s.c.Placement.moves() {
		return
	}
	x := &s.shares
	x.next, x.dealer.Shares = x.now, x.now
	pulls := s.rings.pulls
	for c := range pulls {
		pulls[c].Most = s.c.Placement.Clusters[c].room()
	}
	if pulls != nil {
		x.next = x.dealer.Next(pulls)
	}
	b := make([]byte, s.run.Replicas)
	for c, own := range s.shares.next {
		for k := range b {
			if own.Has(k) {
				b[k] = byte(c)
			}
		}
	}
	s.wires.told = b
}

// takeShares takes the shares that came with a mark, which names the cluster of each replica.
func (s *Stage) takeShares() error {
	if !s.c.Placement.moves() {
		return nil
	}
	b := s.wires.told
	next := make([]order.Set, len(s.c.Placement.Clusters))
	for k, c := range b {
		if int(c) >= len(next) {
			return fmt.Errorf("%w: replica %d is given to cluster %d of %d", ErrRound, k, c, len(next))
		}
		next[c] |= 1 << k
	}
	for c, cl := range s.c.Placement.Clusters {
		if n := next[c].Len(); len(b) != s.run.Replicas || n < 1 || n > cl.room() {
			return fmt.Errorf("%w: of %d replicas cluster %d is given %d, want 1 to %d of %d", ErrRound, len(b), c, n, cl.room(), s.run.Replicas)
		}
	}
	s.shares.next = next
	return nil
}

// announcePulls puts what this cluster tells of itself behind the scales.
func (m *exchange) announcePulls(r *ring) {
	if m.c.Placement.moves() {
		at := r.agreed[r.pulls+perPull*m.c.Placement.Cluster:][:perPull]
		at[0], at[1] = float32(m.rings.fill), float32(m.rings.took)
	}
}

// collectPulls takes what all clusters have told of themselves.
func (m *exchange) collectPulls(r *ring) error {
	if !m.c.Placement.moves() {
		return nil
	}
	pulls := make([]order.Pull, m.n)
	for c := range pulls {
		at := r.agreed[r.pulls+perPull*c:][:perPull]
		fill, err := whole(at[0], 0, 1<<16)
		if err != nil {
			return err
		}
		took, err := whole(at[1], 0, order.MaxTook)
		if err != nil {
			return err
		}
		pulls[c] = order.Pull{Fill: int(fill), Took: took}
	}
	m.rings.pulls = pulls
	return nil
}
