package stage

import (
	"errors"
	"testing"

	"github.com/ravnest/ravnest/engine/job"
)

func TestPlacements(t *testing.T) {
	j := job.Default()
	j.Replicas, j.ReduceFactor = 4, 2
	cl := func(starts []int, replicas ...int) Cluster { return Cluster{Starts: starts, Replicas: replicas} }
	all, cut := []int{0}, []int{0, 3, 5}
	for name, p := range map[string]Placement{
		"":                  {},
		"one":               {Clusters: []Cluster{cl(cut, 0, 1, 2, 3)}},
		"two":               {Cluster: 1, Clusters: []Cluster{cl(cut, 0, 3), cl(all, 1, 2)}},
		"four":              {Clusters: []Cluster{cl(cut, 3), cl(all, 2), cl(all, 1), cl(all, 0)}},
		"!one without all":  {Clusters: []Cluster{cl(cut, 0, 1, 2)}},
		"!no such cluster":  {Cluster: 2, Clusters: []Cluster{cl(cut, 0, 3), cl(all, 1, 2)}},
		"!none":             {Cluster: 1},
		"!negative":         {Cluster: -1, Clusters: []Cluster{cl(cut, 0, 1, 2, 3)}},
		"!one has none":     {Clusters: []Cluster{cl(cut, 0, 1, 2, 3), cl(all)}},
		"!twice":            {Clusters: []Cluster{cl(cut, 0, 1), cl(all, 1, 2, 3)}},
		"!descending":       {Clusters: []Cluster{cl(cut, 1, 0), cl(all, 2, 3)}},
		"!no such replica":  {Clusters: []Cluster{cl(cut, 0, 1), cl(all, 2, 4)}},
		"!too many":         {Clusters: []Cluster{cl(all, 0), cl(all, 1), cl(all, 2), cl(all, 3), cl(all)}},
		"!no stages":        {Clusters: []Cluster{cl(cut, 0, 1), cl(nil, 2, 3)}},
		"!not from 0":       {Clusters: []Cluster{cl(cut, 0, 1), cl([]int{1, 2}, 2, 3)}},
		"!beyond the model": {Clusters: []Cluster{cl(cut, 0, 1), cl([]int{0, 9}, 2, 3)}},
	} {
		err := p.Check(j, 9)
		if want := name != "" && name[0] == '!'; (err != nil) != want || err != nil && !errors.Is(err, ErrPlacement) {
			t.Errorf("%s: %v", name, err)
		}
	}
	j.Schedule, j.Replicas = job.Async, 1
	if err := (Placement{Clusters: []Cluster{cl(cut, 0), cl(all)}}).Check(j, 9); !errors.Is(err, ErrPlacement) {
		t.Errorf("async: %v", err)
	}
}
