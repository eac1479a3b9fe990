// Patterns of the names of parameters.

package job

import (
	"path"
	"strings"
)

// maxList bounds the lists that a job has, but for weights of classes.
const maxList = 256

func checkPatterns(f *faults, field string, patterns []string) {
	if len(patterns) > maxList {
		f.bad("%s has %d patterns, at most %d are read", field, len(patterns), maxList)
		return
	}
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			f.bad("%s %q is no pattern: give a name of the state dict, with * for any characters", field, p)
		}
	}
}

// Decays tells whether a parameter has weight decay: full is its name in the state dict, name
// what its layer calls it, and kind is that of the layer.
func (o Optimizer) Decays(full, name, kind string) bool {
	for _, p := range o.NoDecay {
		ok, err := path.Match(p, full)
		switch {
		case err == nil && ok,
			p == "bias" && (name == "bias" || strings.HasSuffix(full, ".bias")),
			p == "norm" && strings.Contains(kind, "norm"):
			return false
		}
	}
	return true
}
