// Transcripts of the binaries at work: testdata/script.

package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScript(t *testing.T) {
	s := newScene(t)
	abs, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:      "testdata/script",
		Deadline: time.Now().Add(10 * time.Minute),
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", abs+string(filepath.ListSeparator)+os.Getenv("PATH"))
			e.Vars = append(e.Vars, s.mark)
			return nil
		},
	})
}
