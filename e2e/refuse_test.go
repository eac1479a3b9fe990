// What hosts and providers refuse: a wrong token or version, a port in use, a pool that is
// too small for the model.

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/signaling/proto"
)

func TestWrongToken(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--epochs", "1", dir)
	host, url := s.serve("--token", "right", "--providers", "1", dir)
	for _, token := range []string{"", "wrong", "right " + strings.Repeat("x", 250)} {
		args := []string{"--join", url}
		if token != "" {
			args = append(args, "--token", token)
		}
		s.bad([]string{"(?i)token"}, "ravnest-provider", args...)
	}
	// The host keeps running; a provider with the token trains.
	s.ok("ravnest-provider", "--join", url, "--token", "right", "--once")
	if code := host.wait(limit); code != 0 {
		t.Errorf("a host that refused providers: code %d", code)
	}
	checkLosses(t, dir, 17)
}

func TestNames(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", dir)
	s.ok("ravnest", "clusterize", dir)
	host, url := s.serve(dir)
	s.bad([]string{"nobody"}, "ravnest-provider", "--join", url, "--name", "nobody")
	p := s.start("ravnest-provider", "--join", url, "--name", "node_1", "--once")
	host.says("node_1 joined", limit)
	s.bad([]string{"node_1"}, "ravnest-provider", "--join", url, "--name", "node_1")
	host.says("refused nobody", limit)
	host.interrupt()
	host.wait(limit)
	p.wait(limit)
}

// TestVersionOfProvider: a provider of another version is told so, by an error code and a
// message.
func TestVersionOfProvider(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--epochs", "1", dir)
	host, url := s.serve("--providers", "1", dir)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(url, "http")+"/v1/join", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	if err := ws.Write(ctx, websocket.MessageText, []byte(`{"v":99,"type":"hello","body":{"from":"the future"}}`)); err != nil {
		t.Fatal(err)
	}
	_, b, err := ws.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Type string
		Body struct{ Code, Message string }
	}
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if m.Type != "error" || m.Body.Code != "version" || !strings.Contains(m.Body.Message, "protocol version 99") {
		t.Errorf("the host answers %s, want an error with the code version that names 99", b)
	}
	if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
		t.Error("the host does not close the connection")
	}
	host.says("refused .*protocol version 99", limit)
	s.ok("ravnest-provider", "--join", url, "--once")
	if code := host.wait(limit); code != 0 {
		t.Errorf("a host that refused a provider: code %d", code)
	}
}

// TestVersionOfHost: a provider says that the host speaks another version, or that it is no
// host.
func TestVersionOfHost(t *testing.T) {
	s := newScene(t)
	answering := func(answer string) string {
		mux := http.NewServeMux()
		mux.HandleFunc("GET /v1/speed", func(w http.ResponseWriter, r *http.Request) {
			if n, err := strconv.Atoi(r.URL.Query().Get("bytes")); err == nil && n >= 0 && n <= 16<<20 {
				_, _ = w.Write(make([]byte, n))
			}
		})
		mux.HandleFunc("POST /v1/speed", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusNoContent)
		})
		mux.HandleFunc("GET /v1/join", func(w http.ResponseWriter, r *http.Request) {
			ws, err := websocket.Accept(w, r, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			if _, _, err := ws.Read(r.Context()); err != nil {
				return
			}
			_ = ws.Write(r.Context(), websocket.MessageText, []byte(answer))
			_, _, _ = ws.Read(r.Context())
		})
		srv := httptest.NewServer(mux)
		t.Cleanup(srv.Close)
		return srv.URL
	}
	s.bad([]string{"protocol version 99", "update the older"}, "ravnest-provider", "--join", answering(`{"v":99,"type":"welcome","body":{}}`))
	s.bad([]string{"malformed"}, "ravnest-provider", "--join", answering(`hello, friend`))
	s.bad([]string{"instead of a welcome"}, "ravnest-provider", "--join", answering(fmt.Sprintf(`{"v":%d,"type":"ping","body":{"seq":1}}`, proto.Version)))

	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	s.bad([]string{"is it a ravnest host"}, "ravnest-provider", "--join", other.URL)
}

// TestPlainText: what a host or a file calls things moves no cursor of the terminal that it reaches.
func TestPlainText(t *testing.T) {
	s := newScene(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer ln.Close()
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, "HTTP/1.1 404 gone\x1b[2Jhome\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			_ = c.Close()
		}
	})
	file := filepath.Join(t.TempDir(), "table.csv")
	write(t, file, []byte("gone\x1b[2Jhome,y\n1,2\n3,4\n"))
	for _, p := range []*proc{
		s.bad([]string{`gone \[2Jhome`}, "ravnest-provider", "--join", "http://"+ln.Addr().String()),
		s.bad([]string{`gone \[2Jhome`}, "ravnest", "init", "--data", file, "--target", "nope", filepath.Join(t.TempDir(), "job")),
	} {
		if strings.Contains(p.err.String(), "\x1b") {
			t.Errorf("%v tells the terminal %q", p.cmd.Args, p.err.String())
		}
	}
}

func TestPortInUse(t *testing.T) {
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.demo("--epochs", "1", "--dir", dir)
	was := results(t, dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	s.bad([]string{addr + " is in use"}, "ravnest", "serve", "--listen", addr, dir)
	s.bad([]string{addr + " is in use"}, "ravnest", "demo", "--listen", addr, "--dir", dir)
	kept(t, was, dir)
}

// TestPool: a pool that is too small for the model ends the run before it changes anything.
func TestPool(t *testing.T) {
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.demo("--epochs", "1", "--dir", dir)
	was := results(t, dir)
	s.bad([]string{`pool has 3.0 kB of RAM, the model needs [\d.]+ MB: [\d.]+ MB short`}, "ravnest", "demo", "--ram", "0.000001", "--dir", dir)
	kept(t, was, dir)
	s.bad([]string{"8 providers", "only 6 cut points"}, "ravnest", "demo", "--providers", "8", "--clusters", "1", "--dir", dir)
	kept(t, was, dir)
	s.bad([]string{`"lots" is not a size`}, "ravnest", "demo", "--ram", "lots", "--dir", dir)
	s.bad([]string{`--threads 0`}, "ravnest", "demo", "--threads", "0", "--dir", dir)
	kept(t, was, dir)

	// A provider lends less than the pool file, from which the plan was made, says.
	s.ok("ravnest", "clusterize", dir)
	host, url := s.serve(dir)
	ps := []*proc{
		s.start("ravnest-provider", "--join", url, "--name", "node_0", "--once"),
		s.start("ravnest-provider", "--join", url, "--name", "node_1", "--ram", "100kB", "--once"),
		s.start("ravnest-provider", "--join", url, "--name", "node_2", "--once"),
	}
	host.says(`stage 1 of cluster 0 needs [\d.]+ [kM]B, but provider node_1 lends 100.0 kB.*waiting for another provider`, limit)
	host.interrupt()
	host.wait(limit)
	for _, p := range ps {
		p.wait(limit)
	}
	kept(t, was, dir)
}

// TestIdle: a provider that waits for others uses next to no processor time. The goal is 1 %
// of a core; 3 % are allowed here because the system accounts in ticks (10 ms of 3 s) and the
// test is not alone on the machine.
func TestIdle(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("reads /proc")
	}
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", dir)
	host, url := s.serve("--providers", "2", dir)
	p := s.start("ravnest-provider", "--join", url, "--once")
	host.says("joined", limit)
	time.Sleep(300 * time.Millisecond) // the benchmark's threads stop spinning
	cpu := func(p *proc) time.Duration {
		u, err := native.UsageOf(p.cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		return u.CPU
	}
	begin, a, b := time.Now(), cpu(p), cpu(host)
	time.Sleep(3 * time.Second)
	wall := time.Since(begin)
	share := 100 * (cpu(p) - a).Seconds() / wall.Seconds()
	t.Logf("an idle provider uses %.2f %% of a core, its host %.2f %%", share, 100*(cpu(host)-b).Seconds()/wall.Seconds())
	if a <= 0 {
		t.Error("the benchmark used no processor time: the measurement is broken")
	}
	if share > 3 {
		t.Errorf("an idle provider uses %.2f %% of a core", share)
	}
	host.interrupt()
	host.wait(limit)
	p.wait(limit)
}
