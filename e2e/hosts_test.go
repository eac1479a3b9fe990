// Several hosts serve one job over NATS: any of them may be lost.

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// natsServer starts a NATS server that wants a password.
func natsServer(t *testing.T) (url string) {
	t.Helper()
	n, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true, Username: "hosts", Password: "s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	n.Start()
	t.Cleanup(func() {
		n.Shutdown()
		n.WaitForShutdown()
	})
	if !n.ReadyForConnections(limit) {
		t.Fatal("NATS does not start")
	}
	return "nats://hosts:s3cret@" + n.Addr().String()
}

// twin copies a job's directory, as to another machine.
func (s *scene) twin(dir string) string {
	s.Helper()
	to := filepath.Join(s.TempDir(), "twin")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		s.Fatal(err)
	}
	return to
}

// TestTwoHosts: the host that leads is killed, and the other goes on within seconds; the first
// one comes back and stands by, until the second is stopped and hands over. The result is that
// of one process.
func TestTwoHosts(t *testing.T) {
	posix(t)
	s := newScene(t)
	nats := natsServer(t)
	dirA := s.endlessJob()
	dirB := s.twin(dirA)
	a, urlA := s.serve("--nats", nats, dirA)
	a.says("this host leads the job", limit)
	b, urlB := s.serve("--nats", nats, dirB)
	b.says("standing by: the host at "+urlA+" leads", limit)
	s.provide(urlA, "node_0")                                                          // learns of the other
	s.start("ravnest-provider", "--join", urlA, "--join", urlB, "--name", "node_1")    // knows it
	c := s.start("ravnest-provider", "--join", urlB, "--name", "node_2", "--log-json") // is sent on
	a.says("training", limit)
	c.says("joined "+urlA, limit)
	s.saved(dirA, 5)

	begin := time.Now()
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.says("this host leads the job", limit)
	led := time.Since(begin)
	b.says(`training resumes from step \d+`, limit)
	resumed := time.Since(begin)
	s.more(dirB, 20)
	t.Logf("the other host leads %.1f s after the kill, and trains after %.1f s", led.Seconds(), resumed.Seconds())
	if resumed > 10*time.Second {
		t.Errorf("training goes on %.1f s after the kill", resumed.Seconds())
	}

	<-a.done
	again, _ := s.serve("--nats", nats, "--listen", strings.TrimPrefix(urlA, "http://"), dirA)
	again.says("standing by: the host at "+urlB+" leads", limit)
	b.interrupt()
	if code := b.wait(limit); code != 130 {
		t.Errorf("a host that is stopped: code %d, want 130", code)
	}
	b.says("the run goes on with the host at "+urlA, limit)
	again.says(`training resumes from step \d+`, limit)
	s.more(dirA, 20)
	s.ends(again, dirA)
	for _, p := range []*proc{a, b, again} {
		if out := p.err.String() + p.out.String(); strings.Contains(out, "s3cret") {
			t.Errorf("a host prints the password:\n%s", out)
		}
	}
}
