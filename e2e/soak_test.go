// Real providers that come and go: killed, frozen, saying goodbye and joining, at random. The run
// must end with the bytes of one process, and soon make up for what it loses.

package e2e

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soak is what a soak is like. The flags are those of make soak's ARGS.
type soak struct {
	providers, clusters, replicas int
	quiet, time, every            time.Duration
	seed                          uint64
	least                         float64 // throughput, of the quiet run's
}

// soakFlags are those of RAVNEST_SOAK; without it the soak is short enough for every test run.
func soakFlags(t *testing.T) soak {
	s := soak{providers: 5, clusters: 2, replicas: 4, quiet: 2 * time.Second, time: 15 * time.Second, every: 4 * time.Second, seed: 1}
	args, set := os.LookupEnv("RAVNEST_SOAK")
	if set {
		s = soak{providers: 6, clusters: 2, replicas: 4, quiet: 2 * time.Minute, time: time.Hour, every: 20 * time.Second, seed: uint64(time.Now().UnixNano()), least: 0.85}
	}
	f := flag.NewFlagSet("soak", flag.ContinueOnError)
	f.IntVar(&s.providers, "providers", s.providers, "providers that train")
	f.IntVar(&s.clusters, "clusters", s.clusters, "clusters that they form at first")
	f.IntVar(&s.replicas, "replicas", s.replicas, "replicas of the job")
	f.DurationVar(&s.quiet, "quiet", s.quiet, "how long nobody comes or goes at first")
	f.DurationVar(&s.time, "time", s.time, "how long providers come and go")
	f.DurationVar(&s.every, "every", s.every, "time between two losses or joins")
	f.Uint64Var(&s.seed, "seed", s.seed, "of what happens to whom")
	f.Float64Var(&s.least, "least", s.least, "least throughput, as a fraction of the quiet run's")
	if err := f.Parse(strings.Fields(args)); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestSoak trains while providers are lost and join. make soak makes it an hour.
func TestSoak(t *testing.T) {
	posix(t)
	k := soakFlags(t)
	s := newScene(t)
	flags := []string{"--replicas", strconv.Itoa(k.replicas), "--reduce-factor", "4"}
	dir := filepath.Join(t.TempDir(), "served")
	s.ok("ravnest", append(append([]string{"init", "--epochs", endless}, flags...), dir)...)
	edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 100000`)
	host, url := s.serve("--providers", strconv.Itoa(k.providers), "--clusters", strconv.Itoa(k.clusters), dir)
	w := &crowd{s: s, url: url, rng: rand.New(rand.NewPCG(k.seed, 9)), least: k.providers}
	for range k.providers + 1 {
		w.join()
	}
	host.says("training", limit)
	s.more(dir, 20)
	before, began := steps(t, dir), time.Now()
	time.Sleep(k.quiet)
	quiet := float64(steps(t, dir)-before) / time.Since(began).Seconds()

	before, began = steps(t, dir), time.Now()
	for next := k.every / 2; next < k.time; next += k.every {
		time.Sleep(time.Until(began.Add(next)))
		w.turn()
		if t.Failed() {
			return
		}
	}
	time.Sleep(time.Until(began.Add(k.time)))
	trained := steps(t, dir) - before
	churn := float64(trained) / time.Since(began).Seconds()
	w.wake()

	out := host.err.String()
	after := numbers(out, `training resumes from step \d+, ([0-9.]+) s after the loss`)
	again := numbers(out, `; (\d+) steps are repeated`)
	t.Logf("seed %d: %s", k.seed, strings.Join(w.did, ", "))
	t.Logf("quiet %.1f steps/s, with %d losses %.1f steps/s (%.0f %%); training again after a median of %.1f s, at most %.1f; %.0f steps done again, at most %.0f at once",
		quiet, w.losses, churn, 100*churn/quiet, median(after), largest(after), sum(again), largest(again))
	if trained == 0 || churn < k.least*quiet {
		t.Errorf("%.1f steps/s while providers come and go, %.1f before", churn, quiet)
	}
	if w.losses > 0 && len(after) == 0 {
		t.Errorf("%d providers were lost, and nothing went on after a loss", w.losses)
	}
	s.more(dir, 10) // it still trains

	host.stops()
	local := filepath.Join(t.TempDir(), "local")
	s.ok("ravnest", append(append([]string{"init", "--epochs", endless, "--steps", strconv.Itoa(steps(t, dir))}, flags...), local)...)
	if one := s.start("ravnest", "train", "--local", local); one.wait(limit+k.time) != 0 {
		t.Fatal("one process did not train the same")
	}
	s.ok("ravnest", "fuse", dir)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(s, dir, f), read(s, local, f)) {
			t.Errorf("%s differs from that of one process", f)
		}
	}
}

// steps is the number of steps whose losses are known.
func steps(t testing.TB, dir string) int {
	return bytes.Count(read(t, dir, "losses.txt"), []byte("\n"))
}

// crowd is the providers of a soak.
type crowd struct {
	s      *scene
	url    string
	rng    *rand.Rand
	least  int // that shall be there
	here   []*proc
	frozen []*proc
	losses int
	did    []string
}

func (w *crowd) join() {
	w.here = append(w.here, w.s.provide(w.url, "")...)
}

// turn is a loss or a join. Where too few are left, another joins too.
func (w *crowd) turn() {
	w.wake()
	w.here = slices.DeleteFunc(w.here, func(p *proc) bool {
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	if len(w.here) <= w.least+2 && w.rng.IntN(3) == 0 {
		w.did = append(w.did, "join")
		w.join()
		return
	}
	defer func() {
		if len(w.here) <= w.least {
			w.join()
		}
	}()
	i := w.rng.IntN(len(w.here))
	for range w.here { // one that has a stage, not a spare: those lose nobody anything
		if strings.Contains(w.here[i].err.String(), "training stage") {
			break
		}
		i = (i + 1) % len(w.here)
	}
	p := w.here[i]
	w.losses++
	switch w.rng.IntN(3) {
	case 0:
		w.did = append(w.did, "kill")
		w.signal(p, syscall.SIGKILL)
		w.here = slices.Delete(w.here, i, i+1)
	case 1: // until the next turn: by then it has been given up
		w.did = append(w.did, "freeze")
		w.signal(p, syscall.SIGSTOP)
		w.frozen = append(w.frozen, p)
	default:
		w.did = append(w.did, "goodbye")
		p.interrupt()
		w.here = slices.Delete(w.here, i, i+1)
	}
}

// wake lets frozen providers go on, which then join again.
func (w *crowd) wake() {
	for _, p := range w.frozen {
		w.signal(p, syscall.SIGCONT)
	}
	w.frozen = nil
}

func (w *crowd) signal(p *proc, sig syscall.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil {
		w.s.Errorf("%v: %v", sig, err)
	}
}

// numbers are those that a pattern's group matches.
func numbers(text, pattern string) (all []float64) {
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		if v, err := strconv.ParseFloat(m[1], 64); err == nil {
			all = append(all, v)
		}
	}
	return all
}

func sum(v []float64) (total float64) {
	for _, x := range v {
		total += x
	}
	return total
}

func largest(v []float64) (most float64) {
	for _, x := range v {
		most = max(most, x)
	}
	return most
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
