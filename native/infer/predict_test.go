package infer

import (
	"encoding/json"
	"math"
	"testing"
)

// TestNotFinite: the answer of a model whose training went wrong is JSON, too.
func TestNotFinite(t *testing.T) {
	nan := float32(math.NaN())
	for want, a := range map[string]Prediction{
		`{"class":0,"probability":null}`:                     predict([]float32{nan, 1}, 2),
		`{"classes":[0,1],"probabilities":[null,0.7310586]}`: predict([]float32{nan, 1, 1, 2}, 2),
		`{"values":[null,1]}`:                                predict([]float32{nan, 1}, 0),
	} {
		if b, err := json.Marshal(a); err != nil || string(b) != want {
			t.Errorf("%s %v, want %s", b, err, want)
		}
	}
}
