// Package e2e tests the binaries as users run them: real processes and real WebRTC over
// loopback, all with time limits. This file has what the tests share.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin is the directory of the binaries: $RAVNEST_BIN, or one that TestMain builds them into.
var bin string

func TestMain(m *testing.M) {
	code, err := prepare(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func prepare(run func() int) (code int, err error) {
	// The tests must not touch the key of the tester's own provider.
	config, err := os.MkdirTemp("", "ravnest-e2e-config-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(config)) }()
	if err := os.Setenv("RAVNEST_IDENTITY", filepath.Join(config, "identity.pem")); err != nil {
		return 1, err
	}
	if bin = os.Getenv("RAVNEST_BIN"); bin != "" {
		for _, name := range []string{"ravnest", "ravnest-provider"} {
			if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
				return 1, fmt.Errorf("RAVNEST_BIN: %w: run make build", err)
			}
		}
		return run(), nil
	}
	dir, err := os.MkdirTemp("", "ravnest-e2e-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	bin = dir
	cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "../cmd/ravnest", "../cmd/ravnest-provider")
	if out, err := cmd.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the binaries: %w\n%s", err, out)
	}
	return run(), nil
}

// text is output that can be read while it is being written.
type text struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *text) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *text) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// scene holds the processes of a test. They and their children carry a mark in their
// environment, by which processes that should have ended are found.
type scene struct {
	*testing.T
	mark string
	tmp  string // short, as sockets' paths must be, and removed when no process is left
}

const markVar = "RAVNEST_E2E_SCENE="

// newScene returns a scene that fails the test if one of its processes is still running at
// the end.
func newScene(t *testing.T) *scene {
	tmp, err := os.MkdirTemp("", "scene")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(tmp); err != nil {
			t.Error(err)
		}
	})
	s := &scene{t, fmt.Sprintf("%s%d-%s", markVar, os.Getpid(), t.Name()), tmp}
	t.Cleanup(s.alone)
	return s
}

// running returns the processes that have a mark, or none where there is no /proc.
func running(mark string) (pids []string) {
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range envs {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended, or is not ours
		}
		for v := range bytes.SplitSeq(b, []byte{0}) {
			if string(v) == mark {
				cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
				pids = append(pids, filepath.Base(filepath.Dir(f))+" "+strings.TrimSpace(strings.ReplaceAll(string(cmd), "\x00", " ")))
			}
		}
	}
	return pids
}

// alone checks that no process is left running. It allows some time for the system to reap
// them.
func (s *scene) alone() {
	s.Helper()
	var left []string
	for range 400 {
		if left = running(s.mark); len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.Errorf("left running:\n%s", strings.Join(left, "\n"))
}

// proc is a process of a scene.
type proc struct {
	s        *scene
	cmd      *exec.Cmd
	out, err text
	done     chan struct{}
	fail     error
}

// start starts a binary in a process group of its own, as a shell does.
func (s *scene) start(name string, args ...string) *proc {
	s.Helper()
	return s.begin(exec.Command(filepath.Join(bin, name), args...))
}

func (s *scene) begin(cmd *exec.Cmd) *proc {
	s.Helper()
	p := &proc{s: s, cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	if cmd.Env == nil {
		// The machine's other work must not slow down the providers of a test.
		cmd.Env = append(os.Environ(), "RAVNEST_NICE=0")
	}
	cmd.Env = append(cmd.Env, s.mark)
	group(cmd)
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	go func() {
		p.fail = cmd.Wait()
		close(p.done)
	}()
	s.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-p.done
		if s.Failed() {
			s.Logf("%s %v: %v\nstdout:\n%s\nstderr:\n%s", cmd.Path, cmd.Args[1:], p.fail, tail(p.out.String()), tail(p.err.String()))
		}
	})
	return p
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// wait waits for the process to end and returns its exit code.
func (p *proc) wait(limit time.Duration) int {
	p.s.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		p.s.Fatalf("%s %v is still running after %v\nstderr:\n%s", filepath.Base(p.cmd.Path), p.cmd.Args[1:], limit, tail(p.err.String()))
	}
	return -1
}

// says waits until stderr matches a regular expression and returns the match and its groups.
func (p *proc) says(pattern string, limit time.Duration) []string {
	p.s.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(p.err.String()); m != nil {
			return m
		}
		select {
		case <-p.done:
			if m := re.FindStringSubmatch(p.err.String()); m != nil {
				return m
			}
			p.s.Fatalf("ended without saying %q: %v\nstderr:\n%s", pattern, p.fail, tail(p.err.String()))
		default:
		}
		if time.Now().After(end) {
			p.s.Fatalf("did not say %q within %v\nstderr:\n%s", pattern, limit, tail(p.err.String()))
		}
	}
}

// limit is the time limit for a command that should be quick, on a machine that may be slow.
const limit = 3 * time.Minute

// ok runs a binary that must succeed and returns its output.
func (s *scene) ok(name string, args ...string) (stdout, stderr string) {
	s.Helper()
	p := s.start(name, args...)
	if code := p.wait(limit); code != 0 {
		s.Fatalf("%s %v: code %d\n%s", name, args, code, tail(p.err.String()))
	}
	return p.out.String(), p.err.String()
}

// bad runs a binary that must exit with code 1 and a message that matches all patterns.
func (s *scene) bad(patterns []string, name string, args ...string) *proc {
	s.Helper()
	p := s.start(name, args...)
	p.failed(limit, patterns...)
	return p
}

// failed checks that the process exits with code 1 and a message that matches all patterns.
func (p *proc) failed(limit time.Duration, patterns ...string) {
	p.s.Helper()
	if code := p.wait(limit); code != 1 {
		p.s.Errorf("%v: code %d, want 1", p.cmd.Args, code)
	}
	if e := p.err.String(); strings.Contains(e, "panic") || strings.Contains(e, "goroutine ") {
		p.s.Errorf("%v panicked:\n%s", p.cmd.Args, e)
	}
	for _, want := range patterns {
		if !regexp.MustCompile(want).MatchString(p.err.String()) {
			p.s.Errorf("%v: stderr does not say %q:\n%s", p.cmd.Args, want, tail(p.err.String()))
		}
	}
}

// summary is the part of the output of --json that the tests read.
type summary struct {
	Command     string   `json:"command"`
	Providers   int      `json:"providers"`
	Steps       int64    `json:"steps"`
	Samples     int64    `json:"samples"`
	SamplesPerS float64  `json:"samples_per_s"`
	Loss        float64  `json:"loss"`
	ValAccuracy float64  `json:"val_accuracy"`
	WireBytes   float64  `json:"wire_bytes_per_batch"`
	PeakRSS     []int64  `json:"peak_rss_bytes"`
	FirstStepS  float64  `json:"first_step_s"`
	Cuts        []string `json:"cuts"`
	Files       []string `json:"files"`
	Interrupted bool     `json:"interrupted"`
}

// parse decodes the output of --json, which must be one object.
func parse[T any](t testing.TB, out string) (v T) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	if err := d.Decode(&v); err != nil {
		t.Fatalf("stdout is not one JSON object: %v\n%s", err, out)
	}
	if _, err := d.Token(); err != io.EOF {
		t.Fatalf("stdout has more than one JSON object:\n%s", out)
	}
	return v
}

// demo runs a demo with --json and returns its summary.
func (s *scene) demo(args ...string) summary {
	s.Helper()
	out, _ := s.ok("ravnest", append([]string{"demo", "--json"}, args...)...)
	return parse[summary](s, out)
}

// read reads a file that must be there.
func read(t testing.TB, elem ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// results returns the contents of a run's result files by their paths in the project.
func results(t testing.TB, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() && (rel == "previous" || rel == filepath.Join("node_data", "store")) {
			return fs.SkipDir
		}
		if name := d.Name(); !d.IsDir() && (name == "losses.txt" || name == "val_accuracies.txt" || strings.HasPrefix(name, "trained_state_dict") || name == "weights.safetensors") {
			b, err := os.ReadFile(path)
			m[rel] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// kept checks that the results want are in dir, unchanged.
func kept(t testing.TB, want map[string]string, dir string) {
	t.Helper()
	if len(want) == 0 {
		t.Error("there were no results to keep")
	}
	for name, data := range want {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("a result is gone: %v", err)
		} else if string(b) != data {
			t.Errorf("%s has changed in %s", name, dir)
		}
	}
}

// serve starts a host on a free port and returns it with its URL.
func (s *scene) serve(args ...string) (*proc, string) {
	s.Helper()
	p := s.start("ravnest", append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	return p, p.says(`serving at (http://\S+):`, limit)[1]
}

// edit replaces the first occurrence of old in a file.
func edit(t testing.TB, path, old, new string) {
	t.Helper()
	b := read(t, path)
	if !bytes.Contains(b, []byte(old)) {
		t.Fatalf("%s does not contain %q", path, old)
	}
	if err := os.WriteFile(path, bytes.Replace(b, []byte(old), []byte(new), 1), 0o644); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until f returns true.
func eventually(t testing.TB, what string, limit time.Duration, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for !f() {
		if ctx.Err() != nil {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// posix skips tests that need signals and process groups on systems without them.
func posix(t testing.TB) {
	if runtime.GOOS == "windows" {
		t.Skip("needs POSIX signals")
	}
}

// interrupt does what Ctrl-C does: the terminal signals the whole process group.
func (p *proc) interrupt() {
	p.s.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, syscall.SIGINT); err != nil {
		p.s.Fatal(err)
	}
}

// stops interrupts the process, which must save what it has and end with the code that says so.
func (p *proc) stops() {
	p.s.Helper()
	p.interrupt()
	if code := p.wait(limit); code != 130 {
		p.s.Fatalf("%s %v was interrupted: code %d, want 130\n%s", filepath.Base(p.cmd.Path), p.cmd.Args[1:], code, tail(p.err.String()))
	}
}

func group(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
