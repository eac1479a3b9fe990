// A run that loses a provider or its host ends as if nothing had happened: with the same
// weights and losses, bit for bit.

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/stage"
)

// endlessJob makes a job so long that whatever a test does happens in the middle of training,
// however fast the machine is.
func (s *scene) endlessJob(flags ...string) (dir string) {
	s.Helper()
	dir = filepath.Join(s.TempDir(), "served")
	s.ok("ravnest", append(append([]string{"init", "--epochs", endless}, flags...), dir)...)
	edit(s, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 2`)
	s.ok("ravnest", "clusterize", dir)
	return dir
}

// ends stops a host and checks that it has trained, byte for byte, what one process trains in
// as many steps.
func (s *scene) ends(host *proc, dir string, flags ...string) {
	s.Helper()
	s.endsAs(host, dir, func(local string, steps ...string) {
		s.ok("ravnest", append(append(append([]string{"init", "--epochs", endless}, steps...), flags...), local)...)
	})
}

// endsAs is ends for a job that init makes, and that is trained in one process with flags.
func (s *scene) endsAs(host *proc, dir string, init func(local string, steps ...string), flags ...string) {
	s.Helper()
	host.stops()
	local := filepath.Join(s.TempDir(), "local")
	init(local, "--steps", fmt.Sprint(len(lines(s.T, dir, "losses.txt"))))
	s.ok("ravnest", append(append([]string{"train", "--local"}, flags...), local)...)
	s.ok("ravnest", "fuse", dir)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(s, dir, f), read(s, local, f)) {
			s.Errorf("%s differs from that of one process", f)
		}
	}
	// A run that is stopped within an epoch has not validated its last steps.
	for _, f := range []string{"val_accuracies.txt", "val_losses.txt"} {
		if got, want := read(s, dir, f), read(s, local, f); !bytes.HasPrefix(want, got) || len(got)+16 < len(want) {
			s.Errorf("%s differs from that of one process: %q, want %q", f, got, want)
		}
	}
}

// provide starts providers with these names; "" is a spare provider.
func (s *scene) provide(url string, names ...string) (ps []*proc) {
	s.Helper()
	for _, n := range names {
		args := []string{"--join", url}
		if n != "" {
			args = append(args, "--name", n)
		}
		ps = append(ps, s.start("ravnest-provider", args...))
	}
	return ps
}

// saved waits for a checkpoint and for n more losses, which a failure then loses.
func (s *scene) saved(dir string, n int) {
	s.Helper()
	eventually(s, "a checkpoint", limit, func() bool { return size(dir, "node_data/manifest.json") > 0 })
	s.more(dir, n)
}

// more waits until losses.txt has grown by at least n lines.
func (s *scene) more(dir string, n int) {
	s.Helper()
	was := size(dir, "losses.txt")
	eventually(s, "more losses", limit, func() bool { return size(dir, "losses.txt") >= was+int64(7*n) })
}

// withSpare serves the job in dir to node_0, node_1 and node_2 and, once they train, to a spare.
// Were it there earlier, it might train in the place of the last to come.
func (s *scene) withSpare(dir string) (host *proc, ps []*proc) {
	s.Helper()
	host, url := s.serve(dir)
	ps = s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	s.provide(url, "")
	host.says("node_3 joined", limit)
	return host, ps
}

// TestKilled: a provider is killed in the middle of training, and a spare takes over its stage.
func TestKilled(t *testing.T) {
	posix(t)
	for k, role := range []string{"root", "stem", "leaf"} {
		t.Run(role, func(t *testing.T) {
			s := newScene(t)
			dir := s.endlessJob()
			host, ps := s.withSpare(dir)
			s.saved(dir, 5)
			begin := time.Now()
			if err := ps[k].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			host.says(fmt.Sprintf(`node_%d.*the run goes on from step \d+`, k), limit)
			host.says(`training resumes from step \d+`, limit)
			t.Logf("training resumed %.2f s after the kill", time.Since(begin).Seconds())
			s.more(dir, 20)
			s.ends(host, dir)
		})
	}
}

// TestKilledWithReplicas: a job with several replicas resumes between two rounds.
func TestKilledWithReplicas(t *testing.T) {
	posix(t)
	flags := []string{"--replicas", "3", "--reduce-factor", "3"} // rounds of 9, 9 and 5 batches
	s := newScene(t)
	dir := s.endlessJob(flags...)
	host, ps := s.withSpare(dir)
	s.saved(dir, 5)
	if err := ps[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir, flags...)
}

// TestKilledWithoutSpare: without a spare, a provider with the name of the one that was killed
// takes over its stage.
func TestKilledWithoutSpare(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	host, url := s.serve(dir)
	ps := s.provide(url, "node_0", "node_1", "node_2")
	host.says("training", limit)
	s.saved(dir, 5)
	if err := ps[1].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says("waiting for node_1", limit)
	s.provide(url, "node_1")
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir)
}

// TestFrozen: a provider that falls silent, although its process still exists, is given up.
func TestFrozen(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	host, ps := s.withSpare(dir)
	s.saved(dir, 5)
	begin := time.Now()
	if err := ps[1].cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	host.says(`node_1.*the run goes on from step`, limit)
	t.Logf("noticed %.2f s after the provider froze", time.Since(begin).Seconds())
	host.says(`training resumes from step`, limit)
	if err := ps[1].cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.more(dir, 20)
	s.ends(host, dir)
}

// TestHung: a stage that computes for ever, while its provider answers as ever, is found and replaced
// within seconds.
func TestHung(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	host, url := s.serve(dir)
	hangs, forever := make(chan time.Time, 1), make(chan struct{})
	stop := s.lendSpoilt(url, "node_1", stage.Hooks{Updated: func(step uint64, _ []float32) {
		if step >= 100 {
			select {
			case hangs <- time.Now():
			default: // again, in a later attempt
			}
			<-forever
		}
	}})
	defer stop()
	defer close(forever)
	s.provide(url, "node_0", "node_2")
	host.says("training", limit)
	s.provide(url, "")
	host.says(`node_1.*is stuck: it computes.*the run goes on from step \d+`, limit)
	t.Logf("found %.2f s after it began to hang", time.Since(<-hangs).Seconds())
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir)
}

// TestProviderLeaves: a provider that is interrupted leaves as soon as its state is saved.
func TestProviderLeaves(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := s.endlessJob()
	edit(t, filepath.Join(dir, "job.json"), `"save_every": 2`, `"save_every": 1000`) // so that only its leaving causes a save
	host, ps := s.withSpare(dir)
	s.more(dir, 5)
	ps[2].stops()
	host.says(`node_2 wants to leave`, limit)
	host.says(`the run goes on from step \d+`, limit)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir)
}

// TestHostComesBack: a host that was killed, or stopped by Ctrl-C, resumes the run when it is
// started again.
func TestHostComesBack(t *testing.T) {
	posix(t)
	for _, how := range []string{"killed", "stopped"} {
		t.Run(how, func(t *testing.T) {
			s := newScene(t)
			dir := s.endlessJob()
			address := freePort(t)
			host, url := s.serve("--listen", address, dir)
			s.provide(url, "node_0", "node_1", "node_2")
			s.saved(dir, 5)
			if how == "killed" {
				if err := host.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				<-host.done
			} else {
				host.stops()
			}
			if out, _ := s.ok("ravnest", "status", dir); !regexp.MustCompile(`saved at step \d+ of \d+; ravnest serve resumes from there`).MatchString(out) {
				t.Errorf("status says %q", out)
			}
			host, _ = s.serve("--listen", address, dir)
			host.says(`resuming the run that ended at step \d+`, limit)
			host.says(`training resumes from step \d+`, limit)
			s.more(dir, 20)
			s.ends(host, dir)
		})
	}
}

// TestHeldStates: before anything is saved, the run goes on from what survivors hold in memory,
// with at most some seconds to be done again: a neighbour's copy of the lost stage's state, or
// the state of another cluster.
func TestHeldStates(t *testing.T) {
	posix(t)
	for name, flags := range map[string][]string{
		"copies":   {"--replicas", "1"},
		"clusters": {"--replicas", "2", "--reduce-factor", "4"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			dir := s.endlessJob(flags...)
			edit(t, filepath.Join(dir, "job.json"), `"save_every": 2`, `"save_every": 100000`)
			args := []string{dir}
			if name == "clusters" {
				args = []string{"--providers", "3", "--clusters", "2", dir}
			}
			host, url := s.serve(args...)
			ps := s.provide(url, "node_0", "node_1", "node_2")
			host.says("training", limit)
			time.Sleep(1500 * time.Millisecond) // states are held once a second,
			s.more(dir, 100)                    // or more seldom on a slow machine
			was := len(lines(t, dir, "losses.txt"))
			if size(dir, "node_data/manifest.json") > 0 {
				t.Error("a checkpoint was saved early: the test proves little")
			}
			if err := ps[1].cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			said := host.says(`node_1.*the run goes on from step (\d+)`, limit)
			s.provide(url, "") // earlier it might be a reason to save, and to plan anew
			host.says(`training resumes from step `+said[1], limit)
			if said[1] == "0" {
				t.Errorf("after %d steps the run went on from the start", was)
			}
			t.Logf("killed after about %d steps, the run went on from step %s", was, said[1])
			s.more(dir, 20)
			s.ends(host, dir, flags...)
		})
	}
}

// abandoned is an endless job whose host was killed after some checkpoints at an address that its
// providers come back to.
func (s *scene) abandoned() (dir, address string) {
	s.Helper()
	dir, address = s.endlessJob(), freePort(s.T)
	host, url := s.serve("--listen", address, dir)
	s.provide(url, "node_0", "node_1", "node_2")
	s.saved(dir, 5)
	if err := host.cmd.Process.Kill(); err != nil {
		s.Fatal(err)
	}
	<-host.done
	return dir, address
}

// TestDamagedStore: a disk has lost parts of files in the store of a host that was killed. What
// can be told from other files is; a damaged part of the checkpoint is named, and nothing is
// thrown away.
func TestDamagedStore(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir, address := s.abandoned()
	tear := func(glob string) (path string, whole []byte) {
		t.Helper()
		all, err := filepath.Glob(filepath.Join(dir, "node_data/store", glob))
		if err != nil || len(all) == 0 {
			t.Fatalf("%s: %v, %v", glob, all, err)
		}
		whole = read(t, all[0])
		if err := os.WriteFile(all[0], whole[:len(whole)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		return all[0], whole
	}
	var m struct {
		Parts []struct{ Object string }
	}
	// The store's manifest: the host may have been killed before it wrote the copy beside the job.
	all, err := filepath.Glob(filepath.Join(dir, "node_data/store/*/manifest.json"))
	if err != nil || len(all) != 1 {
		t.Fatalf("manifests %v, %v", all, err)
	}
	if err := json.Unmarshal(read(t, all[0]), &m); err != nil {
		t.Fatal(err)
	}
	part, whole := tear(m.Parts[1].Object)
	s.bad([]string{`the checkpoint of step \d+: ` + regexp.QuoteMeta(m.Parts[1].Object), "not what was saved", "--fresh"}, "ravnest", "serve", "--listen", address, dir)
	if err := os.WriteFile(part, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	tear("*/state.json")
	tear("*/manifest.json")
	host, _ := s.serve("--listen", address, dir)
	host.says(`warning: .*its copy node_data/manifest.json is used`, limit)
	host.says(`resuming the run that ended at step \d+`, limit)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	s.ends(host, dir)
}
