// Package status tells how far a run is: it asks a host, or reads a project's directory.
package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ravnest/ravnest/native/project"
	"github.com/ravnest/ravnest/native/weights"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// Standing is the status of a project's directory.
type Standing struct {
	Command    string `json:"command"`
	Job        string `json:"job"`
	Steps      int64  `json:"steps"`           // of the whole run
	Step       int64  `json:"checkpoint_step"` // of the last checkpoint; -1: there is none
	Epoch      int    `json:"checkpoint_epoch"`
	Unfinished bool   `json:"unfinished"` // ravnest serve would resume from the checkpoint
	Trained    bool   `json:"trained"`    // there is a trained state dict, of whatever made it
}

// Of reads the status of a project's run. It changes nothing.
func Of(ctx context.Context, p *project.Project) (Standing, error) {
	s := Standing{Command: "status", Job: p.Job.Name, Steps: int64(p.Job.Total(p.Data.Train.Len())), Step: -1}
	_, err := os.Stat(weights.Files(p.Dir)[0])
	s.Trained = err == nil
	c, err := weights.Manifest(p)
	if err == nil {
		s.Step, s.Epoch = int64(c.Position.Step), c.Position.Epoch
	} else if !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	dir := filepath.Join(p.Dir, project.StoreDir)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	osfs, err := store.OpenOS(dir)
	if err != nil {
		return s, err
	}
	defer osfs.Close()
	e, err := server.Earlier(ctx, store.NewDir(osfs), p.RunID(), p.Job.JSON())
	if err != nil {
		return s, err
	}
	if e != nil {
		s.Unfinished = true
		if c := e.Checkpoint; c != nil {
			s.Step, s.Epoch = int64(c.Position.Step), c.Position.Epoch
		}
	}
	return s, nil
}

func (s Standing) String() string {
	switch {
	case s.Step < 0 && s.Unfinished:
		return fmt.Sprintf("%s: begun, but nothing saved yet; ravnest serve starts it again", s.Job)
	case s.Step < 0 && s.Trained:
		return fmt.Sprintf("%s: trained in one process; providers have trained nothing yet", s.Job)
	case s.Step < 0:
		return fmt.Sprintf("%s: not trained yet", s.Job)
	case s.Unfinished:
		return fmt.Sprintf("%s: saved at step %d of %d; ravnest serve resumes from there", s.Job, s.Step, s.Steps)
	}
	return fmt.Sprintf("%s: the last run is saved at step %d of %d", s.Job, s.Step, s.Steps)
}

// Ask asks a host at a URL for its status.
func Ask(ctx context.Context, url, token string) (server.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var s server.Status
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(url, "/")+proto.StatusPath, nil)
	if err != nil {
		return s, fmt.Errorf("the address %q: %w", url, err)
	}
	if token != "" {
		req.Header.Set("Authorization", proto.Authorization(token))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, fmt.Errorf("asking the host: %w: is a run being served there?", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return s, fmt.Errorf("asking the host: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var e proto.Error
		if json.Unmarshal(b, &e) == nil && e.Message != "" {
			return s, &e
		}
		return s, fmt.Errorf("the host at %s says %s", url, resp.Status)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("the server at %s is not a ravnest host: %w", url, err)
	}
	return s, nil
}

// Text returns a host's status as text.
func Text(s server.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", s.Phase)
	if s.Job != "" {
		fmt.Fprintf(&b, ": job %s", s.Job)
	}
	if s.Run != "" {
		fmt.Fprintf(&b, ", attempt %s", s.Run)
	}
	if s.Loss != nil {
		fmt.Fprintf(&b, ", step %d, loss %.4f", s.Loss.Step+1, float64(s.Loss.Loss))
	}
	if c := s.Checkpoint; c != nil {
		fmt.Fprintf(&b, ", saved at step %d", c.Step)
	}
	if s.Unsaved != "" {
		fmt.Fprintf(&b, "\nnothing can be saved now: %s", s.Unsaved)
	}
	if s.Waiting != "" {
		fmt.Fprintf(&b, "\n%s", s.Waiting)
	}
	if len(s.Record) > 0 {
		fmt.Fprintf(&b, "\nreplicas: %s (chosen by who is there)", project.Changes(s.Record))
	}
	if len(s.Clusters) > 1 {
		fmt.Fprintf(&b, "\nround %d of %d replicas", s.Round, s.Replicas)
		for _, c := range s.Clusters {
			fmt.Fprintf(&b, "\n  cluster %d trains %d replica(s), step %d", c.Cluster, c.Replicas, c.Step)
		}
	}
	for _, m := range s.Members {
		fmt.Fprintf(&b, "\n  %-16s %-10s", m.Name, m.State)
		if m.Assigned {
			if len(s.Clusters) > 1 {
				fmt.Fprintf(&b, " cluster %d", m.Cluster)
			}
			fmt.Fprintf(&b, " stage %d of %d  step %d", m.Stage+1, m.Stages, m.Step)
		}
	}
	return b.String()
}
