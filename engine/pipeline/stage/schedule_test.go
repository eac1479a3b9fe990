package stage

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
)

// trace writes the actions of a stage as "F0 F1 B0 U ...", numbered by batch.
func trace(j job.Spec, st, stages, train, val int) string {
	s := NewSchedule(NewSequence(j, train, val), st, stages, j.Schedule == job.Sync)
	var b strings.Builder
	for {
		a := s.Next()
		switch a.Kind {
		case Forward:
			fmt.Fprintf(&b, "F%d ", a.Item.Step)
		case Backward:
			fmt.Fprintf(&b, "B%d ", a.Item.Step)
		case Update:
			b.WriteString("U ")
		case Evaluate:
			b.WriteString("E ")
		case Report:
			b.WriteString("R ")
		case Keep:
			b.WriteString("K ")
		case Done:
			return strings.TrimSpace(b.String())
		}
	}
}

func TestOrderOfWork(t *testing.T) {
	j := job.Default()
	j.Epochs, j.BatchSize = 1, 10
	for _, c := range []struct {
		schedule      string
		micro, update int
		stage, val    int
		want          string
	}{
		{job.Async, 1, 1, 0, 0, "F0 F1 F2 B0 U F3 B1 U B2 U B3 U K"},
		{job.Async, 1, 1, 1, 0, "F0 F1 B0 U F2 B1 U F3 B2 U B3 U K"},
		{job.Async, 1, 1, 2, 0, "F0 B0 U F1 B1 U F2 B2 U F3 B3 U K"},
		{job.Async, 1, 2, 0, 0, "F0 F1 F2 B0 F3 B1 U B2 B3 U K"},
		{job.Async, 1, 1, 0, 15, "F0 F1 F2 B0 U F3 B1 U B2 U B3 U E E R K"},
		{job.Sync, 1, 1, 0, 0, "F0 B0 U F1 B1 U F2 B2 U F3 B3 U K"},
		{job.Sync, 4, 1, 0, 0, "F0 F0 F0 B0 F0 B0 B0 B0 U F1 F1 F1 B1 F1 B1 B1 B1 U F2 F2 F2 B2 F2 B2 B2 B2 U F3 F3 F3 B3 F3 B3 B3 B3 U K"},
		{job.Sync, 1, 2, 1, 0, "F0 F1 B0 B1 U F2 F3 B2 B3 U K"},
	} {
		j.Schedule, j.MicroBatches, j.UpdateFrequency = c.schedule, c.micro, c.update
		if got := trace(j, c.stage, 3, 40, c.val); got != c.want {
			t.Errorf("%s, %d micro-batches, update every %d, stage %d:\n got %s\nwant %s", c.schedule, c.micro, c.update, c.stage, got, c.want)
		}
	}
}
