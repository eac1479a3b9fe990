// Several hosts serve one job over NATS: any of them may be lost.

package e2e

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// natsServer is a NATS server that wants a password, and that can be stopped and started again.
type natsServer struct {
	t   *testing.T
	opt server.Options
	run *server.Server
	url string
}

func newNATS(t *testing.T) *natsServer {
	t.Helper()
	n := &natsServer{t: t, opt: server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true, Username: "hosts", Password: "s3cret"}}
	n.start()
	t.Cleanup(n.stop)
	n.url = "nats://hosts:s3cret@" + n.run.Addr().String()
	return n
}

// start starts it, at the same address and with what it had stored.
func (n *natsServer) start() {
	n.t.Helper()
	opt := n.opt // a server changes its options
	s, err := server.NewServer(&opt)
	if err != nil {
		n.t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(limit) {
		n.t.Fatal("NATS does not start")
	}
	n.run, n.opt.Port = s, s.Addr().(*net.TCPAddr).Port
}

func (n *natsServer) stop() {
	n.run.Shutdown()
	n.run.WaitForShutdown()
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

// twoHosts serves a job by a host that leads it, and a copy of it by another that stands by.
func (s *scene) twoHosts(dirA string, flags ...string) (a, b *proc, dirB, urlA, urlB string) {
	s.Helper()
	dirB = s.twin(dirA)
	a, urlA = s.serve(append(slices.Clone(flags), dirA)...)
	a.says("this host leads the job", limit)
	b, urlB = s.serve(append(slices.Clone(flags), dirB)...)
	b.says("standing by: the host at "+urlA+" leads", limit)
	return a, b, dirB, urlA, urlB
}

// TestTwoHosts: the host that leads is killed, and the other goes on within seconds; the first
// one comes back and stands by, until the second is stopped and hands over. The result is that
// of one process.
func TestTwoHosts(t *testing.T) {
	posix(t)
	s := newScene(t)
	nats := newNATS(t).url
	dirA := s.endlessJob()
	a, b, dirB, urlA, urlB := s.twoHosts(dirA, "--nats", nats)
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

	<-a.done
	again, _ := s.serve("--nats", nats, "--listen", strings.TrimPrefix(urlA, "http://"), dirA)
	again.says("standing by: the host at "+urlB+" leads", limit)
	b.stops()
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

// TestNATSComesBack: NATS is away for a time while two hosts serve a job. Training goes on; then
// the host that leads is killed before NATS is there again, and nothing is lost.
func TestNATSComesBack(t *testing.T) {
	posix(t)
	s := newScene(t)
	nats := newNATS(t)
	dirA := s.endlessJob()
	a, b, dirB, urlA, urlB := s.twoHosts(dirA, "--nats", nats.url)
	for _, name := range []string{"node_0", "node_1", "node_2"} {
		s.start("ravnest-provider", "--join", urlA, "--join", urlB, "--name", name)
	}
	a.says("training", limit)
	s.saved(dirA, 5)

	nats.stop()
	a.says("NATS at .* does not answer: training goes on, checkpoints wait", limit)
	s.more(dirA, 50)
	nats.start()
	a.says("NATS at .* answers again", limit)
	s.more(dirA, 50)

	nats.stop()
	s.more(dirA, 20)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	nats.start()
	b.says("this host leads the job", limit)
	b.says(`training resumes from step \d+`, limit)
	s.more(dirB, 20)
	s.ends(b, dirB)
}

// TestHostOfNATSComesBack: the only host of a job is killed, and started again in an empty copy of
// the job's directory: NATS has all that it needs. With --fresh the job begins anew.
func TestHostOfNATSComesBack(t *testing.T) {
	posix(t)
	s := newScene(t)
	nats := newNATS(t)
	dir := s.endlessJob()
	elsewhere := s.twin(dir)
	address := freePort(t)
	a, url := s.serve("--nats", nats.url, "--listen", address, dir)
	s.provide(url, "node_0", "node_1", "node_2")
	a.says("training", limit)
	s.saved(dir, 5)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-a.done
	b, _ := s.serve("--nats", nats.url, "--listen", address, elsewhere)
	b.says(`resuming the run that ended at step \d+`, limit)
	b.says(`training resumes from step \d+`, limit)
	s.more(elsewhere, 20)
	b.stops()

	// What the first directory holds is older than what NATS has, and that is put aside.
	fresh, _ := s.serve("--nats", nats.url, "--listen", address, "--fresh", dir)
	fresh.says("(?m)^training$", limit)
	s.more(dir, 20)
	if size(dir, "previous/1/losses.txt") == 0 {
		t.Error("the older run's losses are not in previous/1")
	}
	s.ends(fresh, dir)
}

// TestHostsOfOtherJobs: a host whose job, model or data are not those that NATS has is refused, and
// told what differs.
func TestHostsOfOtherJobs(t *testing.T) {
	posix(t)
	s := newScene(t)
	nats := newNATS(t)
	dirA := s.endlessJob()
	dirB := s.twin(dirA)
	a, _ := s.serve("--nats", nats.url, dirA)
	a.says("this host leads the job", limit)
	edit(t, filepath.Join(dirB, "job.json"), `"save_every": 2`, `"save_every": 3`)
	for _, more := range [][]string{nil, {"--fresh"}} {
		args := append(append([]string{"serve", "--listen", "127.0.0.1:0", "--nats", nats.url}, more...), dirB)
		want := `settings \(job.json\)`
		if more != nil {
			want = "leads this job: stop it before beginning anew"
		}
		p := s.bad([]string{want}, "ravnest", args...)
		if strings.Contains(p.err.String(), "s3cret") {
			t.Errorf("a host prints the password:\n%s", p.err.String())
		}
	}
	select {
	case <-a.done:
		t.Error("the host that leads has ended")
	default:
	}
	a.interrupt()
	a.wait(limit)
}

// TestMembersOfTwoHosts: whom one host lets in or keeps out, the other does too once it leads.
func TestMembersOfTwoHosts(t *testing.T) {
	posix(t)
	s := newScene(t)
	nats := newNATS(t)
	home := t.TempDir()
	person := func(name string) string { return filepath.Join(home, name) }
	dirA := s.endlessJob("--nodes", "1")
	const secret = "the requester's own secret"
	a, b, dirB, _, urlB := s.twoHosts(dirA, "--nats", nats.url, "--token", secret, "--members-only")
	members := func(dir string, args ...string) string {
		t.Helper()
		out, _ := s.ok("ravnest", append([]string{"members", dir}, args...)...)
		return strings.TrimSpace(out)
	}
	eve := s.volunteer(person("eve"), "--join", members(dirA, "invite"))
	eve.says("(?m)^joined", limit)
	s.more(dirA, 5)
	key := strings.Fields(strings.Split(members(dirA), "\n")[1])[0]
	members(dirA, "ban", key)
	eve.failed(limit, "has banned this provider")
	ada := s.volunteer(person("ada"), "--join", members(dirA, "invite"), "--join", urlB)
	ada.says("(?m)^joined", limit)
	s.saved(dirA, 5)

	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	b.says("this host leads the job", limit)
	b.says(`training resumes from step \d+`, limit) // with Ada, who needs no other invitation
	s.volunteer(person("eve"), "--join", urlB, "--token", secret, "--wait", "0s").failed(limit, "has banned this provider")
	members(dirB, "allow", key)
	eve = s.volunteer(person("eve"), "--join", urlB)
	eve.says("(?m)^joined", limit)
	s.more(dirB, 20)
	b.stops()
}

// TestAuditOfTwoHosts: a provider computes something else once the host that led is lost. The next one
// names it, goes back to what was right, which the host before it may have stored, and ends with the
// bytes of one process; and if it is lost as well, the one that follows knows who is barred.
func TestAuditOfTwoHosts(t *testing.T) {
	posix(t)
	s := newScene(t)
	nats := newNATS(t).url
	dirA := s.endlessJob("--audit")
	flags := []string{"--nats", nats, "--audit-every", "1"}
	a, b, dirB, urlA, urlB := s.twoHosts(dirA, flags...)
	var lying atomic.Bool
	defer s.lendSpoilt(urlA, "node_1", stage.Hooks{Updated: func(_ uint64, params []float32) {
		if lying.Load() {
			flip(params)
		}
	}}, urlB)()
	for _, name := range []string{"node_0", "node_2"} {
		s.start("ravnest-provider", "--join", urlA, "--join", urlB, "--name", name)
	}
	a.says("training", limit)
	a.says(`audited: steps \d+ to [1-9]\d* are what the job makes`, limit)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-a.done
	b.says("this host leads the job", limit)
	b.says(`training resumes from step \d+`, limit)
	s.start("ravnest-provider", "--join", urlA, "--join", urlB) // now: it could take node_1's place
	b.says(`audited: steps \d+ to [1-9]\d* are what the job makes`, limit)
	lying.Store(true)
	b.says(`barred: step \d+: node_1 \(cluster 0, stage \d\): the `, limit)
	b.says(`the run goes on without node_1 from the checkpoint of step [1-9]\d*`, limit)
	b.says(`training resumes from step [1-9]\d*, `, limit)
	s.more(dirB, 20)
	for _, bad := range []string{"are not computed again", "nan takes their place"} {
		if out := b.err.String(); strings.Contains(out, bad) {
			t.Errorf("the host says %q:\n%s", bad, out)
		}
	}

	again, _ := s.serve(append(slices.Clone(flags), "--listen", strings.TrimPrefix(urlA, "http://"), dirA)...)
	again.says("standing by: the host at "+urlB+" leads", limit)
	if err := b.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	again.says("this host leads the job", limit)
	again.says(`training resumes from step [1-9]\d*`, limit)
	s.more(dirA, 20)
	if out := again.err.String(); strings.Contains(out, "barred: ") {
		t.Errorf("a provider that is barred trains again:\n%s", out)
	}
	s.ends(again, dirA, "--audit")
	if a := s.audit(dirA, 0); len(a.Faults) != 0 {
		t.Errorf("an audit of what came of it says %+v", a)
	}
}
