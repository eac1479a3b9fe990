package e2e

// Certificates from an ACME authority: Pebble, the small one that Let's Encrypt gives clients to
// test with.

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// acmeVar is the environment variable that gives TestInsideACME the authority's program.
const acmeVar = "RAVNEST_E2E_PEBBLE"

// TestACME: a host gets its certificate from an authority, serves it, and renews it while it
// trains; a native provider that trusts the authority and a tab with its cores train with it. All
// of them are in a namespace, where port 443 is free and the host has a name.
func TestACME(t *testing.T) {
	s := newScene(t)
	h := newHomes(s, "masquerade")
	pebble := filepath.Join(t.TempDir(), "pebble")
	if out, err := exec.Command("go", "build", "-C", "_pebble", "-o", pebble, "github.com/letsencrypt/pebble/v2/cmd/pebble").CombinedOutput(); err != nil {
		t.Skipf("Pebble cannot be built here: %v\n%s", err, out)
	}
	h.named("p", hostAt[0])
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in := h.begin("p", "env", acmeVar+"="+pebble, "RAVNEST_BIN="+bin, self, "-test.run=^TestInsideACME$", "-test.v")
	if code := in.wait(3 * limit); code != 0 {
		t.Errorf("in the namespace: code %d\n%s", code, in.out.String())
	}
}

// authority starts Pebble, whose certificates are valid for a lifetime in seconds, and returns the
// address of its directory, a file with the certificate of that address, and its root.
func authority(s *scene, pebble string, lifetime int) (directory, cert string, root []byte) {
	s.Helper()
	dir := s.TempDir()
	cert, key := certificate(s.T, dir)
	api, management := freePort(s.T), freePort(s.T)
	conf, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": api, "managementListenAddress": management, "certificate": cert, "privateKey": key, "httpPort": 80, "tlsPort": 443,
		"retryAfter": map[string]int{"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": map[string]any{"default": map[string]any{"description": "short", "validityPeriod": lifetime}},
	}})
	file := filepath.Join(dir, "pebble.json")
	if err == nil {
		err = os.WriteFile(file, conf, 0o600)
	}
	if err != nil {
		s.Fatal(err)
	}
	s.begin(exec.Command(pebble, "-config", file))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool(s, read(s, dir, "cert.pem"))}}}
	eventually(s, "the authority", limit, func() bool {
		resp, err := client.Get("https://" + management + "/roots/0")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		root, err = io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return "https://" + api + "/dir", cert, root
}

func pool(s *scene, pem []byte) *x509.CertPool {
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(pem) {
		s.Fatal("no certificate")
	}
	return p
}

// TestInsideACME is not a test of its own: TestACME runs it in a namespace.
func TestInsideACME(t *testing.T) {
	pebble := os.Getenv(acmeVar)
	if pebble == "" {
		t.Skip("run by TestACME in a network namespace")
	}
	const name = "train.example"
	s := newScene(t)
	directory, cert, root := authority(s, pebble, 30) // autocert renews after two thirds
	dir := s.endlessJob("--nodes", "2")
	t.Setenv("SSL_CERT_FILE", cert) // the authority's own address
	host := s.start("ravnest", "serve", "--listen", ":443", "--public", "https://"+name, "--acme", directory, "--token", "t", dir)
	host.says("serving at https://"+name+":", limit)
	roots := pool(s, root)
	// leaf is the certificate that the host serves, if it is valid.
	leaf := func() (c *x509.Certificate, err error) {
		conn, err := tls.Dial("tcp", name+":443", &tls.Config{RootCAs: roots})
		if err == nil {
			defer conn.Close()
			c = conn.ConnectionState().PeerCertificates[0]
		}
		return c, err
	}
	var first *x509.Certificate
	eventually(t, "a certificate", limit, func() (got bool) {
		var err error
		first, err = leaf()
		return err == nil
	})
	if life := first.NotAfter.Sub(first.NotBefore); life > time.Minute || first.VerifyHostname(name) != nil {
		t.Errorf("the certificate is for %v and lives %v", first.DNSNames, life)
	}
	trusted := filepath.Join(s.TempDir(), "root.pem")
	if err := os.WriteFile(trusted, root, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", trusted)
	s.start("ravnest-provider", "--join", "https://"+name, "--token", "t", "--name", "node_0")
	host.says("node_0 joined", limit)
	p := s.browser("ignore-certificate-errors").open("https://" + name + "/#token=t")
	if isolated, err := eval[bool](p, "crossOriginIsolated"); err != nil || !isolated {
		t.Errorf("the page is not cross-origin isolated (%v, %v), so a tab has only one core", isolated, err)
	}
	cores, err := eval[int](p, "navigator.hardwareConcurrency")
	if err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.WaitEnabled(chromedp.CSS("#go")))
	if _, err := eval[string](p, fmt.Sprintf(`cores.value = %d, cores.dispatchEvent(new Event("input", { bubbles: true })), cores.value`, cores)); err != nil {
		t.Fatal(err)
	}
	p.lend()
	host.says(`(?m)^training`, limit)
	if log, err := eval[string](p, `document.getElementById("log").textContent`); err != nil || !strings.Contains(log, fmt.Sprintf("%d thread(s)", cores)) {
		t.Errorf("the tab joined with %q (%v), want %d threads", log, err, cores)
	}
	s.saved(dir, 20)
	eventually(t, "another certificate", limit, func() bool {
		c, err := leaf()
		return err == nil && c.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	s.more(dir, 20)
	s.ends(host, dir, "--nodes", "2")
	p.clean(t)
}
