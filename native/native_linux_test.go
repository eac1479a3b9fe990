package native

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
)

func machine(files map[string]string) fstest.MapFS {
	m := fstest.MapFS{"proc/meminfo": {Data: []byte("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable:   8000000 kB\n")}}
	for name, data := range files {
		m[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return m
}

const (
	v2Mount = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	v1Mount = "33 25 0:29 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n" +
		"34 25 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
)

func TestMachines(t *testing.T) {
	const whole = 8000000 * 1024
	for _, c := range []struct {
		name  string
		files map[string]string
		ram   int64
		cores int
	}{
		{"no groups", nil, whole, 8},
		{"v2 without limits", map[string]string{
			"proc/self/cgroup": "0::/user.slice\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/user.slice/memory.max": "max\n", "sys/fs/cgroup/user.slice/memory.current": "5\n",
			"sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
		}, whole, 8},
		{"v2: the cache is given back", map[string]string{
			"proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/a/memory.max": "1000000000\n", "sys/fs/cgroup/a/memory.current": "700000000\n",
			"sys/fs/cgroup/a/memory.stat": "anon 1\ninactive_file 500000000\n", "sys/fs/cgroup/a/cpu.max": "250000 100000\n",
		}, 800000000, 2},
		{"v2: a parent's limit binds", map[string]string{
			"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/a/b/memory.max": "2000000000\n", "sys/fs/cgroup/a/b/memory.current": "0\n",
			"sys/fs/cgroup/a/memory.max": "1000000000\n", "sys/fs/cgroup/a/memory.current": "400000000\n",
			"sys/fs/cgroup/a/cpu.max": "50000 100000\n",
		}, 600000000, 1},
		{"v2: over its limit", map[string]string{
			"proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/a/memory.max": "1000\n", "sys/fs/cgroup/a/memory.current": "2000\n",
		}, 0, 8},
		{"v2: the host's path in a container", map[string]string{
			"proc/self/cgroup":         "0::/docker/abc\n",
			"proc/self/mountinfo":      "29 23 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			"sys/fs/cgroup/memory.max": "3000000\n", "sys/fs/cgroup/memory.current": "1000000\n",
		}, 2000000, 8},
		{"v2: a path outside of the mount", map[string]string{
			"proc/self/cgroup": "0::/../../x\n", "proc/self/mountinfo": v2Mount,
			"sys/fs/cgroup/memory.max": "3000000\n", "sys/fs/cgroup/memory.current": "1000000\n",
		}, 2000000, 8},
		{"v1", map[string]string{
			"proc/self/cgroup": "9:name=systemd:/\n4:memory:/job/1\n2:cpu,cpuacct:/job\n0::/\n", "proc/self/mountinfo": v1Mount,
			"sys/fs/cgroup/memory/job/1/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/job/1/memory.usage_in_bytes": "100\n",
			"sys/fs/cgroup/memory/job/memory.limit_in_bytes":   "500000000\n",
			"sys/fs/cgroup/memory/job/memory.usage_in_bytes":   "300000000\n",
			"sys/fs/cgroup/memory/job/memory.stat":             "inactive_file 7\ntotal_inactive_file 100000000\n",
			"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us":   "300000\n",
			"sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us":  "100000\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us":       "-1\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us":      "100000\n",
		}, 300000000, 3},
		{"nonsense", map[string]string{
			"proc/self/cgroup": "x\n0::\n::::\n4:memory:a\n", "proc/self/mountinfo": "- - -\n" + v2Mount + v1Mount,
			"sys/fs/cgroup/memory.max": "a lot\n", "sys/fs/cgroup/cpu.max": "100000\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "",
		}, whole, 8},
	} {
		root := machine(c.files)
		if got, err := availableRAM(root); err != nil || got != c.ram {
			t.Errorf("%s: %d bytes, %v, want %d", c.name, got, err, c.ram)
		}
		if got := cores(root, 8); got != c.cores {
			t.Errorf("%s: %d cores, want %d", c.name, got, c.cores)
		}
	}
	for _, info := range []string{"", "MemAvailable: x kB\n", "MemAvailable: 9223372036854775807 kB\n", "MemAvailable:\n"} {
		if n, err := availableRAM(fstest.MapFS{"proc/meminfo": {Data: []byte(info)}}); err == nil {
			t.Errorf("meminfo %q gave %d", info, n)
		}
	}
}

func TestCoresHonourAffinity(t *testing.T) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		t.Fatal(err)
	}
	one := unix.CPUSet{}
	for cpu := range 1024 {
		if set.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	cmd := helper("cores")
	// The affinity of a new process is that of the thread that starts it.
	done := make(chan error)
	go func() {
		// Not unlocked: the thread ends with the goroutine, and its affinity with it.
		runtime.LockOSThread()
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			done <- err
			return
		}
		out, err := cmd.Output()
		if err == nil && string(out) != "1" {
			err = fmt.Errorf("%s cores on one", out)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestPhysicalCores: threads of one core count once, as far as they may be used, and all processors do where
// the system does not say.
func TestPhysicalCores(t *testing.T) {
	root := fstest.MapFS{}
	for i, siblings := range []string{"0,2", "1,3", "0,2", "1,3"} {
		root[fmt.Sprintf("sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", i)] = &fstest.MapFile{Data: []byte(siblings + "\n")}
	}
	for _, c := range []struct {
		allowed []int
		want    int
	}{{[]int{0, 1, 2, 3}, 2}, {[]int{0, 1}, 2}, {[]int{1, 3}, 1}, {[]int{0, 9}, 2}} {
		if n := physicalCores(root, c.allowed); n != c.want {
			t.Errorf("of %v %d are cores, want %d", c.allowed, n, c.want)
		}
	}
	if n := PhysicalCores(); n < 1 || n > runtime.NumCPU() {
		t.Errorf("%d cores of %d processors", n, runtime.NumCPU())
	}
}

func TestUsageOfOthers(t *testing.T) {
	root := fstest.MapFS{
		"proc/7/status": {Data: []byte("Name:\tx) y\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")},
		"proc/7/stat":   {Data: []byte("7 (x) y ) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 5 6 7")},
		"proc/8/status": {Data: []byte("Name:\tzombie\n")},
		"proc/9/status": {Data: []byte("VmHWM: 1 kB\nVmRSS: 1 kB\n")},
		"proc/9/stat":   {Data: []byte("9 (x) S")},
	}
	u, err := usageOf(root, 7)
	if want := (Usage{RSS: 1 << 20, PeakRSS: 2 << 20, CPU: 2 * time.Second}); err != nil || u != want {
		t.Errorf("%+v, %v, want %+v", u, err, want)
	}
	for _, pid := range []int{8, 10} {
		if _, err := usageOf(root, pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	if _, err := usageOf(root, 9); err == nil {
		t.Error("a short stat was read")
	}
}

func TestIsTerminalPty(t *testing.T) {
	f, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer f.Close()
	if !IsTerminal(f) {
		t.Error("a pseudo terminal is said to be none")
	}
}

// A disk that fills up half way, simulated by a file size limit, which needs no privilege.
func TestWriteFileBeyondALimit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.bin")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := helper("limited", "FILE="+path).Output()
	if err != nil {
		t.Fatal(err)
	}
	checkFull(t, dir, string(out), "file too large")
}

func checkFull(t *testing.T, dir, msg, reason string) {
	t.Helper()
	for _, want := range []string{reason, "2.0 MB tried", "state.bin", "unchanged", "free some space"} {
		if !strings.Contains(msg, want) {
			t.Errorf("%q lacks %q", msg, want)
		}
	}
	if strings.Contains(msg, "2.0 MB written") {
		t.Errorf("%q claims all was written", msg)
	}
	if dir == "" {
		return
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "state.bin")); string(got) != "old" {
		t.Errorf("the old file holds %d bytes", len(got))
	}
	if got := names(t, dir); !slices.Equal(got, []string{"state.bin"}) {
		t.Errorf("left %v", got)
	}
}

// A disk that is really full: a small one of our own, if namespaces are available.
func TestWriteFileOnAFullDisk(t *testing.T) {
	cmd := helper("full", "DIR="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.Output()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSPC) || strings.HasPrefix(string(out), "skip") {
		t.Skipf("no name spaces here: %v %s", err, out)
	}
	if err != nil {
		t.Fatal(err)
	}
	msg, left, _ := strings.Cut(string(out), "\n")
	checkFull(t, "", msg, "no space left on device")
	if left != "state.bin=old" {
		t.Errorf("left %q", left)
	}
}

// lines reads a helper's output line by line.
func lines(t *testing.T, cmd *exec.Cmd) func() string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := bufio.NewScanner(out)
	return func() string {
		t.Helper()
		if !s.Scan() {
			t.Fatalf("the helper's output ended: %v", s.Err())
		}
		return s.Text()
	}
}

// TestShutdown checks that signals in quick succession are one request, that a later one ends
// the process, and that a hang-up is a request too but never ends it.
func TestShutdown(t *testing.T) {
	// Where the tests run under nohup, a helper would ignore hang-ups from its start. A signal
	// that is listened for here has its default in a child.
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	t.Cleanup(func() { signal.Stop(hangups) })
	for _, c := range []struct{ first, insists syscall.Signal }{
		{syscall.SIGINT, syscall.SIGINT},
		{syscall.SIGTERM, syscall.SIGTERM},
		{syscall.SIGTERM, syscall.SIGINT},
		{syscall.SIGHUP, syscall.SIGTERM},
	} {
		t.Run(c.first.String()+" "+c.insists.String(), func(t *testing.T) {
			t.Parallel()
			// asked starts a helper that takes signals within a time for one request, and asks it to
			// end. It hangs on purpose.
			asked := func(oneRequest string) *exec.Cmd {
				cmd := helper("shutdown", "ONE_REQUEST="+oneRequest)
				next := lines(t, cmd)
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if got := next(); got != "ready" {
					t.Fatal(got)
				}
				_ = cmd.Process.Signal(c.first)
				if got := next(); !strings.HasPrefix(got, "stopped on request") || !strings.HasSuffix(got, "canceled true") {
					t.Errorf("%q", got)
				}
				return cmd
			}
			survives := func(cmd *exec.Cmd, s syscall.Signal) {
				t.Helper()
				_ = cmd.Process.Signal(s)
				time.Sleep(50 * time.Millisecond)
				if !alive(cmd.Process.Pid) {
					t.Errorf("%v ended it without a second request", s)
				}
			}
			cmd := asked("1h")
			survives(cmd, c.first)
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // killed

			cmd = asked("1ms")
			survives(cmd, syscall.SIGHUP)
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			for {
				_ = cmd.Process.Signal(c.insists)
				select {
				case err := <-ended:
					var exit *exec.ExitError
					if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != c.insists {
						t.Errorf("ended by %v", err)
					}
					return
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
}

// TestNohup checks that a hang-up that was ignored at the start does not stop the program,
// while other signals still do.
func TestNohup(t *testing.T) {
	cmd := helper("shutdown", "POLITE=1")
	cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh", "-c", `trap "" HUP; exec "$0" "$@"`}, cmd.Args...)
	next := lines(t, cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if got := next(); got != "ready" {
		t.Fatal(got)
	}
	_ = cmd.Process.Signal(syscall.SIGHUP)
	time.Sleep(50 * time.Millisecond)
	_ = cmd.Process.Signal(syscall.SIGTERM)
	if got := next(); !strings.Contains(got, "terminated") {
		t.Errorf("%q, want that SIGTERM ended it", got)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// alive reports whether a process exists and is not a zombie.
func alive(pid int) bool {
	_, err := UsageOf(pid)
	return err == nil
}

func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestChildLeavesWhenAsked(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := helper("shutdown", "POLITE=1")
	var got strings.Builder
	ready := make(chan struct{})
	cmd.Stdout = writerFunc(func(p []byte) (int, error) {
		got.Write(p)
		if ready != nil {
			close(ready)
			ready = nil
		}
		return len(p), nil
	})
	wait := ready
	c, err := start(ctx, cmd, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	<-wait
	u, err := UsageOf(c.Pid())
	if err != nil || u.PeakRSS < 1<<20 || u.RSS > u.PeakRSS {
		t.Errorf("usage %+v, %v", u, err)
	}
	if pg, err := unix.Getpgid(c.Pid()); err != nil || pg != c.Pid() {
		t.Errorf("process group %d, %v", pg, err)
	}
	cancel()
	if err := c.Wait(); err != nil || !strings.Contains(got.String(), "terminated") {
		t.Errorf("%v, said %q", err, got.String())
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A child that ignores the request to end is killed, with its own children.
func TestChildThatDoesNotListen(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	cmd := helper("deaf")
	cmd.Stdout = w
	c, err := start(ctx, cmd, 50*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	grandchild, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || !alive(grandchild) {
		t.Fatalf("grandchild %q: %v", line, err)
	}
	cancel()
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("%v", err)
	}
	gone(t, grandchild)
}

// The parent dies without a chance to clean up.
func TestChildDiesWithItsParent(t *testing.T) {
	parent := helper("parent")
	next := lines(t, parent)
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for range 2 {
		pid, err := strconv.Atoi(next())
		if err != nil || !alive(pid) {
			t.Fatalf("child %d: %v", pid, err)
		}
		pids = append(pids, pid)
	}
	// Long enough for the runtime to retire idle threads, if it did that to the wrong one.
	time.Sleep(100 * time.Millisecond)
	for _, pid := range pids {
		if !alive(pid) {
			t.Error("a child died before its parent")
		}
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed
	for _, pid := range pids {
		gone(t, pid)
	}
}

func init() {
	roles["cores"] = func() { fmt.Print(Cores()) }
	roles["limited"] = func() {
		signal.Ignore(syscall.SIGXFSZ)
		limit := unix.Rlimit{Cur: 1 << 20, Max: 1 << 20}
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			panic(err)
		}
		fmt.Print(WriteFile(os.Getenv("FILE"), make([]byte, 2e6), 0o600))
	}
	roles["full"] = func() {
		dir := os.Getenv("DIR")
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			fmt.Print("skip ", err)
			return
		}
		path := filepath.Join(dir, "state.bin")
		if err := WriteFile(path, []byte("old"), 0o600); err != nil {
			panic(err)
		}
		fmt.Println(WriteFile(path, make([]byte, 2e6), 0o600))
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			data, _ := os.ReadFile(filepath.Join(dir, e.Name()))
			fmt.Printf("%s=%.20s", e.Name(), data)
		}
	}
	roles["shutdown"] = func() {
		window, err := time.ParseDuration(cmp.Or(os.Getenv("ONE_REQUEST"), oneRequest.String()))
		if err != nil {
			panic(err)
		}
		ctx, stop := shutdown(context.Background(), window)
		fmt.Println("ready")
		<-ctx.Done()
		cause := context.Cause(ctx)
		fmt.Println(cause, "canceled", errors.Is(cause, context.Canceled))
		if os.Getenv("POLITE") == "" {
			time.Sleep(time.Minute)
		}
		stop()
	}
	roles["deaf"] = func() {
		signal.Ignore(syscall.SIGTERM)
		cmd := helper("sleep")
		if err := cmd.Start(); err != nil {
			panic(err)
		}
		fmt.Println(cmd.Process.Pid)
		time.Sleep(time.Minute)
	}
	roles["sleep"] = func() {
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Minute)
	}
	roles["parent"] = func() {
		for range 2 {
			c, err := Start(context.Background(), helper("sleep"))
			if err != nil {
				panic(err)
			}
			fmt.Println(c.Pid())
		}
		time.Sleep(time.Minute)
	}
}
