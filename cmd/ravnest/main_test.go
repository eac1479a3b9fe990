package main

import (
	"slices"
	"strings"
	"testing"
)

func TestFlagsFirst(t *testing.T) {
	for in, want := range map[string]string{
		"ravnest":                               "ravnest",
		"ravnest serve dir":                     "ravnest serve dir",
		"ravnest serve dir --listen a:1 --json": "ravnest serve --listen a:1 --json dir",
		"ravnest serve --json dir --token=x":    "ravnest serve --json --token=x dir",
		"ravnest train dir --local":             "ravnest train --local dir",
		"ravnest fuse dir -cluster 1":           "ravnest fuse -cluster 1 dir",
		"ravnest fuse -- --cluster":             "ravnest fuse -- --cluster",
		"ravnest --version":                     "ravnest --version",
		"ravnest frobnicate a --b":              "ravnest frobnicate a --b",
	} {
		if got := flagsFirst(app(), strings.Fields(in)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: got %v, want %s", in, got, want)
		}
	}
}
