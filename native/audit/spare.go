package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/signaling/proto"
	machine "github.com/ravnest/ravnest/signaling/run"
)

// Stretch tells what it takes a provider to compute again what was trained between two checkpoints: the
// plans by which it was, but for the blobs that all plans name.
func Stretch(ctx context.Context, p *project.Project, in Objects, b Between) (x machine.Stretch, err error) {
	a := &auditor{p: p, in: in, last: b.To}
	begins := uint64(0)
	if b.From != nil {
		begins = b.From.Position.Step
	}
	if a.log, err = readAudit(ctx, in, p.RunID(), begins); err == nil {
		a.job, a.classes, err = a.trained(ctx)
	}
	if err != nil {
		return x, err
	}
	ss := a.log.stretches(begins, b.To)
	if len(ss) == 0 || ss[0].from != begins {
		return x, errors.New("the audit log does not tell who trained there")
	}
	for _, s := range ss {
		again, _, plan, err := provider.Replay(p.Graph, a.job, s.plans())
		if err != nil {
			return x, fmt.Errorf("the plan of attempt %s: %w", s.run, err)
		}
		if len(plan.Clusters) > 1 && a.job.Shards.On() {
			return x, errors.New("several clusters trained from shards, which one provider cannot read for all of them")
		}
		x.Memory = max(x.Memory, again.Memory())
		x.Stretches = append(x.Stretches, proto.Stretch{Until: int64(s.until), Plans: s.plans()})
		for _, y := range s.plan.Stages {
			switch {
			case a.job.Precision == "bf16" || y.Class == "":
			case x.Class != "" && x.Class != y.Class:
				return x, fmt.Errorf("providers of the numeric classes %s and %s trained there", x.Class, y.Class)
			default:
				x.Class = y.Class
			}
		}
	}
	return x, nil
}
