// Who does what in a job: several clusters train the replicas of one job and average over rings.
// A ring has one stage of every cluster and averages a segment, a run of nodes that no cluster
// cuts.

package stage

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ravnest/ravnest/engine/graph"
	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/average"
	"github.com/ravnest/ravnest/engine/pipeline/order"
)

// ErrPlacement is wrapped by errors about a placement that does not suit its job.
var ErrPlacement = errors.New("invalid placement")

// Placement says who does what in one attempt of a job. The zero value is one cluster with all
// replicas. The result of the job does not depend on it.
type Placement struct {
	Cluster  int       `json:"cluster"` // which of Clusters this is
	Clusters []Cluster `json:"clusters"`
}

// Cluster is a pipeline and its share of the work.
type Cluster struct {
	Starts   []int `json:"starts"`   // first node of each stage
	Replicas []int `json:"replicas"` // that it trains in the first round, ascending
	// Room is how many replicas it has the memory for, so that it may be given more in a later
	// round. 0: it trains the same ones in all rounds.
	Room int `json:"room,omitempty"`
}

// room is the most replicas that the cluster trains in a round.
func (c Cluster) room() int { return max(c.Room, len(c.Replicas)) }

// Peer is a stage of a cluster.
type Peer struct{ Cluster, Stage int }

func (p Peer) String() string { return fmt.Sprintf("stage %d of cluster %d", p.Stage, p.Cluster) }

// several reports whether there is more than one cluster.
func (p Placement) several() bool { return len(p.Clusters) > 1 }

// Check returns an error that wraps ErrPlacement unless every cluster cuts the whole model of job
// j, which has so many nodes (0: unknown), and every replica is in exactly one cluster.
func (p Placement) Check(j job.Spec, nodes int) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrPlacement}, a...)...)
	}
	if len(p.Clusters) == 0 && p.Cluster == 0 {
		return nil
	}
	r := j.Replica()
	switch {
	case p.Cluster < 0 || p.Cluster >= len(p.Clusters):
		return bad("cluster %d of %d", p.Cluster, len(p.Clusters))
	case len(p.Clusters) > r:
		return bad("%d clusters share %d replicas, and each needs one: set replicas to at least %d", len(p.Clusters), r, len(p.Clusters))
	}
	cuts, last, has := make([][]int, 0, len(p.Clusters)), 0, make([]bool, r)
	for c, cl := range p.Clusters {
		cuts = append(cuts, cl.Starts)
		for _, s := range cl.Starts {
			last = max(last, s)
		}
		if len(cl.Replicas) == 0 {
			return bad("cluster %d has no replica", c)
		}
		for i, k := range cl.Replicas {
			if k < 0 || k >= r || has[k] || i > 0 && k < cl.Replicas[i-1] {
				return bad("cluster %d has the replicas %v of %d; each replica must be in one cluster, in ascending order", c, cl.Replicas, r)
			}
			has[k] = true
		}
		if cl.Room != 0 && (cl.Room < len(cl.Replicas) || cl.Room > r) {
			return bad("cluster %d has %d of %d replicas and room for %d", c, len(cl.Replicas), r, cl.Room)
		}
		if cl.Room != 0 && !Moves(j) {
			return bad("cluster %d has room for %d replicas, but the job's stay where they are", c, cl.Room)
		}
	}
	if k := slices.Index(has, false); k >= 0 {
		return bad("replica %d is in no cluster", k)
	}
	if nodes == 0 {
		nodes = last + 1
	}
	if _, err := average.Segments(nodes, cuts); err != nil {
		return bad("%w", err)
	}
	return nil
}

// Moves reports whether the replicas of job j may be trained by another cluster in the next round.
// They may not where they keep an optimizer of their own, nor where an audit has to find again who
// sent what.
func Moves(j job.Spec) bool {
	return j.Replica() > 1 && !j.Audit && j.Averaging().Optimizer != job.KeepState
}

// moves reports whether replicas go from one cluster to another between two rounds.
func (p Placement) moves() bool {
	return p.several() && slices.ContainsFunc(p.Clusters, func(c Cluster) bool { return c.Room > 0 })
}

// Own returns the cluster's share of the replicas, in the first round.
func (p Placement) Own() order.Set {
	if !p.several() {
		return 0
	}
	return p.sets()[p.Cluster]
}

// sets are the clusters' shares of the replicas in the first round.
func (p Placement) sets() []order.Set {
	var all []order.Set
	for _, c := range p.Clusters {
		var s order.Set
		for _, k := range c.Replicas {
			s |= 1 << k
		}
		all = append(all, s)
	}
	return all
}

// run returns the job's order of work in this cluster.
func (p Placement) run(j job.Spec, train, val int) order.Run {
	r := j.Order(train, val)
	if r.Own, r.Unvalidated = p.Own(), p.several() && p.Cluster > 0; p.several() {
		r.Room = p.Clusters[p.Cluster].Room
	}
	return r
}

// segment is a run of nodes of one stage that no cluster cuts.
type segment struct {
	number   int // index among the segments of the model
	from, to int // nodes of the whole model
	holders  []int
}

// segments returns the segments of stage s in order, none if there is one cluster.
func (p Placement) segments(s *graph.Stage) ([]segment, error) {
	if !p.several() {
		return nil, nil
	}
	end, last := s.First+len(s.Graph.Nodes), 0
	cuts := make([][]int, 0, len(p.Clusters))
	for _, c := range p.Clusters {
		cuts = append(cuts, c.Starts)
		last = max(last, slices.Max(c.Starts))
	}
	own := p.Clusters[p.Cluster].Starts
	if len(own) != s.Of || own[s.Index] != s.First || s.Index+1 < len(own) && own[s.Index+1] != end {
		return nil, fmt.Errorf("%w: cluster %d is cut at %v, and stage %d of %d has the nodes from %d to %d", ErrPlacement, p.Cluster, own, s.Index, s.Of, s.First, end)
	}
	n := max(end, last+1)
	all, err := average.Segments(n, cuts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlacement, err)
	}
	var mine []segment
	for i, g := range all {
		if g.Holders[p.Cluster] == s.Index {
			mine = append(mine, segment{number: i, from: g.From, to: g.To, holders: g.Holders})
		}
	}
	return mine, nil
}

// next returns the stage that follows this cluster's in the ring of a segment.
func (p Placement) next(g segment) Peer {
	c := (p.Cluster + 1) % len(p.Clusters)
	return Peer{c, g.holders[c]}
}

// before returns the stage that precedes this cluster's in the ring of a segment.
func (p Placement) before(g segment) Peer {
	c := (p.Cluster + len(p.Clusters) - 1) % len(p.Clusters)
	return Peer{c, g.holders[c]}
}

// Keeper is the stage of the same cluster that a copy of a stage's state can be given to: the next
// one that it sends a tensor to, or else the nearest that it receives one from. It returns -1 if
// there is none.
func Keeper(s *graph.Stage) int {
	to, from := -1, -1
	for _, e := range s.Out {
		for _, k := range e.To {
			if to < 0 || k < to {
				to = k
			}
		}
	}
	for _, e := range s.In {
		from = max(from, e.From)
	}
	if to >= 0 {
		return to
	}
	return from
}
