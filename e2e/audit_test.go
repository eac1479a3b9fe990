package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider/lend"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/native"
)

// audited is what ravnest audit --json says.
type audited struct {
	From        uint64 `json:"from_step"`
	To          uint64 `json:"to_step"`
	Checkpoints int    `json:"checkpoints"`
	Updates     int    `json:"updates"`
	Unrecorded  int    `json:"unrecorded"`
	Faults      []struct {
		Step     uint64  `json:"step"`
		Round    *uint64 `json:"round"`
		Replica  *int    `json:"replica"`
		Cluster  int     `json:"cluster"`
		Stage    int     `json:"stage"`
		Provider string  `json:"provider"`
		Or       string  `json:"or"`
	} `json:"faults"`
}

func (s *scene) audit(dir string, want int, args ...string) (a audited) {
	s.Helper()
	p := s.start("ravnest", append([]string{"audit", "--json"}, append(args, dir)...)...)
	if code := p.wait(limit); code != want {
		s.Fatalf("the audit ended with code %d, want %d: %s", code, want, p.err.String())
	}
	if err := json.Unmarshal([]byte(p.out.String()), &a); err != nil {
		s.Fatalf("%v: %s", err, p.out.String())
	}
	return a
}

// flipping is a hook that flips one bit of a parameter, once, at step at or behind it.
func flipping(at uint64) func(step uint64, params []float32) {
	flipped := false
	return func(step uint64, params []float32) {
		if step >= at && !flipped {
			flipped = true
			flip(params)
		}
	}
}

// flip changes one bit of a parameter. One of zero would be lost in the next sum.
func flip(params []float32) {
	i := len(params) / 2
	for params[i] == 0 {
		i++
	}
	params[i] = math.Float32frombits(math.Float32bits(params[i]) ^ 1<<20)
}

// lendSpoilt lends this process as a provider whose numbers are spoilt by hooks, to a host that may be
// followed by others. stop ends it.
func (s *scene) lendSpoilt(url, name string, spoil stage.Hooks, others ...string) (stop func()) {
	s.Helper()
	id, err := native.OpenIdentity(filepath.Join(s.TempDir(), "spoilt.pem"))
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	team := kernel.NewTeam(1)
	began := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = lend.Lend(ctx, lend.Config{
			Host: url, Hosts: others, Name: name, Agent: "spoilt", Platform: runtime.GOOS + "/" + runtime.GOARCH, Team: team, RAM: 1 << 30, Identity: id,
			Loopback: native.Loopback(url), Machine: native.Network(), Rules: machine.Rules{Once: true, Wait: -1},
			Now: func() time.Duration { return time.Since(began) }, Hooks: spoil,
		})
	})
	return func() {
		cancel()
		wg.Wait()
		team.Close()
	}
}

// TestAudit: a provider that flips one bit of one parameter behind one update is named, in
// every role, and nobody else is.
func TestAudit(t *testing.T) {
	posix(t)
	for who, role := range []string{"root", "stem", "leaf"} {
		t.Run(role, func(t *testing.T) {
			s := newScene(t)
			dir := filepath.Join(t.TempDir(), "job")
			s.ok("ravnest", "init", "--epochs", "6", "--audit", dir)
			edit(s, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 1`)
			s.ok("ravnest", "clusterize", dir)
			host, url := s.serve(dir)
			const at = 40
			stop := s.lendSpoilt(url, fmt.Sprintf("node_%d", who), stage.Hooks{Updated: flipping(at)})
			defer stop()
			for k := range 3 {
				if k != who {
					s.provide(url, fmt.Sprintf("node_%d", k))
				}
			}
			if code := host.wait(limit); code != 0 {
				t.Fatalf("the run ended with code %d", code)
			}
			a := s.audit(dir, 1, "--all")
			if len(a.Faults) != 1 || a.Faults[0].Stage != who || a.Faults[0].Or != "" || a.Unrecorded != 0 {
				t.Fatalf("the audit says %+v", a)
			}
			if f := a.Faults[0]; f.Provider != fmt.Sprintf("node_%d", who) || f.Step < at || f.Step > 51 { // before the next checkpoint
				t.Errorf("blamed is %+v", f)
			}
			// What came from the newest checkpoint but one is in itself right.
			if a := s.audit(dir, 0); a.From == 0 || a.Checkpoints != 1 || a.Updates == 0 || len(a.Faults) != 0 {
				t.Errorf("the last stretch: %+v", a)
			}
		})
	}
}

// TestAuditClusters: a provider of one of two clusters that flips one bit of a parameter behind an
// update, of a sum that it sends to the other cluster, or of what an average has made, is named
// with its cluster, and nobody else is.
func TestAuditClusters(t *testing.T) {
	posix(t)
	const at = 40 // or behind it
	inRound := func(round uint64, _ int, sums []int64) bool { return round >= 5 && len(sums) > 0 }
	for name, c := range map[string]struct {
		average string
		who     int
		replica bool // it is about one
		spoil   func() stage.Hooks
	}{
		"update": {"average", 3, true, func() stage.Hooks { return stage.Hooks{Updated: flipping(at)} }},
		"mean":   {"keep", 0, true, func() stage.Hooks { return stage.Hooks{Averaged: flipping(at)} }},
		"first sum": {"average", 1, false, func() stage.Hooks {
			done := false
			return stage.Hooks{Summed: func(round uint64, step int, sums []int64) {
				if inRound(round, step, sums) && step == 0 && !done {
					done = true
					sums[len(sums)/2] ^= 1
				}
			}}
		}},
		"last sum": {"keep", 2, false, func() stage.Hooks {
			done := false
			return stage.Hooks{Summed: func(round uint64, step int, sums []int64) {
				if inRound(round, step, sums) && step == 1 && !done {
					done = true
					sums[0] ^= 1
				}
			}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			dir := filepath.Join(t.TempDir(), "job")
			s.ok("ravnest", "init", "--epochs", "6", "--replicas", "3", "--reduce-factor", "2", "--audit", dir)
			edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 1`)
			edit(t, filepath.Join(dir, "job.json"), `"replicas": 3`, `"replicas": 3, "average": {"optimizer": "`+c.average+`"}`)
			host, url := s.serve("--providers", "4", "--clusters", "2", dir)
			liar := fmt.Sprintf("node_%d", c.who)
			defer s.lendSpoilt(url, liar, c.spoil())()
			for k := range 4 {
				if k != c.who {
					s.provide(url, fmt.Sprintf("node_%d", k))
				}
			}
			if code := host.wait(limit); code != 0 {
				t.Fatalf("the run ended with code %d", code)
			}
			a := s.audit(dir, 1, "--all")
			if len(a.Faults) != 1 || a.Faults[0].Provider != liar || a.Faults[0].Or != "" || a.Unrecorded != 0 {
				t.Fatalf("the audit says %+v", a)
			}
			if f := a.Faults[0]; f.Step < 30 || f.Step > 67 || f.Round == nil || (f.Replica != nil) != c.replica {
				t.Errorf("blamed is %+v", f)
			}
			if a := s.audit(dir, 0); a.From == 0 || a.Checkpoints != 1 || a.Updates == 0 || len(a.Faults) != 0 {
				t.Errorf("the last stretch: %+v", a)
			}
			s.singleRounds(dir, *a.Faults[0].Round)
		})
	}
}

// singleRounds checks audits up to a round, in which one provider of two clusters, which share
// three replicas, was wrong for the first time.
func (s *scene) singleRounds(dir string, bad uint64) {
	s.Helper()
	round := func(r uint64) string { return fmt.Sprint(r) }
	if a := s.audit(dir, 0, "--round", round(bad-1)); a.From != 0 || a.Updates == 0 || len(a.Faults) != 0 {
		s.Errorf("the round before: %+v", a)
	}
	before := s.audit(dir, 0, "--all", "--units", round(3*bad))
	if after := s.audit(dir, 1, "--all", "--units", round(3*bad+1)); len(after.Faults) != 1 || after.To <= before.To {
		s.Errorf("one unit more: %+v behind %+v", after, before)
	}
	faulty := 0
	for k := range 3 {
		p := s.start("ravnest", "audit", "--round", round(bad), "--replica", fmt.Sprint(k), dir)
		faulty += p.wait(limit)
	}
	if faulty != 1 && faulty != 2 {
		s.Errorf("of the replicas of that round %d were wrong, which both clusters cannot share", faulty)
	}
	s.bad([]string{"--units 0"}, "ravnest", "audit", "--units", "0", dir)
	s.bad([]string{"--replica 1"}, "ravnest", "audit", "--replica", "1", dir)
	s.bad([]string{"is not over"}, "ravnest", "audit", "--round", "100000", dir)
}

// TestAuditEvery: a host that audits its own run says so. It names a provider that computes something
// else, bars it and bans its key, goes back to where all was right, and ends with the bytes of one
// process.
func TestAuditEvery(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir, local := filepath.Join(t.TempDir(), "job"), filepath.Join(t.TempDir(), "local")
	for _, d := range []string{dir, local} {
		s.ok("ravnest", "init", "--epochs", "30", "--replicas", "2", "--reduce-factor", "2", "--audit", d)
		edit(t, filepath.Join(d, "job.json"), `"save_every": 10`, `"save_every": 3`)
	}
	host, url := s.serve("--providers", "4", "--clusters", "2", "--audit-every", "1", dir)
	defer s.lendSpoilt(url, "node_2", stage.Hooks{Updated: func(step uint64, params []float32) {
		if step >= 170 {
			flip(params)
		}
	}})()
	s.provide(url, "node_0", "node_1", "node_3")
	host.says("training", limit)
	s.provide(url, "")
	host.says(`audited: steps 0 to [1-9]\d* are what the job makes`, limit)
	host.says(`barred: step \d+, round \d+, replica \d: node_2 \(cluster \d, stage \d\): the `, limit)
	host.says(`the run goes on without node_2 from the checkpoint of step [1-9]\d*: steps [1-9]\d* to \d+ are trained again`, limit)
	if code := host.wait(limit); code != 0 {
		t.Fatalf("the host ends with code %d", code)
	}
	s.ok("ravnest", "train", "--local", local)
	s.ok("ravnest", "fuse", dir)
	s.same("a run with a liar", dir, local)
	if out, _ := s.ok("ravnest", "members", dir); !regexp.MustCompile(`banned.*node_2|node_2.*banned`).MatchString(out) {
		t.Errorf("the list of members does not show the ban:\n%s", out)
	}
	if a := s.audit(dir, 0, "--all"); len(a.Faults) != 0 || a.From != 0 {
		t.Errorf("an audit of what came of it says %+v", a)
	}
	dir = filepath.Join(t.TempDir(), "other")
	s.ok("ravnest", "init", dir)
	s.bad([]string{"--audit-every 2", "init --audit"}, "ravnest", "serve", "--audit-every", "2", dir)
}

// TestAuditDoubt: a provider says that it got something else than its neighbour has sent. The two have no
// link any more, and only one of them trains on; whoever is in doubt with a second one is barred. The run
// ends with the bytes of one process, and nobody honest is barred.
func TestAuditDoubt(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--audit")
	host, url := s.serve("--audit-every", "1", dir)
	defer s.lendSpoilt(url, "node_1", stage.Hooks{Said: func(d *stage.Digest) {
		if d.Step >= 150 {
			d.In[stage.Activations][0]++
		}
	}})()
	ps := s.provide(url, "node_0", "node_2")
	host.says("training", limit)
	ps = append(ps, s.provide(url, "")...)
	host.says(`in doubt: step \d+: node_1 \(cluster 0, stage 1\) or node_0: the activations that it received are not those`, limit)
	host.says(`the run goes on without a link between node_1 and node_0 from the checkpoint of step \d+`, limit)
	host.says(`no link may be between node_1 and node_\d.*: node_1 to spare`, limit) // the others have one key
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 60)
	out := host.err.String()
	if bad := regexp.MustCompile(`barred: node_[^1]`).FindString(out); bad != "" {
		t.Errorf("the host says %q:\n%s", bad, out)
	}
	for _, p := range ps {
		select {
		case <-p.done:
			t.Errorf("an honest provider has ended:\n%s", p.err.String())
		default:
		}
	}
	if out, _ := s.ok("ravnest", "members", dir); strings.Contains(out, "banned") {
		t.Errorf("somebody is banned without proof:\n%s", out)
	}
	s.ends(host, dir, "--audit")
}

// TestAuditNaN: one provider's NaN does not end a run that audits itself: it is barred, and the run ends
// with the bytes of one process.
func TestAuditNaN(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--audit")
	host, url := s.serve("--audit-every", "1", dir)
	defer s.lendSpoilt(url, "node_1", stage.Hooks{Updated: func(step uint64, params []float32) {
		if step >= 150 {
			params[0] = float32(math.NaN())
		}
	}})()
	s.provide(url, "node_0", "node_2")
	host.says("training", limit)
	s.provide(url, "")
	host.says(`the training diverged: .*computed again to find out whether that is so`, limit)
	host.says(`barred: node_1 says that it came to a number that is not finite from what it got, which is right`, limit)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 60)
	s.ends(host, dir, "--audit")
}

// TestAuditHuge: a provider sends numbers that are finite, and so large that an honest one overflows,
// before there is any checkpoint. It is named though no update is complete that shows it, and nobody else.
func TestAuditHuge(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--audit")
	edit(t, filepath.Join(dir, "job.json"), `"save_every": 2`, `"save_every": 0`)
	host, url := s.serve("--audit-every", "1", dir)
	defer s.lendSpoilt(url, "node_0", stage.Hooks{Sent: func(step uint64, x []float32) {
		for i := range x {
			if step >= 20 {
				x[i] = math.MaxFloat32
			}
		}
	}})()
	s.provide(url, "node_1", "node_2")
	host.says(`barred: step 2\d: node_0 \(cluster 0, stage 0\): the activations that it sent are not what the job makes`, limit)
	host.says(`the run goes on without node_0 from the start`, limit)
	s.provide(url, "")
	s.more(dir, 60)
	if bad := regexp.MustCompile(`barred: .*node_[12] .*|failed 3 times`).FindString(host.err.String()); bad != "" {
		t.Errorf("the host says %q", bad)
	}
	s.ends(host, dir, "--audit")
}

// TestAuditHonest: an honest run, with a loss in the middle, is what the job makes, from its
// start to its end, and so is one that did not ask for audits.
func TestAuditHonest(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--audit")
	host, ps := s.withSpare(dir)
	s.saved(dir, 5)
	if err := ps[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir, "--audit")
	a := s.audit(dir, 0, "--all")
	if a.From != 0 || a.Checkpoints < 2 || a.Unrecorded != 0 || a.Updates < 3*int(a.To) {
		t.Errorf("the audit says %+v", a)
	}
	if a := s.audit(dir, 0); a.From == 0 || a.Unrecorded != 0 {
		t.Errorf("the last stretch: %+v", a)
	}

	plain := filepath.Join(t.TempDir(), "plain")
	s.ok("ravnest", "demo", "--dir", plain, "--epochs", "2")
	if a := s.audit(plain, 0); a.Checkpoints != 1 || a.Updates != 0 {
		t.Errorf("without records: %+v", a)
	}
}

// TestAuditHonestClusters: an honest run of two clusters is what the job makes, through a loss and
// whoever brings the states from memory, and so is one that did not ask for audits.
func TestAuditHonestClusters(t *testing.T) {
	posix(t)
	for _, average := range []string{"average", "keep"} {
		t.Run(average, func(t *testing.T) {
			s := newScene(t)
			job := func(dir string, flags ...string) {
				s.ok("ravnest", append(append([]string{"init", "--epochs", endless, "--replicas", "3", "--reduce-factor", "3", "--audit"}, flags...), dir)...)
				edit(t, filepath.Join(dir, "job.json"), `"replicas": 3`, `"replicas": 3, "average": {"optimizer": "`+average+`"}`)
			}
			dir := filepath.Join(t.TempDir(), "served")
			job(dir)
			edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 2`)
			host, url := s.serve("--providers", "4", "--clusters", "2", dir)
			ps := s.provide(url, "node_0", "node_1", "node_2", "node_3")
			host.says("training", limit)
			s.provide(url, "")
			host.says("node_4 joined", limit)
			s.saved(dir, 5)
			if err := ps[0].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			host.says(`training resumes from step \d+`, limit)
			s.more(dir, 20)
			s.endsAs(host, dir, job)
			a := s.audit(dir, 0, "--all")
			if a.From != 0 || a.Checkpoints < 2 || a.Updates < 4*int(a.To)/3 {
				t.Errorf("the audit says %+v", a)
			}
			if a := s.audit(dir, 0); a.From == 0 {
				t.Errorf("the last stretch: %+v", a)
			}
		})
	}
	s := newScene(t)
	plain := filepath.Join(t.TempDir(), "plain")
	s.ok("ravnest", "init", "--replicas", "2", "--reduce-factor", "2", "--epochs", "2", plain)
	s.ok("ravnest", "demo", "--providers", "4", "--clusters", "2", "--dir", plain)
	if a := s.audit(plain, 0); a.Checkpoints != 1 || a.Updates != 0 {
		t.Errorf("without records: %+v", a)
	}
}

// TestAuditLogIsKept: what audits compare does not grow with the run, also where the host is killed and
// started again; the newest stretch can be audited, and who asks for what is not kept is told.
func TestAuditLogIsKept(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--epochs", "60", "--audit", dir)
	edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 1`)
	edit(t, filepath.Join(dir, "job.json"), `"batch_size": 64`, `"batch_size": 4`)
	address := freePort(t)
	flags := []string{"--providers", "2", "--clusters", "1", "--audit-log", "1", "--listen", address, dir}
	host, url := s.serve(flags...)
	s.provide(url, "node_0", "node_1")
	s.saved(dir, 800)
	if err := host.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-host.done
	host, _ = s.serve(flags...)
	host.says(`resuming the run that ended at step [1-9]\d*`, limit)
	if code := host.wait(2 * limit); code != 0 {
		t.Fatalf("the host ends with code %d", code)
	}
	var size int64
	segments, err := filepath.Glob(filepath.Join(dir, "node_data/store/*/audit/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range segments {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if len(segments) < 3 || size < 900<<10 || size > 3<<20 {
		t.Errorf("%d segments with %d bytes are kept", len(segments), size)
	}
	if a := s.audit(dir, 0); a.From == 0 || a.Updates == 0 || a.Unrecorded != 0 {
		t.Errorf("the last stretch: %+v", a)
	}
	s.bad([]string{`the audit log tells of steps from [1-9]\d* on, and this audit begins with step 0`, "--audit-log"}, "ravnest", "audit", "--all", dir)
	for _, f := range segments { // one may be of the host that was killed, and is in no list
		if err := os.WriteFile(f, []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.bad([]string{"the audit log, .*it is not what was stored there"}, "ravnest", "audit", "--all", dir)
}

// somebody lends under a key of its own: those of provide have one in common.
func (s *scene) somebody(url, name string) *proc {
	s.Helper()
	args := []string{"--join", url, "--identity", filepath.Join(s.TempDir(), "identity.pem")}
	if name != "" {
		args = append(args, "--name", name)
	}
	return s.start("ravnest-provider", args...)
}

// TestAuditBySpares: providers that wait compute again what others train. They find a liar, which is
// barred, and nobody else. The run ends with the bytes of one process.
func TestAuditBySpares(t *testing.T) {
	posix(t)
	for name, c := range map[string]struct {
		flags, serve []string
		train        int
	}{
		"one cluster": {serve: []string{"--providers", "3", "--clusters", "1"}, train: 3},
		"two clusters": {
			flags: []string{"--replicas", "2", "--reduce-factor", "2"}, serve: []string{"--providers", "4", "--clusters", "2"}, train: 4,
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			flags := append([]string{"--audit"}, c.flags...)
			dir := filepath.Join(t.TempDir(), "job")
			s.ok("ravnest", append(append([]string{"init", "--epochs", endless}, flags...), dir)...)
			edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 3`)
			host, url := s.serve(append(c.serve, "--audit-every", "1", "--audit-by", "spares", dir)...)
			var lying atomic.Bool
			defer s.lendSpoilt(url, "node_1", stage.Hooks{Updated: func(_ uint64, params []float32) {
				if lying.Load() {
					flip(params)
				}
			}})()
			for k := range c.train {
				if k != 1 {
					s.provide(url, fmt.Sprintf("node_%d", k))
				}
			}
			host.says("training", limit)
			spares := []*proc{s.somebody(url, "spare_a"), s.somebody(url, "spare_b")}
			// The host itself audits the first ones, before a spare has joined.
			host.says(`audited: steps \d+ to \d+ are what the job makes, as spare_[ab] has computed`, limit)
			lying.Store(true)
			host.says(`spare_[ab] has computed steps \d+ to \d+ again, and something else comes of them`, limit)
			host.says(`barred: step \d+.*: node_1 \(cluster \d, stage \d\): the `, limit)
			host.says(`the run goes on without node_1 from `, limit)
			s.more(dir, 60)
			for _, p := range spares {
				if bad := regexp.MustCompile(`could not be computed again.*`).FindString(p.err.String()); bad != "" {
					t.Errorf("a spare says %q", bad)
				}
			}
			s.ends(host, dir, flags...)
			if bad := regexp.MustCompile(`barred: .*(spare_|node_[^1] )`).FindString(host.err.String()); bad != "" {
				t.Errorf("the host says %q", bad)
			}
		})
	}
}

// TestLyingSpare: a spare that says something else comes of what is right is barred, whoever computes
// goes on, and nothing is trained again.
func TestLyingSpare(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob("--audit")
	host, url := s.serve("--audit-every", "1", "--audit-by", "spares", dir)
	s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	defer s.lendSpoilt(url, "", stage.Hooks{Updated: func(step uint64, params []float32) { flip(params) }})()
	host.says(`node_3 has computed steps \d+ to \d+ again, and something else comes of them`, limit)
	host.says(`barred: what node_3 says that comes of steps \d+ to \d+ is not what the job makes of them`, limit)
	p := s.somebody(url, "")
	host.says(`are what the job makes, as node_\d has computed`, limit)
	if err := p.cmd.Process.Kill(); err != nil { // maybe while it computes
		t.Fatal(err)
	}
	s.more(dir, 60)
	if bad := regexp.MustCompile(`the run goes on|trained again`).FindString(host.err.String()); bad != "" {
		t.Errorf("the host says %q:\n%s", bad, host.err.String())
	}
	s.ends(host, dir, "--audit")
}
