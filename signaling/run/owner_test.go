package run

import (
	"fmt"
	"testing"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// TestLotsOfOwners: who lends ten spares is asked as often as who lends one.
func TestLotsOfOwners(t *testing.T) {
	r := newRig(t, func(s *Settings) { s.MaxMembers = 16 })
	r.step(Submit{Job: Job{ID: "j", Want: 12, AuditSecret: "s"}})
	for i := range 11 {
		r.join(fmt.Sprintf("p%d", i), "")
		r.l.Members[fmt.Sprintf("p%d", i)].Hello.Key = fmt.Sprint(min(i, 1))
	}
	asked := map[string]int{}
	for seq := range 400 {
		r.l.Audit = &auditing{Seq: seq, Check: &checking{}}
		asked[r.l.checker(r.now).ID]++
	}
	if n := asked["p0"]; n < 150 || n > 250 || len(asked) != 11 {
		t.Errorf("400 times were asked %v", asked)
	}
}

// TestLiarInAPlan: a spare that is found to lie while a plan is being made that has it does not end the run;
// and if it has trained meanwhile, what came of that is given up.
func TestLiarInAPlan(t *testing.T) {
	r := newRig(t, nil)
	j := *job()
	j.Replan, j.Audit, j.AuditEvery, j.AuditSpares = true, true, 1, true
	r.step(Submit{Job: j})
	for i := range 3 {
		r.join(fmt.Sprintf("p%d", i), "")
	}
	r.phase(Planning)
	p, _ := find[AskPlan](r)
	who := r.l.Members["p2"].who()
	r.l.Audit = &auditing{Seq: 1, Check: &checking{Denied: &who}}
	r.step(Audited{Seq: 1})
	r.phase(Gathering)
	r.step(Plan{Seq: p.Seq, Placed: inOrder(p.Pool)})
	if f, ok := find[Finish](r); ok {
		t.Fatalf("the run has ended: %v", f.Err)
	}
	r.join("p3", "")
	r.start("j-1", "p0", "p1", "p3")

	// An attempt is over, and its last checkpoint is being stored.
	r.step(Leave{ID: "p0", Reason: "gone"})
	r.phase(Gathering)
	who = r.l.Members["p3"].who()
	r.l.Pending = []*pending{{Manifest: &snapshot.Manifest{}}}
	r.l.Audit = &auditing{Seq: 2, Check: &checking{Denied: &who}}
	r.step(Audited{Seq: 2})
	if len(r.l.Pending) != 1 || !r.l.Pending[0].Void {
		t.Error("a checkpoint of the liar's will count")
	}
	if _, ok := r.last("p3").(*proto.Error); !ok {
		t.Errorf("the liar was told %+v", r.last("p3"))
	}
}
