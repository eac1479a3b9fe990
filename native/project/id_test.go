package project

import (
	"strings"
	"testing"
)

// TestRunID: different names give different identifiers, which are safe in files and addresses.
func TestRunID(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"cnn", "a/b", "a_b", "a:b", "ünï", "名前", "", ".x", strings.Repeat("long", 40), strings.Repeat("long", 41), "a b"} {
		id := runID(name)
		if other, twice := seen[id]; twice || len(id) > 48 || id == "" || id[0] == '.' || strings.ContainsAny(id, "/ :\x00") {
			t.Errorf("%q gives %q, as %q does", name, id, other)
		}
		seen[id] = name
	}
	if runID("cnn") != "cnn" {
		t.Error("a plain name does not stay")
	}
}
