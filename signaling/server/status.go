package server

// The lobby as dashboards see it.

import (
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Status is a snapshot for dashboards, as /v1/status gives it.
type Status struct {
	Protocol   int            `json:"protocol"`
	Phase      string         `json:"phase"` // idle, gathering, planning, connecting, running, draining
	Run        string         `json:"run,omitempty"`
	Job        string         `json:"job,omitempty"`
	Want       int            `json:"want"`
	Stopping   bool           `json:"stopping"`
	RunningMS  int64          `json:"running_ms"`
	Members    []MemberStatus `json:"members"`
	Loss       *proto.Loss    `json:"loss,omitempty"` // the last one
	Val        *proto.Val     `json:"val,omitempty"`  // the last one
	Checkpoint *Checkpoint    `json:"checkpoint,omitempty"`
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
	Epoch    int         `json:"epoch"`
	Samples  int64       `json:"samples"`
	Out      int64       `json:"wire_out"`
	In       int64       `json:"wire_in"`
	Raw      int64       `json:"raw_out"`
	Busy     float64     `json:"busy"`
	RSS      int64       `json:"rss_bytes"`
	FLOPs    float64     `json:"flops"`
}

// status is a snapshot.
func (l *lobby) status(now time.Time) Status {
	s := Status{
		Protocol: proto.Version, Phase: string(l.phase), Run: l.run, Stopping: l.interrupted && l.phase == draining,
		Loss: l.loss, Val: l.val, Checkpoint: l.saved, Members: []MemberStatus{},
	}
	if l.job != nil {
		s.Job, s.Want = l.job.ID, l.job.Want
	}
	if !l.started.IsZero() {
		s.RunningMS = now.Sub(l.started).Milliseconds()
	}
	for _, m := range l.sorted() {
		ms := MemberStatus{
			Name: m.Name, Agent: m.Hello.Agent, Platform: m.Hello.Platform, Class: m.Hello.Class,
			RAM: m.Hello.RAM, Threads: m.Hello.Threads, Bench: m.Hello.Bench, RTT: m.RTT.Microseconds(), State: "idle",
		}
		if m.job != nil {
			ms.Assigned, ms.Cluster, ms.Stage, ms.Stages = true, m.job.Cluster, m.job.Stage, m.job.Stages
			ms.Peak, ms.Step, ms.Epoch, ms.Samples = m.peak, m.last.Step, m.last.Epoch, m.last.Samples
			ms.Out, ms.In, ms.Raw, ms.Busy, ms.RSS, ms.FLOPs = m.last.Out, m.last.In, m.last.Raw, m.last.Busy, m.last.RSS, m.last.FLOPs
			switch {
			case m.done:
				ms.State = "done"
			case l.phase != connecting:
				ms.State = "training"
			case m.ready:
				ms.State = "ready"
			default:
				ms.State = "connecting"
			}
		}
		s.Members = append(s.Members, ms)
	}
	return s
}
