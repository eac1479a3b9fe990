// Command idle measures what providers cost a host that only wait for their part: memory and
// computing time of ravnest serve with so many sessions over real sockets on loopback. Its
// output is in BENCHMARKS.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
)

// result is what is printed.
type result struct {
	Providers int     `json:"providers"`
	JoinS     float64 `json:"join_s"` // until all have joined
	BeforeMB  float64 `json:"rss_before_mb"`
	RSSMB     float64 `json:"rss_mb"`
	PeakMB    float64 `json:"peak_rss_mb"`
	CPU       float64 `json:"cpu_percent"` // of a core, while they wait
	Lost      int     `json:"lost"`        // sessions that ended
}

func main() {
	n := flag.Int("n", 5000, "providers")
	seconds := flag.Int("seconds", 20, "how long they wait")
	bin := flag.String("bin", "bin", "directory of the programs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := measure(ctx, *n, time.Duration(*seconds)*time.Second, *bin); err != nil {
		fmt.Fprintln(os.Stderr, "idle:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, n int, wait time.Duration, bin string) error {
	dir, err := os.MkdirTemp("", "ravnest-idle-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	job := filepath.Join(dir, "job")
	if out, err := exec.CommandContext(ctx, filepath.Join(bin, "ravnest"), "init", job).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	host := exec.CommandContext(ctx, filepath.Join(bin, "ravnest"), "serve", "--listen", "127.0.0.1:0", "--no-relay", "--providers", strconv.Itoa(n+1), job)
	stderr, err := host.StderrPipe()
	if err != nil {
		return err
	}
	if err := host.Start(); err != nil {
		return err
	}
	defer func() {
		_ = host.Process.Kill()
		_ = host.Wait()
	}()
	url := ""
	lines := bufio.NewScanner(stderr)
	for url == "" && lines.Scan() {
		if m := regexp.MustCompile(`serving at (\S+):`).FindStringSubmatch(lines.Text()); m != nil {
			url = m[1]
		}
	}
	if url == "" {
		return errors.New("the host does not start")
	}
	go func() {
		for lines.Scan() { // a full pipe would hold the host up
		}
	}()
	r := result{Providers: n}
	r.BeforeMB, _ = memory(host.Process.Pid)
	begin := time.Now()
	conns, err := join(ctx, url, n)
	for _, c := range conns {
		if c != nil {
			defer c.Close("")
		}
	}
	if err != nil {
		return err
	}
	r.JoinS = time.Since(begin).Seconds()
	time.Sleep(5 * time.Second) // the benchmarks of joining are over
	was, at := ticks(host.Process.Pid), time.Now()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return ctx.Err()
	}
	r.CPU = 100 * (ticks(host.Process.Pid) - was) / time.Since(at).Seconds()
	r.RSSMB, r.PeakMB = memory(host.Process.Pid)
	for _, c := range conns {
		select {
		case <-c.Done():
			r.Lost++
		default:
		}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// join opens n sessions, some at a time.
func join(ctx context.Context, url string, n int) ([]*client.Conn, error) {
	conns, errs := make([]*client.Conn, n), make([]error, n)
	room := make(chan struct{}, 32)
	var wg sync.WaitGroup
	for i := range n {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			conns[i], errs[i] = client.Dial(ctx, url, client.Options{Hello: proto.Hello{
				Agent: "idle", Platform: "test/test", Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1,
			}})
		})
	}
	wg.Wait()
	return conns, errors.Join(errs...)
}

// memory is a process's memory in MB: now, and the most.
func memory(pid int) (now, most float64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // 0 MB says that it is gone
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			now = kb / 1e3
		case "VmHWM:":
			most = kb / 1e3
		}
	}
	return now, most
}

// ticks is the computing time of a process in seconds.
func ticks(pid int) float64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseFloat(f[11], 64)
	system, _ := strconv.ParseFloat(f[12], 64)
	return (user + system) / 100 // Linux counts in hundredths
}
