package e2e

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// certificate writes a self-signed certificate for 127.0.0.1 and its key.
func certificate(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for f, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: kb}} {
		if err := os.WriteFile(f, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestNginx: behind nginx with TLS, under a path, a native provider and a tab that uses all its
// cores give the results of one process. The limits are nginx's defaults: bodies of 1 MB, 60 s
// without a byte, buffering.
func TestNginx(t *testing.T) {
	posix(t)
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("no nginx")
	}
	s := newScene(t)
	tmp := t.TempDir()
	want := s.local(filepath.Join(tmp, "local"), "--epochs", "2")
	dir := filepath.Join(tmp, "job")
	s.ok("ravnest", "init", "--nodes", "2", "--epochs", "2", dir)
	s.ok("ravnest", "clusterize", dir)
	cert, key := certificate(t, tmp)
	outer, inner := freePort(t), freePort(t)
	conf := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
  map $http_upgrade $connection_upgrade { default upgrade; '' close; }
  server {
    listen %[2]s ssl;
    ssl_certificate %[3]s; ssl_certificate_key %[4]s;
    location /train/ {
      proxy_pass http://%[5]s/;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
}
`, tmp, outer, cert, key, inner)
	file := filepath.Join(tmp, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	s.begin(exec.Command(nginx, "-e", "stderr", "-c", file))
	url := "https://" + outer + "/train"
	host := s.start("ravnest", "serve", "--json", "--listen", inner, "--token", "s", "--proxy", "--public", url, dir)
	host.says("serving at "+url+":", limit)
	t.Setenv("SSL_CERT_FILE", cert)
	s.start("ravnest-provider", "--join", url, "--token", "s", "--name", "node_0", "--once")
	host.says("node_0 joined", limit)
	p := s.browser("ignore-certificate-errors").open(url + "/#token=s")
	if isolated, err := eval[bool](p, "crossOriginIsolated"); err != nil || !isolated {
		t.Errorf("the page is not cross-origin isolated (%v, %v), so a tab has only one core", isolated, err)
	}
	p.lend()
	if code := host.wait(limit); code != 0 {
		t.Fatalf("serve: code %d\n%s", code, tail(host.err.String()))
	}
	p.clean(t)
	if !bytes.Equal(read(t, dir, "losses.txt"), want) {
		t.Error("losses.txt differs from that of one process")
	}
}
