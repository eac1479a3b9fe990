//go:build !js

package client_test

// Most of the client is tested against the real host in package server. Here are tests of
// addresses, and of the js/wasm half if Node is installed.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
)

func TestParseURL(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1:8080":          "http://127.0.0.1:8080",
		"localhost:1":             "http://localhost:1",
		"[::1]:80":                "http://[::1]:80",
		"example.org":             "http://example.org",
		"http://example.org:80/":  "http://example.org:80",
		"ws://example.org:80":     "http://example.org:80",
		"wss://example.org":       "https://example.org",
		"https://example.org:443": "https://example.org:443",
		"":                        "",
		"://":                     "",
		"http://":                 "",
		"ftp://example.org":       "",
		"http://u:p@example.org":  "",
		"https://example.org/r/":  "https://example.org/r",
		"example.org//a/../b//":   "http://example.org/b",
		"example.org?x=1":         "",
		"exa mple.org":            "",
		"host:port":               "",
	} {
		u, err := client.ParseURL(in)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q was read as %s", in, u)
		case want == "" && !strings.Contains(err.Error(), "http://192.0.2.1:8080"):
			t.Errorf("%q: %v gives no example", in, err)
		case want != "" && (err != nil || u.String() != want):
			t.Errorf("%q was read as %v, %v, want %s", in, u, err, want)
		}
	}
}

type blob []byte

func (b blob) Blob(sum string) (io.ReaderAt, int64, error) {
	if s := sha256.Sum256(b); hex.EncodeToString(s[:]) != sum {
		return nil, 0, fs.ErrNotExist
	}
	return bytes.NewReader(b), int64(len(b)), nil
}

// TestWasm runs the js half in Node, from wrong token to bye.
func TestWasm(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not installed")
	}
	s, err := server.New(server.Config{Token: "t", Once: true})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := server.Listen("127.0.0.1:0", "t")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(ln)
	defer s.Shutdown(context.Background())
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	graph := blob("graph")
	sum := sha256.Sum256(graph)
	ended := make(chan error, 1)
	go func() {
		r, err := s.Run(ctx, server.Job{
			Job: run.Job{Raw: json.RawMessage(`{}`)}, Blobs: graph,
			Plan: func(_ context.Context, ask server.Ask) ([]server.Assignment, error) {
				return []server.Assignment{{MemberID: ask.Pool[0].ID, Stages: 1, Segment: snapshot.Segment{To: 1}, Graph: proto.Ref{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(graph))}}}, nil
			},
		}, nil)
		if err == nil && (r.Checkpoint == nil || r.Checkpoint.Parts[0].Size != 300_000) {
			t.Errorf("result %+v", r)
		}
		ended <- err
	}()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	run := "node --stack-size=8192 " + filepath.Join(strings.TrimSpace(string(goroot)), "lib/wasm/wasm_exec_node.js")
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^TestJS$", "-exec", run, ".")
	// Node 20 needs a flag for WebSocket; later versions accept it.
	cmd.Env = append(os.Environ(), "GOOS=js", "GOARCH=wasm", "RAVNEST_TEST_HOST="+ln.Addr().String(), "RAVNEST_TEST_SILENT="+silent.Addr().String(), "NODE_OPTIONS=--experimental-websocket")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestJS")) {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
