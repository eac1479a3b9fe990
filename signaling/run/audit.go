package run

// What a later audit of the run needs, as lines of a log: who had which stage, what the
// stages committed themselves to, and what was saved.

import (
	"encoding/json"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/proto"
)

// AuditLine is a line of it. One of Plan, Said, Checkpoint and Back is set.
type AuditLine struct {
	Run        string             `json:"run"` // of the attempt
	Plan       *AuditPlan         `json:"plan,omitempty"`
	Said       *AuditSaid         `json:"said,omitempty"`
	Checkpoint *snapshot.Manifest `json:"checkpoint,omitempty"`
	// Back says that the run goes back to the checkpoint of a step, or the start: those behind it are
	// not what the job makes.
	Back *uint64 `json:"back,omitempty"`
}

// AuditPlan begins an attempt.
type AuditPlan struct {
	Generation int          `json:"generation"`
	Again      bool         `json:"again,omitempty"` // the line was in an earlier segment, too
	From       uint64       `json:"from"`            // step that it goes on from
	Stages     []AuditStage `json:"stages"`
	// Plan is that which stage 0 of cluster 0 was given, and Others those of the other clusters'
	// first stages. Both are opaque here.
	Plan   json.RawMessage   `json:"plan"`
	Others []json.RawMessage `json:"others,omitempty"`
}

// AuditStage is a stage and its provider.
type AuditStage struct {
	Cluster int              `json:"cluster"`
	Stage   int              `json:"stage"`
	Segment snapshot.Segment `json:"segment"`
	Name    string           `json:"name"`
	ID      string           `json:"id,omitempty"`    // the provider's public key; "": it has none
	Class   string           `json:"class,omitempty"` // numeric, of the provider
	Key     string           `json:"key,omitempty"`   // of its digests, in hex
}

// AuditSaid is what a stage has committed itself to, in the order of its updates.
type AuditSaid struct {
	Cluster int            `json:"cluster"`
	Stage   int            `json:"stage"`
	Digests []proto.Digest `json:"digests"`
}

func (m *Machine) auditPlan(stages []Placed) {
	p := &AuditPlan{Generation: m.Attempt}
	if m.state.Saved != nil {
		p.From = m.state.Saved.Position.Step
	}
	for i, s := range stages {
		switch {
		case i == 0:
			p.Plan = s.Plan
		case s.Stage == 0:
			p.Others = append(p.Others, s.Plan)
		}
		p.Stages = append(p.Stages, AuditStage{s.Cluster, s.Stage, s.Segment, s.Name, s.Hello.Key, s.Hello.Class, s.DigestKey})
	}
	m.beginLog(p)
}
