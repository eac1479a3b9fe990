// What an audit has computed against what the providers saved and said.

package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/ravnest/ravnest/engine/pipeline/audit"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/state"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// comparison is of one stretch.
type comparison struct {
	*auditor
	stretch
	ctx      context.Context
	said     testimony
	left     map[stage.Peer]stage.Digest // what stages said last of what they did not come to the end of
	run      order.Run
	first    int                   // cluster that is the replay's first: another than 0 only where there is no log
	names    map[stage.Peer]string // of providers
	who      map[stage.Peer]machine.Who
	trail    *audit.Trail
	against  []*snapshot.Manifest
	kept     map[stage.Peer]*snapshot.Part
	compared map[uint64]bool
	bad      uint64 // step of the first checkpoint that differs
	differs  map[stage.Peer]string
	of       *int // cluster that counts; nil: all do
}

// at is a stage of a cluster as the replay numbers it.
func (k *comparison) at(cluster, of int) stage.Peer {
	return stage.Peer{Cluster: cluster - k.first, Stage: of}
}

func (k *comparison) commit(p stage.Peer, d stage.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if said, ok := k.said[p][moment{d.Step, d.Round}]; ok {
		k.res.Updates++
		k.trail.Record(p, &said, d)
		return
	}
	k.trail.Record(p, nil, d)
}

func (k *comparison) opened(p stage.Peer, d stage.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.trail.Open(p, k.left[p], d)
}

// keep compares a stage's state with what was saved at the same place, and keeps it for the
// next stretch.
func (k *comparison) keep(p stage.Peer, x stage.Saved) error {
	b, err := x.Part.Bytes()
	if err != nil {
		return err
	}
	part, err := snapshot.Parse(bytes.Clone(b))
	if err != nil {
		return err
	}
	digest := sha256.Sum256(b)
	sum := hex.EncodeToString(digest[:])
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept[p] = part
	for _, c := range k.against {
		if c.Position != part.Position {
			continue
		}
		k.compared[c.Position.Step] = true
		for _, e := range c.Parts {
			if k.at(e.Cluster, e.Stage) != p || e.SHA256 == sum || k.differs != nil && c.Position.Step > k.bad {
				continue
			}
			if k.differs == nil || c.Position.Step < k.bad {
				k.differs, k.bad = map[stage.Peer]string{}, c.Position.Step
			}
			k.differs[p] = "its saved state is not what the job makes" + k.which(c, e, part)
		}
	}
	return nil
}

// which names the first tensor of a saved state that is wrong, if the store still has it.
func (k *comparison) which(c *snapshot.Manifest, e snapshot.Entry, want *snapshot.Part) string {
	got, err := k.part(k.ctx, c, e)
	if err != nil {
		return ""
	}
	differ := func(got, want state.Dict, prefix string) string {
		for _, x := range want {
			if y, ok := got.Get(x.Name); !ok || !y.Equal(x) {
				return fmt.Sprintf(": first in %s%s", prefix, x.Name)
			}
		}
		return ""
	}
	if s := differ(got.State, want.State, ""); s != "" {
		return s
	}
	for i, slot := range want.Optimizer.Slots {
		if i < len(got.Optimizer.Slots) {
			if s := differ(got.Optimizer.Slots[i].Tensors, slot.Tensors, "the optimizer's "+slot.Name+" of "); s != "" {
				return s
			}
		}
	}
	return ""
}

// verdict says what is wrong, and whose doing it is.
func (k *comparison) verdict() error {
	for p, what := range k.differs {
		k.trail.Saved(p, k.bad, what)
		of := ""
		if len(k.plan.Others) > 0 {
			of = fmt.Sprintf(" of cluster %d", p.Cluster)
		}
		k.res.Differs = append(k.res.Differs, fmt.Sprintf("step %d: stage %d%s, saved by %s", k.bad, p.Stage, of, k.names[p]))
	}
	slices.Sort(k.res.Differs)
	if k.trail.Clean() {
		return nil
	}
	var said []string
	faults := k.trail.Faults()
	if k.of != nil {
		if faults = slices.DeleteFunc(faults, func(f audit.Fault) bool { return f.Of.Cluster != *k.of && (!f.Either || f.Or.Cluster != *k.of) }); len(faults) == 0 {
			return nil
		}
	}
	for _, f := range faults {
		y := k.blamed(f)
		k.res.Faults = append(k.res.Faults, y)
		said = append(said, y.String())
	}
	if len(said) == 0 {
		return fmt.Errorf("%w: %s; too little is on record to say whose doing it is: set \"audit\": true in job.json", ErrDiffers, strings.Join(k.res.Differs, ", "))
	}
	return fmt.Errorf("%w: %s", ErrDiffers, strings.Join(said, "; "))
}

// blamed names who is to blame.
func (k *comparison) blamed(f audit.Fault) Fault {
	y := Fault{Step: f.Step, Cluster: k.first + f.Of.Cluster, Stage: f.Of.Stage, Provider: k.names[f.Of], What: f.What, Who: k.who[f.Of]}
	if f.Either {
		or := k.who[f.Or]
		y.Or, y.Other = or.Name, &or
	}
	if k.run.Replicas < 2 {
		return y
	}
	last := f.Step // of the batches that it is about
	if f.Saved {
		last = max(last, 1) - 1
	}
	round := k.run.Round(last)
	if y.Round = &round; !f.Saved && !f.Round && !k.run.Splits() {
		replica := k.run.Replica(last)
		y.Replica = &replica
	}
	return y
}
