package e2e

// The matrix of networks: whatever two homes have, they train together, directly where that
// can be, to the same bits.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The networks of a home.
const (
	open      = "open"      // a public address
	cone      = "cone"      // translated, with stable ports
	symmetric = "symmetric" // translated, with a random port for each destination
	noUDP     = "no UDP"    // translated, and UDP is dropped
	only443   = "only 443"  // translated, and all but TCP to port 443 is dropped
	six       = "IPv6 only" // addresses of its own, and a firewall that lets answers in and nothing else
	sixTCP    = "IPv6 only, no UDP"
	dual      = "dual stack" // cone and six; the host has a name with both kinds of address
)

var networks = []string{open, cone, symmetric, noUDP, only443, six, sixTCP, dual}

// hasSix and hasFour tell whether a network has addresses of a kind.
func hasSix(network string) bool  { return slices.Contains([]string{six, sixTCP, dual}, network) }
func hasFour(network string) bool { return network != six && network != sixTCP }

// become gives home k a network.
func (h *homes) become(k int, network string) {
	h.s.Helper()
	r := "r" + homeOf(k)
	if hasSix(network) {
		h.sixth(k)
	}
	if !hasFour(network) {
		h.ip(homeOf(k), "-4", "addr", "flush", "scope", "global")
		h.ip(r, "-4", "addr", "flush", "scope", "global")
		h.ip("p", "-4", "addr", "flush", "dev", "to"+homeOf(k))
	}
	drop := func(rule string) {
		h.nft(r, "add table inet f", "add chain inet f forward { type filter hook forward priority 0 ; }", "add rule inet f forward iifname dn "+rule+" drop")
	}
	switch network {
	case open:
		h.nft(r, "flush chain ip nat post")
		h.ip("p", "route", "add", fmt.Sprintf("192.168.%d.0/24", k+1), "via", fmt.Sprintf("203.0.113.%d", 4*k+2))
	case symmetric:
		h.nft(r, "flush chain ip nat post", "add rule ip nat post oifname wan masquerade fully-random")
	case noUDP, sixTCP:
		drop("meta l4proto udp")
	case dual:
		h.at[k] = h.named(homeOf(k), hostAt[k], strings.Trim(h.at[k], "[]"))
	case only443:
		drop("meta l4proto != tcp")
		drop("tcp dport != 443")
	}
}

// sixth gives home k and the host addresses of IPv6, and the router a firewall. Nothing is
// translated.
func (h *homes) sixth(k int) {
	h.s.Helper()
	home, r, net := homeOf(k), "r"+homeOf(k), func(n, host int) string { return fmt.Sprintf("2001:db8:%d::%d", 10*k+n, host) }
	h.at[k] = "[" + net(1, 1) + "]"
	for _, a := range [][3]string{{"p", "to" + home, net(1, 1)}, {r, "wan", net(1, 2)}, {r, "dn", net(2, 1)}, {home, "in", net(2, 16)}} {
		h.ip(a[0], "addr", "add", a[2]+"/64", "dev", a[1], "nodad")
	}
	for _, n := range []string{"p", r} {
		h.in(n, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	}
	h.ip("p", "route", "add", net(2, 0)+"/64", "via", net(1, 2))
	h.ip(r, "-6", "route", "add", "default", "via", net(1, 1))
	h.ip(home, "-6", "route", "add", "default", "via", net(2, 1))
	h.nft(r, "add table ip6 f", "add chain ip6 f forward { type filter hook forward priority 0 ; }",
		"add rule ip6 f forward iifname wan ct state established,related accept", "add rule ip6 f forward iifname wan drop")
	// A browser takes an address that is tried for duplicates, and found to be none, for another
	// network, and gives up the page that it loads.
	eventually(h.s, "addresses that are none of others", limit, func() bool {
		out, err := exec.Command("ip", "-n", h.prefix+home, "-6", "addr", "show", "tentative").Output()
		return err == nil && len(bytes.TrimSpace(out)) == 0
	})
}

// named makes a name for addresses, which one machine alone knows, and returns it.
func (h *homes) named(ns string, addresses ...string) string {
	h.s.Helper()
	const name = "train.example"
	dir := filepath.Join("/etc/netns", h.prefix+ns) // ip netns exec puts it in /etc's place
	hosts := "127.0.0.1 localhost\n"
	for _, a := range addresses {
		hosts += a + " " + name + "\n"
	}
	err := os.MkdirAll(dir, 0o755)
	h.s.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "hosts"), []byte(hosts), 0o644)
	}
	if err != nil {
		h.s.Fatal(err)
	}
	return name
}

// serve makes the two homes' networks a and b, and begins a host for two providers.
func (h *homes) serve(dir, a, b string) *proc {
	h.s.Helper()
	h.become(0, a)
	h.become(1, b)
	h.s.ok("ravnest", "init", "--nodes", "2", "--epochs", "1", dir)
	h.s.ok("ravnest", "clusterize", dir)
	return h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--listen", "[::]:443", "--token", "t", dir)
}

// url returns the address of the host for home k.
func (h *homes) url(k, port int) string { return fmt.Sprintf("http://%s:%d", h.at[k], port) }

// direct tells whether two networks let a direct path be: by UDP, and not where one side's
// port is another one than the other side was told and the other only lets in whom it knows.
func direct(a, b string) bool {
	none := []string{noUDP, only443, sixTCP}
	switch {
	case slices.Contains(none, a) || slices.Contains(none, b):
		return false
	case hasSix(a) && hasSix(b):
		return true // a firewall lets in whom its home has called
	case !hasFour(a) || !hasFour(b):
		return false // no kind of address in common
	}
	stable := []string{cone, dual}
	return a == open || b == open || slices.Contains(stable, a) && slices.Contains(stable, b)
}

// what the doctor says in a network.
var diagnoses = map[string][]string{
	open:      {`ok +UDP, STUN +seen from outside as 192\.168\.`, `ok +relay, UDP`, `ok +other providers +directly if`},
	cone:      {`ok +UDP, STUN +seen from outside as 203\.0\.113\.`, `ok +relay, UDP`, `ok +relay, TCP`, `ok +other providers +directly if`},
	symmetric: {`ok +UDP, STUN +seen from outside as 203\.0\.113\.`, `ok +relay, UDP`, `ok +relay, TCP`, `ok +other providers +directly if`},
	noUDP:     {`FAIL +UDP, STUN`, `FAIL +relay, UDP`, `ok +relay, TCP`, `ok +other providers +only through the host's relay, over TCP`},
	only443:   {`FAIL +UDP, STUN`, `FAIL +relay, UDP`, `ok +relay, TCP`, `ok +other providers +only through the host's relay, over TCP`},
	six:       {`ok +UDP, STUN +seen from outside as 2001:db8:`, `ok +relay, UDP`, `ok +relay, TCP`, `ok +other providers +directly if`},
	sixTCP:    {`FAIL +UDP, STUN`, `FAIL +relay, UDP`, `ok +relay, TCP`, `ok +other providers +only through the host's relay, over TCP`},
	dual:      {`ok +UDP, STUN +seen from outside as `, `ok +relay, UDP`, `ok +relay, TCP`, `ok +other providers +directly if`},
}

// TestNetworks trains in cells of the matrix: some of them, and all with RAVNEST_MATRIX (make
// test-matrix).
func TestNetworks(t *testing.T) {
	s := newScene(t)
	all := os.Getenv("RAVNEST_MATRIX") != ""
	some := [][2]string{{open, symmetric}, {cone, only443}, {six, six}, {cone, six}}
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "1")
	examined := map[string]bool{}
	for i, a := range networks {
		for _, b := range networks[i:] {
			if !all && !slices.Contains(some, [2]string{a, b}) {
				continue
			}
			name := strings.NewReplacer(" ", "_", ",", "").Replace(a + " and " + b)
			t.Run(name, func(t *testing.T) {
				s, dir := newScene(t), filepath.Join(tmp, name)
				h := newHomes(s, "masquerade")
				host := h.serve(dir, a, b)
				if a == six && b == six { // the host has no other address either
					host.says(`serving at http://\[2001:db8:\d+::1\]:443: start`, limit)
				}
				host.says(`serving at`, limit)
				for k, network := range []string{a, b} {
					if examined[network] {
						continue
					}
					examined[network] = true
					p := h.begin(homeOf(k), filepath.Join(bin, "ravnest-provider"), "doctor", "--join", h.url(k, 443), "--token", "t")
					if code := p.wait(limit); code != 0 {
						t.Errorf("the doctor at %s: code %d", network, code)
					}
					for _, w := range diagnoses[network] {
						if !regexp.MustCompile("(?m)^" + w).MatchString(p.out.String()) {
							t.Errorf("the doctor at %s does not say %s:\n%s", network, w, p.out.String())
						}
					}
				}
				for k := range 2 {
					h.begin(homeOf(k), filepath.Join(bin, "ravnest-provider"), "--join", h.url(k, 443), "--token", "t", "--name", fmt.Sprintf("node_%d", k), "--once")
				}
				host.says("2 of 2", limit)
				joined := time.Now()
				host.says(`(?m)^training`, limit)
				t.Logf("connected %.1f s after both had joined", time.Since(joined).Seconds())
				if code := host.wait(limit); code != 0 {
					t.Fatalf("serve: code %d", code)
				}
				if !bytes.Equal(read(t, dir, "losses.txt"), want) {
					t.Error("losses.txt is not that of one process")
				}
				if relayed := strings.Contains(host.err.String(), "\nrelayed "); relayed == direct(a, b) {
					t.Errorf("by the host's relay: %v, want %v\n%s", relayed, !direct(a, b), tail(host.err.String()))
				}
			})
		}
	}
}

// TestTabNetworks trains a native provider at one home and a tab at the other, whatever the two
// homes have: all of them with RAVNEST_MATRIX (make test-matrix). TestHomes has more.
func TestTabNetworks(t *testing.T) {
	all := os.Getenv("RAVNEST_MATRIX") != ""
	some := [][2]string{{cone, six}}
	s := newScene(t)
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "1")
	for _, a := range networks {
		for _, b := range networks {
			if !all && !slices.Contains(some, [2]string{a, b}) {
				continue
			}
			name := strings.NewReplacer(" ", "_", ",", "").Replace(a + " and a tab " + b)
			t.Run(name, func(t *testing.T) {
				s, dir := newScene(t), filepath.Join(tmp, name)
				h := newHomes(s, "masquerade")
				host := h.serve(dir, a, b)
				host.says(`serving at`, limit)
				h.begin("a", filepath.Join(bin, "ravnest-provider"), "--join", h.url(0, 443), "--token", "t", "--name", "node_0", "--once")
				host.says("node_0 joined", limit)
				h.inside("b", "TestInside", insideVar, h.url(1, 443)+"/#token=t")
				host.says("2 of 2", limit)
				joined := time.Now()
				host.says(`(?m)^training`, limit)
				took := time.Since(joined)
				t.Logf("connected %.1f s after both had joined", took.Seconds())
				if all && took > 5*time.Second {
					t.Errorf("connecting took %v, want 5 s at most", took)
				}
				if code := host.wait(limit); code != 0 {
					t.Fatalf("serve: code %d", code)
				}
				if !bytes.Equal(read(t, dir, "losses.txt"), want) {
					t.Error("losses.txt is not that of one process")
				}
				if relayed := strings.Contains(host.err.String(), "\nrelayed "); relayed == direct(a, b) {
					t.Errorf("by the host's relay: %v, want %v\n%s", relayed, !relayed, tail(host.err.String()))
				}
			})
		}
	}
}
