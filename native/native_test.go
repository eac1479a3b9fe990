package native

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// role is the environment variable that turns the test binary into a helper process.
const role = "NATIVE_TEST_ROLE"

var roles = map[string]func(){}

func TestMain(m *testing.M) {
	if r := os.Getenv(role); r != "" {
		roles[r]()
		return
	}
	os.Exit(m.Run())
}

// helper returns a command that runs one of roles.
func helper(name string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, role+"="+name)...)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"8": 8e9, "8GB": 8e9, " 8 gb ": 8e9, "1.5": 15e8, "512MB": 512e6, "512m": 512e6, "2TB": 2e12,
		"3kB": 3e3, "1b": 1, "1KiB": 1024, "1GiB": 1 << 30, "0.5MiB": 1 << 19, ".5": 5e8, "1024TiB": 1 << 50,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", " ", "GB", "-1", "+1", "0", "0GB", "1e3", "0x10", "1_000", "8XB", "8 G B", "NaN", "inf", "1.2.3", "8GBs", ".", "2000TB",
		"0.1b", "８", strings.Repeat("9", 400),
	} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("%.40q was read as %d", s, got)
		} else if !strings.Contains(err.Error(), "is not a size") && !strings.Contains(err.Error(), "is outside") {
			t.Errorf("%.40q: %v", s, err)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 8e9: "8.0 GB", 999_999_999: "1.0 GB", 512e6: "512.0 MB", MaxSize: "1125.9 TB"} {
		if got := FormatSize(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"8", "8GB", "512 MB", "1.5gib", "1e9", "..", "9999999999999TB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			if n != 0 || len(err.Error()) > 400 {
				t.Errorf("%d, %v", n, err)
			}
			return
		}
		if n < 1 || n > MaxSize {
			t.Errorf("%q is %d", s, n)
		}
		// The formatted size parses to the same number, up to rounding.
		back, err := ParseSize(FormatSize(n))
		if err != nil || math.Abs(float64(back-n)) > 0.051*math.Max(1, math.Pow(1000, math.Floor(math.Log10(float64(n)*1.001)/3))) {
			t.Errorf("%q is %d, printed %q, read back %d, %v", s, n, FormatSize(n), back, err)
		}
	})
}

func TestThisMachine(t *testing.T) {
	n, err := AvailableRAM()
	if err != nil || n < 1<<20 {
		t.Errorf("available RAM %d, %v", n, err)
	}
	if c := Cores(); c < 1 || c > runtime.NumCPU() {
		t.Errorf("%d cores of %d", c, runtime.NumCPU())
	}
	// Earlier tests may have left a peak above the current use: fill memory up to it.
	fill := func(n int) []byte {
		block := make([]byte, n)
		for i := range block {
			block[i] = byte(i)
		}
		return block
	}
	peak, _ := PeakRSS()
	debug.FreeOSMemory()
	below := fill(int(peak))
	before, err := PeakRSS()
	if err != nil || before < 1<<20 {
		t.Fatalf("peak RSS %d, %v", before, err)
	}
	cpu, err := CPUTime()
	if err != nil {
		t.Fatal(err)
	}
	block := fill(64 << 20)
	after, _ := PeakRSS()
	if after-before < 48<<20 {
		t.Errorf("64 MiB more moved the peak from %d to %d", before, after)
	}
	runtime.KeepAlive(below)
	runtime.KeepAlive(block)
	for deadline := time.Now().Add(time.Minute); ; {
		if now, _ := CPUTime(); now > cpu {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a minute of spinning took no processor time")
		}
	}
}

func TestIsTerminal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if IsTerminal(f) {
		t.Error("a regular file is said to be a terminal")
	}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var n []string
	for _, e := range entries {
		n = append(n, e.Name())
	}
	return n
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.bin")
	for _, content := range []string{"first", "the second one is longer", ""} {
		if err := WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if got := names(t, dir); !slices.Equal(got, []string{"state.bin"}) {
		t.Errorf("left %v", got)
	}
	if runtime.GOOS != "windows" {
		if info, _ := os.Stat(path); info.Mode().Perm()&^0o640 != 0 {
			t.Errorf("mode %v", info.Mode())
		}
		link := filepath.Join(dir, "link")
		if err := os.Symlink("state.bin", link); err != nil {
			t.Fatal(err)
		}
		if err := WriteFile(link, []byte("through"), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != "through" {
			t.Errorf("the link was replaced, its target holds %q", got)
		}
	}
}

func TestSaveFailureKeepsTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.bin")
	broken := errors.New("broken half way")
	half := func(w io.Writer) error {
		if _, err := w.Write(make([]byte, 2500)); err != nil {
			return err
		}
		return broken
	}
	err := Save(path, 0o600, half)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "2.5 kB written") || !strings.Contains(err.Error(), "nothing is there") {
		t.Errorf("%v", err)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = Save(path, 0o600, half)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "is unchanged") {
		t.Errorf("%v", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("the old file holds %q", got)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"state.bin"}) {
		t.Errorf("left %v", got)
	}
	if err := WriteFile(filepath.Join(dir, "no", "such"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if err := WriteFile(dir, nil, 0o600); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("%v", err)
	}
}

func TestShutdownWithoutSignal(t *testing.T) {
	ctx, stop := Shutdown(context.Background())
	if err := ctx.Err(); err != nil {
		t.Fatal(err)
	}
	stop()
	stop()
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("stop did not end the context")
	}
	cause := errors.New("the parent's reason")
	parent, cancel := context.WithCancelCause(context.Background())
	ctx, stop = Shutdown(parent)
	defer stop()
	cancel(cause)
	<-ctx.Done()
	if context.Cause(ctx) != cause {
		t.Errorf("cause %v", context.Cause(ctx))
	}
}

func TestChildEndsByItself(t *testing.T) {
	c, err := Start(t.Context(), helper("exit", "CODE=3"))
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("%v", err)
	}
	if c, err = Start(t.Context(), helper("exit", "CODE=0")); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := Start(t.Context(), exec.Command(filepath.Join(t.TempDir(), "none"))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, helper("exit", "CODE=0")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func init() {
	roles["exit"] = func() {
		code := 0
		_, _ = fmt.Sscan(os.Getenv("CODE"), &code)
		os.Exit(code)
	}
}
