// How true forecasts were: what the job's runs achieved, kept for the next plan.

package project

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
)

// achieved is AchievedFile.
type achieved struct {
	// Factor is the samples a second of the runs by those that were forecast.
	Factor float64 `json:"factor"`
	// Of identifies what was trained: for another model or batch nothing is known.
	Of string `json:"of"`
}

// trained identifies what a forecast depends on besides the pool.
func (p *Project) trained() string {
	h := sha256.New()
	h.Write(p.GraphJSON)
	j := p.Job
	fmt.Fprintf(h, "%d %d %d %s %s %s", j.BatchSize, j.UpdateFrequency, j.Replica(), j.Schedule, j.Wire, j.Precision)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Achieved returns what the job's runs achieved by what was forecast; 0 if that is not known.
func (p *Project) Achieved() float64 {
	b, err := read(filepath.Join(p.Dir, AchievedFile), "record of earlier forecasts", maxConfig)
	if err != nil {
		return 0 // none was trained, and forecasts only inform
	}
	var a achieved
	if json.Unmarshal(b, &a) != nil || a.Of != p.trained() || !(a.Factor > 0 && a.Factor < 1e6) {
		return 0
	}
	return a.Factor
}

// SetAchieved keeps the factor for the next run.
func (p *Project) SetAchieved(factor float64) error {
	b, err := json.Marshal(achieved{factor, p.trained()})
	if err != nil {
		return err
	}
	return p.write(AchievedFile, append(b, '\n'))
}
