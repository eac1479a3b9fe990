package ga

import (
	"errors"
	"strings"
	"testing"
)

// TestMinClusters: as many clusters as were asked for are formed, whether they pay or not,
// and the error says why where they cannot be.
func TestMinClusters(t *testing.T) {
	for _, need := range []Need{roundNeed(1e9, 12), {RAM: 1e9, Stages: 12}} {
		for k := 1; k <= 4; k++ {
			got, err := Cluster(equalPool(8), need, Options{MinClusters: k, MaxClusters: k, Replicas: 4}, newRNG(1))
			if err != nil || len(got) != k {
				t.Errorf("%d clusters, want %d: %v", len(got), k, err)
			}
		}
	}
	_, err := Cluster(equalPool(3), roundNeed(1e9, 12), Options{MinClusters: 4, Replicas: 4}, newRNG(1))
	if !errors.Is(err, ErrRAM) || !strings.Contains(err.Error(), "3 providers cannot form 4 clusters") {
		t.Error(err)
	}
	nodes := equalPool(4)
	_, err = Cluster(nodes, roundNeed(2*nodes[0].RAM, 12), Options{MinClusters: 3, Replicas: 4}, newRNG(1))
	if !errors.Is(err, ErrRAM) || !strings.Contains(err.Error(), "2 times") {
		t.Error(err)
	}
}
