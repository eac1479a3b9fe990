// The record of how many replicas a job had, where that is the host's choice. With the job it
// determines the result, so that training in one process by it gives the same bytes.

package project

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/ravnest/ravnest/engine/job"
	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/strict"
	"github.com/ravnest/ravnest/native"
)

// maxRounds bounds the file, in bytes.
const maxRounds = 1 << 20

// ErrRounds is wrapped by errors about a record that cannot be read or is not the job's.
var ErrRounds = errors.New("not a record of this job's replicas")

// rounds is the file's form. Version 1 is the first.
type rounds struct {
	Version int            `json:"version"`
	Periods []order.Period `json:"periods"`
}

// WriteRounds writes the record of the run beside its losses.
func (p *Project) WriteRounds(record []order.Period) error {
	if err := p.Inside(RoundsFile); err != nil {
		return err
	}
	b, err := json.MarshalIndent(rounds{1, record}, "", " ")
	if err != nil {
		return err
	}
	return native.WriteFile(filepath.Join(p.Dir, RoundsFile), append(b, '\n'), 0o644)
}

// ReadRounds reads a record and checks that the project's job can have run by it.
func (p *Project) ReadRounds(path string) ([]order.Period, error) {
	f, size, err := OpenRegular(path, "record")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > maxRounds {
		return nil, fmt.Errorf("%s: %w: %d bytes, at most %d are read", path, ErrRounds, size, maxRounds)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRounds))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	record, err := p.parseRounds(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrRounds, err)
	}
	return record, nil
}

func (p *Project) parseRounds(b []byte) ([]order.Period, error) {
	var r rounds
	if _, err := strict.Decode(b, &r); err != nil {
		return nil, err
	}
	switch {
	case r.Version != 1:
		return nil, fmt.Errorf("version %d, this program reads version 1", r.Version)
	case len(r.Periods) == 0:
		return nil, errors.New("it has no periods")
	}
	return r.Periods, p.CheckRecord(r.Periods)
}

// CheckRecord tells whether the project's job can have run by a record.
func (p *Project) CheckRecord(record []order.Period) error {
	if err := order.CheckRecord(record); err != nil {
		return err
	}
	if !p.Job.Auto() {
		return fmt.Errorf("the job has replicas %d, and only replicas %q go by a record", p.Job.Replica(), job.Auto)
	}
	for i := range record {
		j, err := p.Job.In(record[:i+1])
		if err == nil {
			err = stage.CheckBatches(j, p.Graph, p.Data.Train.Len())
		}
		if err == nil && i+1 == len(record) {
			err = j.Order(p.Data.Train.Len(), p.Data.Val.Len()).Check()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// fewUpdates of each replica make a round that is worth an average.
const fewUpdates = 8

// Replicas is how many replicas the job has with so many providers, where that is the host's
// choice: one for each, as long as there is a full round for them between two validations or saves, or
// one of fewUpdates where the job does not say, and batches that are split have rows for all.
func (p *Project) Replicas(providers int) int {
	j, n := p.Job, p.Data.Train.Len()
	most := min(providers, order.MaxReplicas)
	if j.Average.Of == job.Gradients {
		most = min(most, j.BatchSize)
	} else {
		j.Replicas = 2 // with one, rounds are single updates
		each := j.ReduceFactor
		if each == 0 {
			each = fewUpdates
		}
		most = min(most, j.Order(n, p.Data.Val.Len()).Stretch()/(each*j.UpdateFrequency))
	}
	for ; most > 1; most-- {
		if j.Replicas = job.Count(most); stage.CheckBatches(j, p.Graph, n) == nil {
			return most
		}
	}
	return 1
}

// Changes tells of a record how many replicas there were from which step on; of a long one, its
// end.
func Changes(record []order.Period) string {
	const most = 6
	var parts []string
	if n := len(record) - most; n > 0 {
		parts, record = []string{fmt.Sprintf("%d changes", n)}, record[n:]
	}
	for _, p := range record {
		parts = append(parts, fmt.Sprintf("%d from step %d on", p.Replicas, p.Step))
	}
	return strings.Join(parts, ", ")
}
