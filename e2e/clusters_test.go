// Several clusters train one job: the losses and the trained weights are those of one process
// with the same replicas, whoever trained which.

package e2e

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clusterSummary is what --json says about clusters.
type clusterSummary struct {
	summary
	Replicas int   `json:"replicas"`
	Rounds   int64 `json:"rounds"`
	Clusters []struct {
		Providers    []string `json:"providers"`
		Replicas     []int    `json:"replicas"`
		Units        int64    `json:"units"`
		Samples      int64    `json:"samples"`
		AverageBytes int64    `json:"average_bytes"`
	} `json:"clusters"`
	Forecast float64 `json:"forecast_samples_per_s"`
}

// same compares the results of a run with those of one process.
func (s *scene) same(what, dir, local string) {
	s.Helper()
	for _, f := range []string{"losses.txt", "val_accuracies.txt", "val_losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(s, dir, f), read(s, local, f)) {
			s.Errorf("%s: %s differs from that of one process", what, f)
		}
	}
}

// TestClusters: several numbers and sizes of clusters, with nested cuts and others, and every
// kind of average. The stages of any cluster fuse to the same weights.
func TestClusters(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	for name, c := range map[string]struct {
		init   []string
		edit   string // of "replicas": N
		pools  [][2]int
		rounds int64
		units  int64
	}{
		// An epoch has 17 batches: rounds of 8, 8 and 1, the last of which a single replica trains.
		"parameters": {[]string{"--replicas", "4", "--reduce-factor", "2", "--epochs", "2"}, "", [][2]int{{6, 2}, {5, 2}, {6, 3}, {4, 4}}, 6, 18},
		"keep":       {[]string{"--replicas", "3", "--reduce-factor", "4", "--epochs", "2"}, `, "average": {"optimizer": "keep", "outer": {"name": "nesterov"}}`, [][2]int{{5, 2}}, 4, 12},
		"gradients":  {[]string{"--replicas", "4", "--epochs", "1"}, `, "average": {"of": "gradients"}`, [][2]int{{4, 2}}, 17, 68},
		// Epochs of 9 batches, of which the run does not validate the first ones: rounds run on through them.
		"few bits": {[]string{"--example", "gpt-sorter", "--replicas", "2", "--reduce-factor", "4", "--steps", "24"}, `, "average": {"bits": 8}`, [][2]int{{4, 2}}, 3, 6},
	} {
		job := func(dir string) {
			s.ok("ravnest", append(append([]string{"init"}, c.init...), dir)...)
			if c.edit != "" {
				n := "1"
				for i, a := range c.init {
					if a == "--replicas" {
						n = c.init[i+1]
					}
				}
				edit(t, filepath.Join(dir, "job.json"), `"replicas": `+n, `"replicas": `+n+c.edit)
			}
		}
		local := filepath.Join(tmp, name)
		job(local)
		s.ok("ravnest", "train", "--local", local)
		for _, pool := range c.pools {
			what := fmt.Sprintf("%s, %d providers in %d clusters", name, pool[0], pool[1])
			dir := filepath.Join(tmp, fmt.Sprintf("%s-%d-%d", strings.ReplaceAll(name, " ", "-"), pool[0], pool[1]))
			job(dir)
			out, _ := s.ok("ravnest", "demo", "--json", "--providers", fmt.Sprint(pool[0]), "--clusters", fmt.Sprint(pool[1]), "--dir", dir)
			sum := parse[clusterSummary](t, out)
			s.same(what, dir, local)
			want := read(t, dir, "trained/trained_state_dict.safetensors")
			providers, units, samples := 0, int64(0), int64(0)
			for k, cl := range sum.Clusters {
				providers, units, samples = providers+len(cl.Providers), units+cl.Units, samples+cl.Samples
				if cl.AverageBytes == 0 {
					t.Errorf("%s: cluster %d reports no traffic for averages", what, k)
				}
				s.ok("ravnest", "fuse", "--cluster", fmt.Sprint(k), dir)
				if !bytes.Equal(read(t, dir, "trained/trained_state_dict.safetensors"), want) {
					t.Errorf("%s: the weights of cluster %d differ from those of cluster 0", what, k)
				}
			}
			if len(sum.Clusters) != pool[1] || providers != pool[0] || sum.Providers != pool[0] || samples != sum.Samples || sum.Rounds != c.rounds || units != c.units {
				t.Errorf("%s: %d rounds, %d units, %d samples of %d: %+v", what, sum.Rounds, units, samples, sum.Samples, sum.Clusters)
			}
			if sum.Forecast <= 0 {
				t.Errorf("%s: no forecast", what)
			}
		}
	}
}

// TestClustersLoseProviders: a provider is lost in each cluster in turn; first one to spare
// takes its place, then the run goes on with those that are left, in other clusters. Where
// replicas keep their optimizers, each cluster's stages are part of a checkpoint.
func TestClustersLoseProviders(t *testing.T) {
	posix(t)
	for _, average := range []string{"average", "keep"} {
		t.Run(average, func(t *testing.T) {
			t.Parallel() // most of the time nothing happens, but that those who are lost do not return
			s := newScene(t)
			job := func(dir string, flags ...string) {
				s.ok("ravnest", append(append([]string{"init", "--epochs", endless, "--replicas", "3", "--reduce-factor", "3"}, flags...), dir)...)
				edit(t, filepath.Join(dir, "job.json"), `"replicas": 3`, `"replicas": 3, "average": {"optimizer": "`+average+`"}`)
			}
			dir := filepath.Join(t.TempDir(), "served")
			job(dir)
			edit(t, filepath.Join(dir, "job.json"), `"save_every": 10`, `"save_every": 2`)
			host, url := s.serve("--providers", "4", "--clusters", "2", dir)
			ps := s.provide(url, "node_0", "node_1", "node_2", "node_3")
			host.says("cluster 1: trains replicas", limit)
			host.says("training", limit)
			s.provide(url, "")
			host.says("node_4 joined", limit)
			s.saved(dir, 5)
			for _, k := range []int{3, 0} { // of the second cluster, of the first
				if err := ps[k].cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				host.says(fmt.Sprintf(`node_%d.*the run goes on from step \d+`, k), limit)
				host.says(`training resumes from step \d+`, limit)
				s.more(dir, 20)
			}
			s.endsAs(host, dir, job)
		})
	}
}

// TestClustersStopAndGoOn: Ctrl-C stops all clusters after the same round, and the run resumes
// with another number of clusters.
func TestClustersStopAndGoOn(t *testing.T) {
	posix(t)
	flags := []string{"--replicas", "3", "--reduce-factor", "2"}
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "served")
	s.ok("ravnest", append(append([]string{"init", "--epochs", endless}, flags...), dir)...)
	for _, clusters := range []string{"2", "3", "1"} {
		host, url := s.serve("--providers", "3", "--clusters", clusters, dir)
		s.provide(url, "node_0", "node_1", "node_2")
		host.says("training", limit)
		s.more(dir, 30)
		if clusters == "1" {
			s.ends(host, dir, flags...)
			return
		}
		host.stops()
		checkLosses(t, dir, len(lines(t, dir, "losses.txt")))
	}
}

// TestTabInClusters: a tab and native providers train in two clusters.
func TestTabInClusters(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	flags := []string{"--epochs", "2", "--replicas", "2", "--reduce-factor", "4"}
	s.local(filepath.Join(tmp, "local"), flags...)
	b := s.browser()
	dir := filepath.Join(tmp, "job")
	s.job(dir, flags...)
	host, url := s.serve("--providers", "3", "--clusters", "2", dir)
	for k := range 2 {
		s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", k), "--once")
	}
	p := b.open(url)
	p.lend()
	host.says("cluster 1: trains replicas", limit)
	if code := host.wait(limit); code != 0 {
		t.Fatalf("code %d", code)
	}
	s.ok("ravnest", "fuse", dir)
	s.same("with a tab", dir, filepath.Join(tmp, "local"))
	p.clean(t)
}

// TestDashboardOfClusters: the dashboard shows each cluster with its share, the round, and the
// forecast beside what is achieved.
func TestDashboardOfClusters(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--epochs", endless, "--replicas", "3", "--reduce-factor", "4", "--metrics", "top5,perplexity", "--loss", "cross_entropy", dir)
	edit(t, filepath.Join(dir, "job.json"), `"name": "cnn"`, `"name": "`+strings.Repeat("LongName", 25)+`"`)
	host, url := s.serve("--providers", "5", "--clusters", "2", dir)
	dash := s.browser().open(url + "/dashboard")
	s.provide(url, "node_0", "node_1", "node_2", "node_3", "node_4"+strings.Repeat("W", 58))
	host.says("training", limit)
	for _, want := range []string{"Cluster 0", "Cluster 1", "replica", "samples/s", "forecast", "node_4"} {
		dash.shows(limit, "#clusters", want)
	}
	dash.shows(limit, "#forecast", "/s")
	eventually(t, "a round", limit, func() bool { return strings.Trim(dash.text("#round"), "–0 ") != "" })
	time.Sleep(2500 * time.Millisecond) // some points for the curves
	dash.shoot(t, "dashboard-clusters")
	out, _ := s.ok("ravnest", "status", url)
	for _, want := range []string{"of 3 replicas", "cluster 1 trains"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	dash.clean(t)
}

// TestServeClusters: clusterize forms as many clusters as are asked for, serve trains them, and
// where nobody asks the planner decides: always the bytes of one process.
func TestServeClusters(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	flags := []string{"--nodes", "6", "--epochs", "2", "--replicas", "4", "--reduce-factor", "2"}
	local, dir, free := filepath.Join(tmp, "local"), filepath.Join(tmp, "served"), filepath.Join(tmp, "free")
	s.local(local, flags...)
	s.ok("ravnest", append(append([]string{"init"}, flags...), dir)...)
	s.ok("ravnest", "clusterize", "--clusters", "2", dir)
	host, url := s.serve("--json", dir)
	for k := range 6 {
		s.start("ravnest-provider", "--join", url, "--name", fmt.Sprintf("node_%d", k), "--once")
	}
	if code := host.wait(limit); code != 0 {
		t.Fatalf("code %d", code)
	}
	sum := parse[clusterSummary](t, host.out.String())
	if len(sum.Clusters) != 2 || len(sum.Clusters[0].Providers) != 3 || len(sum.Clusters[1].Providers) != 3 {
		t.Errorf("%+v", sum.Clusters)
	}
	s.ok("ravnest", "fuse", dir)
	s.same("served", dir, local)

	s.ok("ravnest", append(append([]string{"init"}, flags...), free)...)
	out, _ := s.ok("ravnest", "demo", "--json", "--providers", "4", "--dir", free)
	s.same("as many as pay", free, local)
	t.Logf("as many as pay: %+v", parse[clusterSummary](t, out).Clusters)

	s.bad([]string{"5 clusters cannot share 4 replica", "set replicas to 5"}, "ravnest", "clusterize", "--clusters", "5", dir)
	s.bad([]string{"5 clusters cannot share 4 replica", "set replicas to 5"}, "ravnest", "serve", "--listen", "127.0.0.1:0", "--providers", "6", "--clusters", "5", dir)
	_, said := s.ok("ravnest", "clusterize", "--max-clusters", "6", dir)
	if !strings.Contains(said, "cluster 0") {
		t.Errorf("clusterize says %q", said)
	}
}
