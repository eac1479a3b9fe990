package run

// The run as dashboards see it.

import (
	"math"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Status is the run as dashboards see it and /v1/status returns it.
type Status struct {
	Protocol  int            `json:"protocol"`
	Phase     string         `json:"phase"` // idle, gathering, planning, connecting, running, draining
	Run       string         `json:"run,omitempty"`
	Job       string         `json:"job,omitempty"`
	Want      int            `json:"want"`
	Stopping  bool           `json:"stopping"`
	RunningMS int64          `json:"running_ms"`
	Members   []MemberStatus `json:"members"`
	// Where replicas train: their number, the round that is trained, counted from 1, what each
	// cluster does, and the samples a second that are expected of all; 0: not known.
	Replicas int `json:"replicas,omitempty"`
	// Record says how many replicas there are from which step on, where the host chooses.
	Record   []order.Period  `json:"record,omitempty"`
	Round    int64           `json:"round,omitempty"`
	Clusters []ClusterStatus `json:"clusters,omitempty"`
	Forecast float64         `json:"forecast_samples_per_s,omitempty"`

	Loss       *proto.Loss `json:"loss,omitempty"` // the last one
	Val        *proto.Val  `json:"val,omitempty"`  // the last one
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	Waiting    string      `json:"waiting,omitempty"` // why the run waits, while gathering
	Unsaved    string      `json:"unsaved,omitempty"` // why nothing can be saved, as on a full disk
}

// ClusterStatus is a cluster in a Status.
type ClusterStatus struct {
	Cluster  int     `json:"cluster"`
	Replicas int     `json:"replicas"` // that it trains
	Step     int64   `json:"step"`     // that it stands at, counting the batches of all clusters
	Forecast float64 `json:"forecast_samples_per_s"`
}

// MemberStatus is a provider in a Status.
type MemberStatus struct {
	Name     string      `json:"name"`
	Agent    string      `json:"agent"`
	Platform string      `json:"platform"`
	Class    string      `json:"class"`
	RAM      int64       `json:"ram_bytes"`
	Threads  int         `json:"threads"`
	Bench    proto.Bench `json:"bench"`
	RTT      int64       `json:"rtt_us"`
	Assigned bool        `json:"assigned"`
	Cluster  int         `json:"cluster"`
	Stage    int         `json:"stage"`
	Stages   int         `json:"stages"`
	State    string      `json:"state"` // idle, connecting, ready, training, done
	Peak     int64       `json:"peak_bytes"`
	Step     int64       `json:"step"`
	Samples  int64       `json:"samples"`
	Out      int64       `json:"wire_out"`
	In       int64       `json:"wire_in"`
	Raw      int64       `json:"raw_out"`
	Busy     float64     `json:"busy"`
	RSS      int64       `json:"rss_bytes"`
	Shared   int64       `json:"average_out"`
	Waited   int64       `json:"waited_ms"`
	FLOPs    float64     `json:"flops"`
}

// Checkpoint is a saved state in a Status.
type Checkpoint struct {
	Run   string `json:"run"`
	Step  int64  `json:"step"`
	Epoch int    `json:"epoch"`
}

// Status returns the run as dashboards see it.
func (m *Machine) Status(now time.Time) Status {
	s := Status{
		Protocol: proto.Version, Phase: string(m.Phase), Run: m.Run, Stopping: m.Interrupted && m.Phase == Draining,
		Loss: m.Loss, Val: m.Val, Members: []MemberStatus{},
	}
	if c := m.state.Saved; c != nil {
		s.Checkpoint = &Checkpoint{Run: c.Run, Step: int64(c.Position.Step), Epoch: c.Position.Epoch}
	}
	if m.Job != nil {
		s.Job, s.Want = m.Job.ID, m.Job.Want
	}
	if m.Phase == Gathering {
		s.Waiting = m.Told
	}
	if m.Fault != nil {
		s.Unsaved = m.Fault.Why
	}
	if !m.Started.IsZero() {
		s.RunningMS = now.Sub(m.Started).Milliseconds()
	}
	m.replicas(&s)
	for _, x := range m.sorted() {
		ms := MemberStatus{
			Name: x.Name, Agent: x.Hello.Agent, Platform: x.Hello.Platform, Class: x.Hello.Class,
			RAM: x.Hello.RAM, Threads: x.Hello.Threads, Bench: x.Hello.Bench, RTT: x.RTT.Microseconds(), State: "idle",
		}
		if p := x.Place; p != nil {
			ms.Assigned, ms.Cluster, ms.Stage, ms.Stages = true, p.Cluster, p.Stage, p.Stages
			ms.Peak, ms.Step, ms.Samples = x.Peak, x.Last.Step, x.Last.Samples
			ms.Out, ms.In, ms.Raw, ms.Busy, ms.RSS, ms.FLOPs = x.Last.Out, x.Last.In, x.Last.Raw, x.Last.Busy, x.Last.RSS, x.Last.FLOPs
			ms.Shared, ms.Waited = x.Last.Shared, x.Last.Waited
			switch {
			case x.Done:
				ms.State = "done"
			case m.Phase != Connecting:
				ms.State = "training"
			case x.Ready:
				ms.State = "ready"
			default:
				ms.State = "connecting"
			}
		}
		s.Members = append(s.Members, ms)
	}
	return s
}

// replicas adds what clusters do.
func (m *Machine) replicas(s *Status) {
	slowest, behind := math.Inf(1), int64(math.MaxInt64)
	for _, x := range m.assigned() {
		p := x.Place
		if p.Stage != p.Stages-1 || p.Share == 0 {
			continue
		}
		s.Replicas += p.Share
		share := p.Share
		if x.Last.Share > 0 {
			share = x.Last.Share
		}
		s.Clusters = append(s.Clusters, ClusterStatus{Cluster: p.Cluster, Replicas: share, Step: x.Last.Step, Forecast: p.Forecast})
		slowest, behind = min(slowest, p.Forecast/float64(p.Share)), min(behind, x.Last.Step)
	}
	if s.Replicas == 0 {
		return
	}
	s.Forecast = float64(s.Replicas) * slowest // all wait for the slowest
	s.Record = m.Record
	if r, known := m.order(); known && s.Replicas > 1 && !r.Split && (m.Phase == Running || m.Phase == Draining) {
		s.Round = int64(r.Round(uint64(behind))) + 1
	}
}
