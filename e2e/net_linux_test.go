package e2e

// Networks like those of volunteers, built from network namespaces: homes behind routers
// that translate addresses, and the host outside. Needs root, iproute2 and nftables.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// homes are machines, two if no more are asked for, each behind a router, and a host that all can reach.
type homes struct {
	s      *scene
	prefix string
	at     [4]string // how each home calls the host: an address, in brackets if it is IPv6, or a name
}

// hostAt is the address of the host for each home. The homes reach each other only through it.
var hostAt = [4]string{"203.0.113.1", "203.0.113.5", "203.0.113.9", "203.0.113.13"}

// homeOf is the namespace of home k.
func homeOf(k int) string { return string("abcd"[k]) }

// newHomes makes two homes.
func newHomes(s *scene, masquerade string) *homes {
	s.Helper()
	return newHomesOf(s, 2, masquerade)
}

// newHomesOf makes so many homes.
func newHomesOf(s *scene, n int, masquerade string) *homes {
	s.Helper()
	if os.Getuid() != 0 {
		s.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "nft", "sysctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			s.Skipf("no %s on this machine", tool)
		}
	}
	sweep()
	h := &homes{s, fmt.Sprintf("rv%d", os.Getpid()), hostAt}
	names := []string{"p"}
	for k := range n {
		names = append(names, homeOf(k), "r"+homeOf(k))
	}
	for _, n := range names {
		if out, err := exec.Command("ip", "netns", "add", h.prefix+n).CombinedOutput(); err != nil {
			s.Skipf("no network namespaces here: %s", out)
		}
		s.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h.prefix+n).Run() })
		h.ip(n, "link", "set", "lo", "up")
	}
	h.in("p", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	for k := range n {
		home := homeOf(k)
		r := "r" + home
		h.link("p", "to"+home, hostAt[k]+"/30", r, "wan", fmt.Sprintf("203.0.113.%d/30", 4*k+2))
		h.link(r, "dn", fmt.Sprintf("192.168.%d.1/24", k+1), home, "in", fmt.Sprintf("192.168.%d.10/24", k+1))
		h.ip(r, "route", "add", "default", "via", hostAt[k])
		h.ip(home, "route", "add", "default", "via", fmt.Sprintf("192.168.%d.1", k+1))
		h.in(r, "sysctl", "-qw", "net.ipv4.ip_forward=1")
		h.nft(r, "add table ip nat", "add chain ip nat post { type nat hook postrouting priority 100 ; }", "add rule ip nat post oifname wan "+masquerade,
			// Like home routers, drop unsolicited packets before they create state.
			"add chain ip nat door { type filter hook input priority 0 ; }", "add rule ip nat door iifname wan ct state new drop")
	}
	return h
}

// sweep removes the namespaces of tests that were killed, and the files of their names.
func sweep() {
	for _, dir := range []string{"/run/netns", "/etc/netns"} {
		left, _ := os.ReadDir(dir)
		for _, e := range left {
			m := regexp.MustCompile(`^rv(\d+)(p|r?[a-d])$`).FindStringSubmatch(e.Name())
			if m == nil {
				continue
			}
			if _, err := os.Stat("/proc/" + m[1]); err == nil {
				continue // it runs
			}
			if dir == "/etc/netns" {
				_ = os.RemoveAll(filepath.Join(dir, e.Name()))
			} else {
				_ = exec.Command("ip", "netns", "del", e.Name()).Run()
			}
		}
	}
}

// in runs a command in a namespace.
func (h *homes) in(ns string, args ...string) {
	h.s.Helper()
	if out, err := exec.Command("ip", append([]string{"netns", "exec", h.prefix + ns}, args...)...).CombinedOutput(); err != nil {
		h.s.Fatalf("%s: %v: %v\n%s", ns, args, err, out)
	}
}

func (h *homes) ip(ns string, args ...string) {
	h.s.Helper()
	if out, err := exec.Command("ip", append([]string{"-n", h.prefix + ns}, args...)...).CombinedOutput(); err != nil {
		h.s.Fatalf("%s: ip %v: %v\n%s", ns, args, err, out)
	}
}

func (h *homes) nft(ns string, rules ...string) {
	h.s.Helper()
	for _, r := range rules {
		h.in(ns, "nft", r)
	}
}

func (h *homes) link(ns1, dev1, addr1, ns2, dev2, addr2 string) {
	h.s.Helper()
	out, err := exec.Command("ip", "link", "add", dev1, "netns", h.prefix+ns1, "type", "veth", "peer", "name", dev2, "netns", h.prefix+ns2).CombinedOutput()
	if err != nil {
		h.s.Fatalf("a link: %v\n%s", err, out)
	}
	for _, e := range [][3]string{{ns1, dev1, addr1}, {ns2, dev2, addr2}} {
		h.ip(e[0], "addr", "add", e[2], "dev", e[1])
		h.ip(e[0], "link", "set", e[1], "up")
	}
}

// noUDP drops UDP to the host and between the homes.
func (h *homes) noUDP() {
	h.s.Helper()
	for _, hook := range []string{"input", "forward"} {
		h.nft("p", "add table inet f", "add chain inet f "+hook+" { type filter hook "+hook+" priority 0 ; }", "add rule inet f "+hook+" meta l4proto udp drop")
	}
}

// begin starts a program in a namespace.
func (h *homes) begin(ns string, args ...string) *proc {
	h.s.Helper()
	return h.s.begin(exec.Command("ip", append([]string{"netns", "exec", h.prefix + ns}, args...)...))
}

// inside begins one of the tests that lend a tab inside a namespace, which url is given to by a
// variable. It may be killed, and then neither ends its browser nor removes what that has written: the
// scene does.
func (h *homes) inside(ns, test, variable, url string) *proc {
	h.s.Helper()
	self, err := os.Executable()
	if err != nil {
		h.s.Fatal(err)
	}
	own := fmt.Sprintf("RAVNEST_E2E_INSIDE=%s-%s", h.prefix, ns)
	h.s.Cleanup(func() {
		for range 400 {
			left := running(own)
			if len(left) == 0 {
				return
			}
			for _, p := range left {
				if pid, err := strconv.Atoi(strings.Fields(p)[0]); err == nil {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
		h.s.Errorf("left running:\n%s", strings.Join(running(own), "\n"))
	})
	return h.begin(ns, "env", variable+"="+url, own, "RAVNEST_BIN="+bin, "TMPDIR="+h.s.tmp, self, "-test.run=^"+test+"$", "-test.v")
}

// doctor checks that ravnest-provider doctor finds the paths that a home has, and says why
// others are missing.
func (h *homes) doctor(blocked bool) {
	h.s.Helper()
	p := h.begin("a", filepath.Join(bin, "ravnest-provider"), "doctor", "--join", "http://"+hostAt[0]+":8090", "--token", "a+b&c")
	if code := p.wait(limit); code != 0 {
		h.s.Errorf("doctor: code %d", code)
	}
	want := []string{`(?m)^ok +host .*answers in`, `(?m)^FAIL +encryption`, `(?m)^ok +clock`, `(?m)^ok +speed`, `(?m)^ok +relay, TCP`}
	if blocked {
		want = append(want, `(?m)^FAIL +UDP, STUN`, `hint: a firewall`, `(?m)^FAIL +relay, UDP`, `(?m)^ok +other providers +only through the host's relay, over TCP`)
	} else {
		want = append(want, `(?m)^ok +UDP, STUN +seen from outside as 203\.0\.113\.2$`, `(?m)^ok +relay, UDP`, `(?m)^ok +other providers +directly if`)
	}
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(p.out.String()) {
			h.s.Errorf("the doctor does not say %s:\n%s", w, p.out.String())
		}
	}
}

// insideVar is the environment variable that gives TestInside the URL of the page.
const insideVar = "RAVNEST_E2E_LEND"

// TestInside is not a test of its own: TestHomes runs it inside a namespace to lend a tab to
// its host until the run is over.
func TestInside(t *testing.T) {
	url := os.Getenv(insideVar)
	if url == "" {
		t.Skip("run by TestHomes in a network namespace")
	}
	p := newScene(t).browser().open(url)
	p.lend()
	p.shows(limit, "#state", "Training", "Not taking part")
	p.shows(limit, "#detail", "Thank you")
	p.clean(t)
}

// TestHomes: two homes train together whatever their routers do: directly if these keep ports
// stable, through the host's relay if they choose random ports, and through the relay over TCP
// if UDP is blocked; natively and in a tab, always with the results of one process.
func TestHomes(t *testing.T) {
	s := newScene(t)
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "2")
	for _, net := range []struct {
		name, masquerade string
		blocked, relayed bool
	}{
		{"stable ports", "masquerade", false, false},
		{"random ports", "masquerade fully-random", false, true},
		{"no UDP", "masquerade", true, true},
	} {
		for _, tab := range []bool{false, true} {
			name := net.name + map[bool]string{false: ", native", true: ", a tab"}[tab]
			t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
				s := newScene(t)
				h := newHomes(s, net.masquerade)
				if net.blocked {
					h.noUDP()
				}
				dir := filepath.Join(tmp, strings.NewReplacer(" ", "", ",", "").Replace(name))
				s.ok("ravnest", "init", "--nodes", "2", "--epochs", "2", dir)
				s.ok("ravnest", "clusterize", dir)
				host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--json", "--listen", "0.0.0.0:8090", "--token", "a+b&c", dir)
				host.says(`(?m)^WARNING: this is plain http`, limit)
				host.says(`serving at`, limit)
				if !tab {
					h.doctor(net.blocked)
				}
				h.begin("a", filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[0]+":8090", "--token", "a+b&c", "--name", "node_0", "--once")
				host.says("node_0 joined", limit)
				begin := time.Now()
				if tab {
					h.inside("b", "TestInside", insideVar, "http://"+hostAt[1]+":8090/#token=a+b&c")
				} else {
					h.begin("b", filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[1]+":8090", "--token", "a+b&c", "--name", "node_1", "--once")
				}
				host.says("node_1 joined", limit)
				joined := time.Now()
				host.says(`(?m)^training`, limit)
				t.Logf("joined after %.1f s, connected %.1f s later", joined.Sub(begin).Seconds(), time.Since(joined).Seconds())
				if code := host.wait(limit); code != 0 {
					t.Fatalf("serve: code %d\n%s", code, tail(host.err.String()))
				}
				if !bytes.Equal(read(t, dir, "losses.txt"), want) {
					t.Error("losses.txt differs from that of one process")
				}
				if relayed := strings.Contains(host.err.String(), "\nrelayed "); relayed != net.relayed {
					t.Errorf("through the host's relay: %v, want %v\n%s", relayed, net.relayed, tail(host.err.String()))
				}
				t.Logf("%.0f samples/s", parse[summary](t, host.out.String()).SamplesPerS)
			})
		}
	}
}

// counters returns the bytes that a machine has received and sent so far.
func (h *homes) counters(ns, dev string) (in, out int64) {
	h.s.Helper()
	for file, n := range map[string]*int64{"rx_bytes": &in, "tx_bytes": &out} {
		b, err := exec.Command("ip", "netns", "exec", h.prefix+ns, "cat", "/sys/class/net/"+dev+"/statistics/"+file).Output()
		if err != nil {
			h.s.Fatal(err)
		}
		if *n, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil {
			h.s.Fatal(err)
		}
	}
	return in, out
}

// TestRates: --up and --down limit everything that passes a provider's network interface: the
// download of the model, training, and the upload of the state, with a peer and a host that
// have no limits.
func TestRates(t *testing.T) {
	s := newScene(t)
	h := newHomes(s, "masquerade")
	dir := filepath.Join(t.TempDir(), "job")
	s.ok("ravnest", "init", "--nodes", "2", "--steps", "40", dir)
	wide(t, dir, 900)
	s.ok("ravnest", "clusterize", dir)
	host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--json", "--listen", "0.0.0.0:8090", "--token", "t", dir)
	host.says(`serving at`, limit)
	h.begin("b", filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[1]+":8090", "--token", "t", "--name", "node_1", "--once")
	const up, down = 16.0, 24.0 // Mbit/s
	begin := time.Now()
	in0, out0 := h.counters("a", "in")
	h.begin("a", filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[0]+":8090", "--token", "t", "--name", "node_0", "--once", "--up", fmt.Sprint(up), "--down", fmt.Sprint(down))
	for ended := false; !ended; {
		select {
		case <-host.done:
			ended = true
		case <-time.After(500 * time.Millisecond):
		}
		in, out := h.counters("a", "in")
		passed := time.Since(begin).Seconds()
		for _, c := range []struct {
			what  string
			bytes int64
			rate  float64
		}{{"received", in - in0, down}, {"sent", out - out0, up}} {
			// Allows for saved-up tokens, a window of the peer's, and 5 % for bytes that are counted late.
			if most := c.rate*1e6/8*(passed+0.25)*1.05 + 400e3; float64(c.bytes) > most {
				t.Errorf("%d bytes %s in %.1f s at %g Mbit/s, want at most %.0f", c.bytes, c.what, passed, c.rate, most)
				return
			}
		}
	}
	in, out := h.counters("a", "in")
	passed := time.Since(begin).Seconds()
	t.Logf("%.1f Mbit/s in, %.1f Mbit/s out over %.1f s", float64(in-in0)*8/1e6/passed, float64(out-out0)*8/1e6/passed, passed)
	if code := host.wait(limit); code != 0 {
		t.Fatalf("serve: code %d", code)
	}
	if in-in0 < 2e6 || out-out0 < 5e6 {
		t.Errorf("only %d bytes in and %d out: the run was too short to reach the limits", in-in0, out-out0)
	}
}

// moves replaces the address of home k's machine, as when a laptop changes its WiFi.
func (h *homes) moves(k int) {
	h.s.Helper()
	home, net := homeOf(k), fmt.Sprintf("192.168.%d.", k+1)
	h.ip(home, "addr", "del", net+"10/24", "dev", "in")
	h.ip(home, "addr", "add", net+"77/24", "dev", "in")
	h.ip(home, "route", "add", "default", "via", net+"1")
}

// TestAddressChanges: a provider's address is replaced by another one in the middle of training,
// as when a laptop changes its WiFi. Training goes on to the bits of one process, with the same
// providers, and nobody is blamed.
func TestAddressChanges(t *testing.T) {
	s := newScene(t)
	h := newHomes(s, "masquerade")
	dir := s.endlessJob("--nodes", "2")
	host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--listen", "0.0.0.0:8090", "--token", "t", dir)
	host.says(`serving at`, limit)
	var ps [2]*proc
	for k := range 2 {
		ps[k] = h.begin(homeOf(k), filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[k]+":8090", "--token", "t", "--name", fmt.Sprintf("node_%d", k))
	}
	host.says(`(?m)^training`, limit)
	s.saved(dir, 20)
	h.moves(0)
	changed := time.Now()
	host.says(`node_0 lost its connection .* has another one`, limit)
	s.more(dir, 300) // far more than was under way
	t.Logf("300 steps more %.1f s after the change", time.Since(changed).Seconds())
	s.ends(host, dir, "--nodes", "2")
	// The link moved too: nobody was lost, nothing was planned anew, no step repeated.
	if said := host.err.String(); regexp.MustCompile(`(?m)goes on from step|is gone|resumes`).MatchString(said) {
		t.Errorf("the run was set up anew:\n%s\n%s\n%s", tail(said), tail(ps[0].err.String()), tail(ps[1].err.String()))
	}
}

// TestTabAddressChanges: the same of a native provider that trains with a tab, of the tab's machine,
// and of one of two tabs.
func TestTabAddressChanges(t *testing.T) {
	for _, c := range []struct {
		name string
		tabs [2]bool // at which home there is a tab
		k    int     // the home whose address changes
	}{{"native", [2]bool{false, true}, 0}, {"a tab", [2]bool{false, true}, 1}, {"of two tabs", [2]bool{true, true}, 0}} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			s := newScene(t)
			h := newHomes(s, "masquerade")
			dir := s.endlessJob("--nodes", "2")
			host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--listen", "0.0.0.0:8090", "--token", "t", dir)
			host.says(`serving at`, limit)
			for k, tab := range c.tabs {
				home, url := homeOf(k), "http://"+hostAt[k]+":8090"
				if tab {
					h.inside(home, "TestInside", insideVar, url+"/#token=t")
				} else {
					h.begin(home, filepath.Join(bin, "ravnest-provider"), "--join", url, "--token", "t")
				}
				host.says(fmt.Sprintf("node_%d joined", k), limit)
			}
			host.says(`(?m)^training`, limit)
			s.saved(dir, 20)
			h.moves(c.k)
			changed := time.Now()
			host.says(fmt.Sprintf(`node_%d lost its connection .* has another one`, c.k), limit)
			s.more(dir, 300)
			t.Logf("300 steps more %.1f s after the change", time.Since(changed).Seconds())
			s.ends(host, dir, "--nodes", "2")
			if said := host.err.String(); regexp.MustCompile(`(?m)goes on from step|is gone|resumes`).MatchString(said) {
				t.Errorf("the run was set up anew:\n%s", tail(said))
			}
		})
	}
}

// TestFourNetworks: two homes, one of whose routers chooses random ports, a café without UDP and an office
// that lets out nothing but port 443 train the walkthrough in one pipeline, while one of the homes changes
// its network: to 97 % and the bits of one process. Before, the office's provider is killed and another one
// comes: the others go on over the connections that they have, the one that then moves among them.
func TestFourNetworks(t *testing.T) {
	s := newScene(t)
	h := newHomesOf(s, 4, "masquerade")
	for k, network := range []string{cone, symmetric, noUDP, only443} {
		h.become(k, network)
	}
	dir, local := filepath.Join(t.TempDir(), "job"), filepath.Join(t.TempDir(), "local")
	s.ok("ravnest", "init", "--nodes", "4", "--epochs", "60", dir)
	s.ok("ravnest", "clusterize", "--max-clusters", "1", dir)
	host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--json", "--listen", "0.0.0.0:443", "--token", "t", dir)
	host.says(`serving at`, limit)
	provide := func(k int) *proc {
		return h.begin(homeOf(k), filepath.Join(bin, "ravnest-provider"), "--join", h.url(k, 443), "--token", "t", "--name", fmt.Sprintf("node_%d", k), "--once")
	}
	var last *proc
	for k := range 4 {
		last = provide(k)
	}
	host.says(`(?m)^training`, limit)
	s.more(dir, 100)
	if err := last.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	host.says(`waiting for node_3`, limit)
	provide(3)
	host.says(`training resumes from step \d+`, limit)
	s.more(dir, 50)
	h.moves(0)
	changed := time.Now()
	host.says(`node_0 lost its connection .* has another one`, limit)
	s.more(dir, 100)
	t.Logf("100 steps more %.1f s after the change", time.Since(changed).Seconds())
	if code := host.wait(2 * limit); code != 0 {
		t.Fatalf("serve: code %d\n%s", code, tail(host.err.String()))
	}
	if r := parse[summary](t, host.out.String()); r.ValAccuracy < 0.97 || r.Providers != 4 {
		t.Errorf("%d providers reach %.4f", r.Providers, r.ValAccuracy)
	}
	if !strings.Contains(host.err.String(), "\nrelayed ") {
		t.Error("nothing went through the host's relay")
	}
	want := s.local(local, "--epochs", "60")
	s.ok("ravnest", "fuse", dir)
	if !bytes.Equal(read(t, dir, "losses.txt"), want) {
		t.Error("losses.txt differs from that of one process")
	}
	const trained = "trained/trained_state_dict.safetensors"
	if !bytes.Equal(read(t, dir, trained), read(t, local, trained)) {
		t.Error("the trained weights differ from those of one process")
	}
}

// TestNoPath: two providers that cannot reach each other, on a host without a relay, are found out and
// placed apart: neither is blamed, one of them gives way to a third, and the run is that of one process.
func TestNoPath(t *testing.T) {
	s := newScene(t)
	h := newHomesOf(s, 3, "masquerade")
	const first, last = "203.0.113.2", "203.0.113.10"
	h.nft("p", "add table inet f", "add chain inet f forward { type filter hook forward priority 0 ; }",
		"add rule inet f forward ip saddr "+first+" ip daddr "+last+" drop", "add rule inet f forward ip saddr "+last+" ip daddr "+first+" drop")
	dir, local := filepath.Join(t.TempDir(), "job"), filepath.Join(t.TempDir(), "local")
	s.ok("ravnest", "init", "--epochs", "3", dir)
	host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--providers", "2", "--clusters", "1", "--no-relay", "--listen", "0.0.0.0:8090", "--token", "t", dir)
	host.says(`serving at`, limit)
	var ps []*proc
	for _, k := range []int{0, 2, 1} { // they run on the routers, which have addresses that all know
		if k == 1 {
			host.says(`2 of 2`, limit) // who comes now waits
		}
		ps = append(ps, h.begin("r"+homeOf(k), filepath.Join(bin, "ravnest-provider"), "--join", h.url(k, 8090), "--token", "t", "--name", "node_"+homeOf(k), "--identity", "none", "--once"))
	}
	host.says(`no connection to node_[ac] within`, limit)
	host.says(`(root|leaf) node_b `, limit)
	host.says(`(?m)^training`, limit)
	if code := host.wait(2 * limit); code != 0 {
		t.Fatalf("serve: code %d\n%s", code, tail(host.err.String()))
	}
	for _, p := range ps {
		p.wait(limit)
	}
	if bad := regexp.MustCompile(`failed .* in a row.*|may try again`).FindString(host.err.String()); bad != "" {
		t.Errorf("the host says %q", bad)
	}
	want := s.local(local, "--epochs", "3")
	if !bytes.Equal(read(t, dir, "losses.txt"), want) {
		t.Error("losses.txt differs from that of one process")
	}
}
