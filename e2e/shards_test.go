// Data sets that no machine holds as a whole: root and leaf fetch shards as they train.

package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// images writes a data set of rows images of ten classes, in the order of the classes as folders
// are read, to a safetensors file. It holds one row at a time.
func images(t testing.TB, path string, rows, val, channels, side int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w, row := bufio.NewWriterSize(f, 1<<20), channels*side*side
	a, b, c := 8*rows, 8*(rows+val), 8*(rows+val)+rows*row
	head := fmt.Sprintf(`{"train_y":{"dtype":"I64","shape":[%d],"data_offsets":[0,%d]},"val_y":{"dtype":"I64","shape":[%d],"data_offsets":[%d,%d]},`+
		`"train_x":{"dtype":"U8","shape":[%d,%d,%d,%d],"data_offsets":[%d,%d]},"val_x":{"dtype":"U8","shape":[%d,%d,%d,%d],"data_offsets":[%d,%d]}}`,
		rows, a, val, a, b, rows, channels, side, side, b, c, val, channels, side, side, c, c+val*row)
	put := func(b []byte) {
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	put(binary.LittleEndian.AppendUint64(nil, uint64(len(head))))
	put([]byte(head))
	for _, n := range []int{rows, val} {
		for i := range n {
			put(binary.LittleEndian.AppendUint64(nil, uint64(i*10/n)))
		}
	}
	noise, image := rand.NewChaCha8([32]byte{1}), make([]byte, row)
	for _, n := range []int{rows, val} {
		for i := range n {
			if _, err := io.ReadFull(noise, image); err != nil {
				t.Fatal(err)
			}
			bright := i * 10 / n * row / 10
			for j := range row / 10 {
				image[bright+j] = image[bright+j]/2 + 100
			}
			put(image)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
}

// TestShards: a job whose data come in shards is trained by native providers and a tab, which is
// the root, with a loss and a host that is started anew, to the bytes of one process; the images
// are cropped and flipped on the way.
func TestShards(t *testing.T) {
	posix(t)
	s := newScene(t)
	tmp := t.TempDir()
	var dirs [2]string
	for i := range dirs {
		dirs[i] = filepath.Join(tmp, fmt.Sprint(i))
		s.ok("ravnest", "init", "--epochs", endless, dirs[i])
		images(t, filepath.Join(dirs[i], "own.safetensors"), 3000, 200, 1, 8)
		file := filepath.Join(dirs[i], "job.json")
		edit(t, file, `"data": "digits"`, `"data": "own.safetensors", "shards": {"bytes": 6000, "group": 4}, "augment": {"crop": 1, "flip": true, "divide": 255, "mean": [0.5]}`)
		edit(t, file, `"loss": "mse"`, `"loss": "cross_entropy"`)
		edit(t, file, `"save_every": 10`, `"save_every": 1`)
	}
	dir, local := dirs[0], dirs[1]
	s.ok("ravnest", "clusterize", dir)
	if n, err := filepath.Glob(filepath.Join(dir, "node_data/shards/*/*")); err != nil || len(n) < 60 {
		t.Fatalf("%d shards (%v)", len(n), err)
	}
	address := freePort(t)
	b := s.browser()
	host, url := s.serve("--listen", address, dir)
	ps := s.provide(url, "node_1", "node_2")
	host.says("(?s)node_1 joined.*node_2 joined|node_2 joined.*node_1 joined", limit)
	p := b.open(url)
	p.lend()
	host.says("training", limit)
	p.shows(limit, "#f-stage", "root")
	s.provide(url, "") // one to spare
	s.saved(dir, 5)
	if err := ps[1].cmd.Process.Kill(); err != nil { // the leaf, or the one that took its place
		t.Fatal(err)
	}
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 60) // more than an epoch: other shards
	if err := host.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-host.done
	host, _ = s.serve("--listen", address, dir)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 20)
	host.stops()
	s.ok("ravnest", "train", "--local", "--steps", fmt.Sprint(len(lines(t, dir, "losses.txt"))), local)
	s.ok("ravnest", "fuse", dir)
	for _, f := range []string{"losses.txt", "trained/trained_state_dict.safetensors"} {
		if !bytes.Equal(read(t, dir, f), read(t, local, f)) {
			t.Errorf("%s is not what one process makes", f)
		}
	}
	if out, _ := s.ok("ravnest", "eval", local); out == "" {
		t.Error("eval says nothing")
	}
	// The file is divided into shards once, and again when it has changed.
	index := filepath.Join(local, "node_data/shards/index.json")
	was, err := os.Stat(index)
	if err != nil {
		t.Fatal(err)
	}
	s.ok("ravnest", "train", "--local", "--steps", "1", local)
	if now, err := os.Stat(index); err != nil || !now.ModTime().Equal(was.ModTime()) {
		t.Errorf("the shards were made anew (%v)", err)
	}
	images(t, filepath.Join(local, "own.safetensors"), 1000, 50, 1, 8)
	s.ok("ravnest", "train", "--local", "--steps", "1", local)
	if n, err := filepath.Glob(filepath.Join(local, "node_data/shards/*/*")); err != nil || len(n) > 60 {
		t.Errorf("%d shards of a smaller file (%v)", len(n), err)
	}
}

// TestShardsOfOneAddress: two providers behind one address fetch thousands of small shards epoch after
// epoch, since what they lend holds a part of them, and are never told to wait.
func TestShardsOfOneAddress(t *testing.T) {
	posix(t)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--epochs", "6", "--nodes", "2", dir)
	images(t, filepath.Join(dir, "own.safetensors"), 40_000, 100, 1, 8)
	file := filepath.Join(dir, "job.json")
	edit(t, file, `"data": "digits"`, `"data": "own.safetensors", "shards": {"bytes": 650, "group": 4}`)
	edit(t, file, `"loss": "mse"`, `"loss": "cross_entropy"`)
	s.ok("ravnest", "clusterize", dir)
	host := s.start("ravnest", "serve", "--listen", "0.0.0.0:0", "--token", "t", dir)
	port := host.says(`listening at \S*:(\d+)|serving at \S*:(\d+):`, limit)
	url := "http://127.0.0.1:" + port[1] + port[2]
	var ps []*proc
	for i := range 2 {
		ps = append(ps, s.start("ravnest-provider", "--join", url, "--token", "t", "--name", fmt.Sprintf("node_%d", i), "--once", "--ram", "4MB"))
	}
	var metrics string
	for ended := false; !ended; {
		select {
		case <-host.done:
			ended = true
		case <-time.After(50 * time.Millisecond):
			if m := scrape(url+"/metrics", "t"); m != "" {
				metrics = m
			}
		}
	}
	if code := host.wait(limit); code != 0 {
		t.Fatalf("serve: code %d", code)
	}
	if n := len(lines(t, dir, "losses.txt")); n < 6*40_000/64 {
		t.Errorf("%d losses", n)
	}
	if !regexp.MustCompile(`(?m)^ravnest_refused_requests_total 0$`).MatchString(metrics) {
		t.Errorf("requests were refused, or not counted:\n%s", tail(metrics))
	}
	for _, p := range ps {
		if p.wait(limit); strings.Contains(p.err.String(), "busy") {
			t.Errorf("a provider was told to wait:\n%s", tail(p.err.String()))
		}
	}
}

// scrape returns a host's metrics, "" if it does not answer.
func scrape(url, token string) string {
	q, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return ""
	}
	q.Header.Set("Authorization", "Bearer "+token)
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return ""
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		return ""
	}
	return string(b)
}

// TestShardsLarge: 3 GB of images, over providers that lend 300 MB each, to the bytes of one
// process. On demand: make test-large.
func TestShardsLarge(t *testing.T) {
	posix(t)
	if os.Getenv("RAVNEST_LARGE") == "" {
		t.Skip("on demand: make test-large")
	}
	const (
		rows  = 1_000_000 // of 3072 bytes
		steps = 400       // of 1000 rows: 1.2 GB, each row once
		lent  = 300e6
		// What a Go program and WebRTC take besides, which nothing promises.
		beside = 60e6
	)
	s := newScene(t)
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", dir)
	images(t, filepath.Join(dir, "own.safetensors"), rows, 2000, 3, 32)
	file := filepath.Join(dir, "job.json")
	edit(t, file, `"data": "digits"`, `"data": "own.safetensors", "augment": {"crop": 4, "flip": true, "divide": 255}`)
	edit(t, file, `"loss": "mse"`, `"loss": "cross_entropy"`)
	edit(t, file, `"epochs": 100`, `"epochs": 1`)
	edit(t, file, `"batch_size": 64`, `"batch_size": 1000`)
	const model = `{"version":1,"name":"flat","inputs":[{"name":"x","shape":[3,32,32]}],"output":"fc2","nodes":[
{"name":"flat","op":"flatten","in":["x"]},
{"name":"fc1","op":"linear","in":["flat"],"attrs":{"in_features":3072,"out_features":16}},
{"name":"act1","op":"relu","in":["fc1"]},
{"name":"fc2","op":"linear","in":["act1"],"attrs":{"in_features":16,"out_features":10}}]}`
	if err := os.WriteFile(filepath.Join(dir, "model.json"), []byte(model), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) summary {
		begin := time.Now()
		p := s.start("ravnest", args...)
		if code := p.wait(15 * time.Minute); code != 0 {
			t.Fatalf("%q: code %d:\n%s", args, code, p.err.String())
		}
		sum := parse[summary](t, p.out.String())
		t.Logf("%s: %.0f s, %.0f samples/s while training, peaks of %d MB", args[0], time.Since(begin).Seconds(), sum.SamplesPerS, mega(sum.PeakRSS))
		for _, n := range sum.PeakRSS {
			if n > lent+beside {
				t.Errorf("%s: %d MB in use, %d MB are lent", args[0], n/1e6, int(lent/1e6))
			}
		}
		return sum
	}
	run("train", "--local", "--json", "--steps", fmt.Sprint(steps), dir)
	var want [][]byte
	files := []string{"losses.txt", "trained/trained_state_dict.safetensors"}
	for _, f := range files {
		want = append(want, read(t, dir, f))
	}
	run("demo", "--json", "--steps", fmt.Sprint(steps), "--providers", "2", "--clusters", "1", "--ram", "300MB", "--dir", dir)
	for i, f := range files {
		if !bytes.Equal(read(t, dir, f), want[i]) {
			t.Errorf("%s is not what one process makes", f)
		}
	}
}

func mega(bytes []int64) (mb []int64) {
	for _, n := range bytes {
		mb = append(mb, n/1e6)
	}
	return mb
}
