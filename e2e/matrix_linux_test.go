package e2e

// The matrix of networks: whatever two homes have, they train together, directly where that
// can be, to the same bits.

import (
	"bytes"
	"fmt"
	"os"
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
)

var networks = []string{open, cone, symmetric, noUDP, only443}

// become gives home k a network.
func (h *homes) become(k int, network string) {
	h.s.Helper()
	r := "r" + string("ab"[k])
	drop := func(rule string) {
		h.nft(r, "add table inet f", "add chain inet f forward { type filter hook forward priority 0 ; }", "add rule inet f forward iifname dn "+rule+" drop")
	}
	switch network {
	case open:
		h.nft(r, "flush chain ip nat post")
		h.ip("p", "route", "add", fmt.Sprintf("192.168.%d.0/24", k+1), "via", fmt.Sprintf("203.0.113.%d", 4*k+2))
	case symmetric:
		h.nft(r, "flush chain ip nat post", "add rule ip nat post oifname wan masquerade fully-random")
	case noUDP:
		drop("meta l4proto udp")
	case only443:
		drop("meta l4proto != tcp")
		drop("tcp dport != 443")
	}
}

// direct tells whether two networks let a direct path be: by UDP, and not where one side's
// port is another one than the other side was told and the other only lets in whom it knows.
func direct(a, b string) bool {
	if slices.Contains([]string{noUDP, only443}, a) || slices.Contains([]string{noUDP, only443}, b) {
		return false
	}
	return a == open || b == open || a == cone && b == cone
}

// what the doctor says in a network.
var diagnoses = map[string][]string{
	open:      {`ok +UDP, STUN +seen from outside as 192\.168\.`, `ok +relay, UDP`, `ok +other providers +directly if`},
	cone:      {`ok +UDP, STUN +seen from outside as 203\.0\.113\.`, `ok +relay, UDP`, `ok +relay, TCP`, `ok +other providers +directly if`},
	symmetric: {`ok +UDP, STUN +seen from outside as 203\.0\.113\.`, `ok +relay, UDP`, `ok +relay, TCP`, `ok +other providers +directly if`},
	noUDP:     {`FAIL +UDP, STUN`, `FAIL +relay, UDP`, `ok +relay, TCP`, `ok +other providers +only through the host's relay, over TCP`},
	only443:   {`FAIL +UDP, STUN`, `FAIL +relay, UDP`, `ok +relay, TCP`, `ok +other providers +only through the host's relay, over TCP`},
}

// TestNetworks trains in cells of the matrix: some of them, and all with RAVNEST_MATRIX (make
// test-matrix).
func TestNetworks(t *testing.T) {
	s := newScene(t)
	all := os.Getenv("RAVNEST_MATRIX") != ""
	some := [][2]string{{open, symmetric}, {cone, only443}}
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "1")
	examined := map[string]bool{}
	for i, a := range networks {
		for _, b := range networks[i:] {
			if !all && !slices.Contains(some, [2]string{a, b}) {
				continue
			}
			name := strings.ReplaceAll(a+" and "+b, " ", "_")
			t.Run(name, func(t *testing.T) {
				s := newScene(t)
				h := newHomes(s, "masquerade")
				h.become(0, a)
				h.become(1, b)
				dir := filepath.Join(tmp, name)
				s.ok("ravnest", "init", "--nodes", "2", "--epochs", "1", dir)
				s.ok("ravnest", "clusterize", dir)
				host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--listen", "0.0.0.0:443", "--token", "t", dir)
				host.says(`serving at`, limit)
				for k, network := range []string{a, b} {
					if examined[network] {
						continue
					}
					examined[network] = true
					p := h.begin(string("ab"[k]), filepath.Join(bin, "ravnest-provider"), "doctor", "--join", "http://"+hostAt[k]+":443", "--token", "t")
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
					h.begin(string("ab"[k]), filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[k]+":443", "--token", "t", "--name", fmt.Sprintf("node_%d", k), "--once")
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
// homes have. It takes minutes: make test-matrix.
func TestTabNetworks(t *testing.T) {
	if os.Getenv("RAVNEST_MATRIX") == "" {
		t.Skip("make test-matrix runs it; TestHomes has tabs in three networks")
	}
	s := newScene(t)
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range networks {
		for _, b := range networks {
			name := strings.ReplaceAll(a+" and a tab, "+b, " ", "_")
			t.Run(name, func(t *testing.T) {
				s := newScene(t)
				h := newHomes(s, "masquerade")
				h.become(0, a)
				h.become(1, b)
				dir := filepath.Join(tmp, name)
				s.ok("ravnest", "init", "--nodes", "2", "--epochs", "1", dir)
				s.ok("ravnest", "clusterize", dir)
				host := h.begin("p", filepath.Join(bin, "ravnest"), "serve", "--listen", "0.0.0.0:443", "--token", "t", dir)
				host.says(`serving at`, limit)
				h.begin("a", filepath.Join(bin, "ravnest-provider"), "--join", "http://"+hostAt[0]+":443", "--token", "t", "--name", "node_0", "--once")
				host.says("node_0 joined", limit)
				h.begin("b", "env", insideVar+"=http://"+hostAt[1]+":443/#token=t", "RAVNEST_BIN="+bin, self, "-test.run=^TestInside$", "-test.v")
				host.says("2 of 2", limit)
				joined := time.Now()
				host.says(`(?m)^training`, limit)
				took := time.Since(joined)
				t.Logf("connected %.1f s after both had joined", took.Seconds())
				if took > 5*time.Second {
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
