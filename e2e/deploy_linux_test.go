package e2e

// The files of native/deploy work as they are written: there is no Docker and no systemd in the
// tests, but the Compose Specification's own reader, namespaces, and systemd's check of units.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// container is a service of a compose file, as far as it says what runs.
type container struct {
	User        string             `json:"user"`
	ReadOnly    bool               `json:"read_only"`
	Drop        []string           `json:"cap_drop"`
	Options     []string           `json:"security_opt"`
	Entrypoint  []string           `json:"entrypoint"`
	Command     []string           `json:"command"`
	Environment map[string]*string `json:"environment"`
	Tmpfs       []string           `json:"tmpfs"`
	Network     string             `json:"network_mode"`
	Memory      string             `json:"mem_limit"`
	Volumes     []struct{ Source, Target string }
}

// contain starts a service as a container would: its user, without capabilities, below a root that
// has the two programs and nothing else and cannot be written to.
func (h *homes) contain(c container) *proc {
	h.s.Helper()
	user, group, _ := strings.Cut(c.User, ":")
	if user == "" || user == "0" || !c.ReadOnly || !slices.Equal(c.Drop, []string{"ALL"}) || !slices.Contains(c.Options, "no-new-privileges:true") || c.Memory == "" {
		h.s.Errorf("a service with more rights than it needs: %+v", c)
	}
	root := h.s.TempDir()
	script := `mount --bind "$0" "$0"; cd "$0"; mkdir -p proc; mount -t proc proc proc
for f in ravnest ravnest-provider; do : > $f; mount --bind "` + bin + `/$f" $f; done
for d in lib lib64; do [ ! -e /$d ] || { mkdir -p $d; mount --bind /$d $d; }; done
` // a release needs no libraries; what make build makes may
	for _, t := range c.Tmpfs {
		at, options, _ := strings.Cut(t, ":")
		script += fmt.Sprintf("mkdir -p .%s; mount -t tmpfs -o %s tmpfs .%s\n", at, options, at)
	}
	for _, v := range c.Volumes {
		script += fmt.Sprintf("mkdir -p .%s; mount --bind '%s' .%s\n", v.Target, v.Source, v.Target)
	}
	script += `mount -o remount,bind,ro "$0"
exec setpriv --no-new-privs --bounding-set=-all,+sys_chroot,+setuid,+setgid --inh-caps=-all env -i "$@"`
	args := []string{"unshare", "-m", "sh", "-ec", script, root, "PATH=" + os.Getenv("PATH"), h.s.mark}
	for _, k := range slices.Sorted(maps.Keys(c.Environment)) {
		if v := c.Environment[k]; v != nil {
			args = append(args, k+"="+*v)
		}
	}
	args = append(args, "chroot", "--userspec="+user+":"+group, "--groups=", root)
	if len(c.Entrypoint) == 0 {
		c.Entrypoint = []string{"/ravnest-provider"} // of the Dockerfile
	}
	return h.begin("p", append(append(args, c.Entrypoint...), c.Command...)...)
}

// TestCompose: the services of compose.yaml train a job together, within their limits.
func TestCompose(t *testing.T) {
	s := newScene(t)
	h := newHomes(s, "masquerade")
	for _, tool := range []string{"unshare", "setpriv", "chroot", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("no %s on this machine", tool)
		}
	}
	tool, dir := filepath.Join(t.TempDir(), "compose"), filepath.Join(t.TempDir(), "job")
	if out, err := exec.Command("go", "build", "-C", "_compose", "-o", tool, "github.com/compose-spec/compose-go/v2/cmd").CombinedOutput(); err != nil {
		t.Skipf("the reader of the Compose Specification cannot be built here: %v\n%s", err, out)
	}
	// It fills in defaults only; the test then sets what a person sets.
	out, err := exec.Command(tool, "-format", "json", "../native/deploy/compose.yaml").Output()
	if err != nil {
		said := ""
		if e := (*exec.ExitError)(nil); errors.As(err, &e) {
			said = string(e.Stderr)
		}
		t.Fatalf("compose.yaml is not what the specification wants: %v\n%s", err, said)
	}
	var file struct{ Services map[string]container }
	if err := json.Unmarshal(out, &file); err != nil {
		t.Fatal(err)
	}
	yaml, token := string(read(t, "../native/deploy", "compose.yaml")), "se cret"
	for name, c := range file.Services {
		for k := range c.Environment {
			if !strings.Contains(yaml, k+": ${"+k+":-") {
				t.Errorf("%s: %s cannot be set", name, k)
			}
		}
		c.Environment["RAVNEST_TOKEN"] = &token
	}
	if v := file.Services["host"].Volumes; len(v) != 1 || !strings.Contains(yaml, `"${RAVNEST_JOB:-./job}:/job"`) {
		t.Fatalf("the host's volumes are %v, want $RAVNEST_JOB", v)
	}
	file.Services["host"].Volumes[0].Source = dir
	if docker, err := os.ReadFile("../native/deploy/Dockerfile"); err != nil || !strings.Contains(string(docker), `ENTRYPOINT ["/ravnest-provider"]`) {
		t.Errorf("the Dockerfile begins something else (%v)", err)
	}
	s.ok("ravnest", "init", "--nodes", "1", "--epochs", "2", dir)
	s.ok("ravnest", "clusterize", dir)
	if out, err := exec.Command("chown", "-R", "65534:65534", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	host := h.contain(file.Services["host"])
	host.says(`serving at`, limit)
	if n := file.Services["provider"].Network; n != "host" {
		t.Errorf("the provider's network is %q: an address of this machine leads nowhere there", n)
	}
	p := h.contain(file.Services["provider"])
	host.says(`(?m)^training`, limit)
	if code := host.wait(limit); code != 0 {
		t.Errorf("the host: code %d\n%s", code, tail(host.err.String()))
	}
	if len(lines(t, dir, "losses.txt")) == 0 {
		t.Error("no losses")
	}
	p.says("waiting for its next job", limit)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil { // docker compose stop
		t.Fatal(err)
	}
	p.wait(limit)
}

// TestServiceUnits: systemd finds nothing to complain of in the units, and their command lines
// train a job together. Every variable that is named is one of the program's.
func TestServiceUnits(t *testing.T) {
	s := newScene(t)
	h := newHomes(s, "masquerade")
	tmp := t.TempDir()
	dir := filepath.Join(tmp, "job")
	units := map[string]string{}
	var files []string
	for _, name := range []string{"ravnest", "ravnest-provider"} {
		text := strings.NewReplacer("/usr/local/bin/", bin+"/", "/var/lib/ravnest/job", dir).Replace(string(read(t, "../native/deploy", name+".service")))
		file := filepath.Join(tmp, name+".service")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		units[name], files = text, append(files, file)
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Log("no systemd-analyze here: the units are not checked by it")
	} else if out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, files...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd says: %v\n%s", err, out)
	}
	start := func(name string) []string {
		m := regexp.MustCompile(`(?m)^ExecStart=(.*)$`).FindStringSubmatch(units[name])
		if m == nil {
			t.Fatalf("%s.service starts nothing", name)
		}
		return strings.Fields(strings.ReplaceAll(m[1], "%d", tmp)) // where LoadCredential puts the token
	}
	if err := os.WriteFile(filepath.Join(tmp, "token"), []byte("se-cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	help, _ := s.ok("ravnest-provider", "--help")
	settings := string(read(t, "../native/deploy", "provider.env"))
	for _, v := range regexp.MustCompile(`RAVNEST_[A-Z_]+`).FindAllString(settings+units["ravnest-provider"]+string(read(t, "../native/deploy", "compose.yaml")), -1) {
		if of := []string{"RAVNEST_JOB", "RAVNEST_NETWORK"}; !strings.Contains(help, "$"+v) && !slices.Contains(of, v) { // compose.yaml's own
			t.Errorf("%s is no setting of ravnest-provider", v)
		}
	}
	s.ok("ravnest", "init", "--nodes", "1", "--epochs", "2", dir)
	s.ok("ravnest", "clusterize", dir)
	host := h.begin("p", start("ravnest")...)
	host.says(`serving at`, limit)
	env := []string{"env", "RAVNEST_IDENTITY=" + filepath.Join(tmp, "identity.pem")}
	for l := range strings.Lines(settings) {
		// With all that a person may uncomment, but the hours and the collector.
		k, v, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(l), "#"), "=")
		switch {
		case !ok || strings.Contains(k, " ") || k == "RAVNEST_SCHEDULE" || !strings.HasPrefix(k, "RAVNEST_"):
			continue
		case k == "RAVNEST_JOIN":
			v = "http://" + hostAt[0] + ":8090"
		case k == "RAVNEST_TOKEN":
			v = "se-cret"
		}
		env = append(env, k+"="+v)
	}
	p := h.begin("a", append(env, start("ravnest-provider")...)...)
	if code := host.wait(limit); code != 0 {
		t.Errorf("the host: code %d\n%s", code, tail(host.err.String()))
	}
	p.says("waiting for its next job", limit)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil { // systemctl stop
		t.Fatal(err)
	}
	p.wait(limit)
}
