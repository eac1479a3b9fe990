package server

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestBoard: what the example board asks for is what the host has.
func TestBoard(t *testing.T) {
	board, err := os.ReadFile("../../native/deploy/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`ravnest_[a-z_]+`).FindAllString(string(board), -1)
	if len(names) < 10 {
		t.Fatalf("only %d metrics on the board", len(names))
	}
	for _, n := range names {
		if !strings.Contains(string(code), `"`+n+`"`) {
			t.Errorf("the board shows %s, which the host does not have", n)
		}
	}
}
