package server_test

// One port for http, https and TURN; path prefixes, proxies, and certificates that change.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

// writeCert writes a new certificate for 127.0.0.1 and returns a pool that trusts it.
func writeCert(t *testing.T, dir, name string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	pool.AppendCertsFromPEM(cert)
	for file, b := range map[string][]byte{"cert.pem": cert, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kb})} {
		if err := os.WriteFile(filepath.Join(dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pool
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	pool := writeCert(t, dir, "one")
	cert, err := server.LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, addr := start(t, server.Config{Token: "t", TLS: cert.TLS(), RelayUDP: udp})
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	defer tr.CloseIdleConnections()
	c, err := client.Dial(t.Context(), "https://"+addr, client.Options{Token: "t", Hello: hello("a"), HTTP: &http.Client{Transport: tr}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close("")
	if _, _, err := client.MeasureBandwidth(t.Context(), "https://"+addr, client.Options{Token: "t", HTTP: &http.Client{Transport: tr}}); err != nil {
		t.Error(err)
	}
	// Plain http on that port is redirected.
	plain := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := plain.Get("http://" + addr + "/v1/status?x=1")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 308 || resp.Header.Get("Location") != "https://"+addr+"/v1/status?x=1" {
		t.Errorf("%s to %s", resp.Status, resp.Header.Get("Location"))
	}
	// TURN over TCP and over TLS uses the same port: a STUN request is answered.
	for name, dial := range map[string]func() (net.Conn, error){
		"tcp": func() (net.Conn, error) { return net.Dial("tcp", addr) },
		"tls": func() (net.Conn, error) { return tls.Dial("tcp", addr, &tls.Config{RootCAs: pool}) },
	} {
		nc, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		binding := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, "transaction!"...)
		if _, err := nc.Write(binding); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 20)
		if _, err := io.ReadFull(nc, b); err != nil || b[0] != 1 || b[1] != 1 || string(b[8:]) != "transaction!" {
			t.Errorf("%s: % x, %v", name, b, err)
		}
		nc.Close()
	}
	// Members have credentials of their own.
	ice := c.Welcome().ICE
	if len(ice) != 2 || len(ice[1].URLs) != 3 || !strings.HasPrefix(ice[1].URLs[2], "turns:127.0.0.1:") || !strings.HasSuffix(ice[1].Username, ":"+c.ID()) || ice[1].Credential == "" {
		t.Errorf("the welcome's servers: %+v", ice)
	}
	if st := s.Relayed(); st == nil || st.Members != 1 {
		t.Errorf("status of the relay: %+v", st)
	}
	c.Close("")
	for end := time.Now().Add(patience); s.Relayed().Members != 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("credentials outlived the session")
		}
	}

	// New files take effect; broken ones leave the previous certificate in use.
	ask := func(pool *x509.CertPool) error {
		nc, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool})
		if err == nil {
			nc.Close()
		}
		return err
	}
	second := writeCert(t, dir, "two")
	later := time.Now().Add(10 * time.Second)
	for _, f := range []string{"cert.pem", "key.pem"} {
		if err := os.Chtimes(filepath.Join(dir, f), later, later); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(patience); ask(second) != nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the new certificate is not served")
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	if err := ask(second); err != nil {
		t.Errorf("after a broken file: %v", err)
	}
	if _, err := server.LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err == nil || !strings.Contains(err.Error(), "cert.pem") {
		t.Errorf("a broken file: %v", err)
	}
}

// Behind a proxy that puts the host below a path, which it strips or not, and changes Host.
func TestBehindProxy(t *testing.T) {
	public, err := server.ParsePublic("https://train.example.org/job")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, addr := start(t, server.Config{Token: "t", Public: public, Proxy: true, RelayUDP: udp, Site: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.URL.Path)
	})})
	get := func(path string) string {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	for path, want := range map[string]string{"/": "/", "/job/": "/", "/job": "/", "/job/dashboard": "/dashboard", "/jobs": "/jobs"} {
		if got := get(path); got != want {
			t.Errorf("%s: %q", path, got)
		}
	}
	for _, base := range []string{"http://" + addr, "http://" + addr + "/job/"} {
		if _, _, err := client.MeasureBandwidth(t.Context(), base, client.Options{Token: "t"}); err != nil {
			t.Errorf("%s: %v", base, err)
		}
		c, err := client.Dial(t.Context(), base, client.Options{Token: "t", Hello: hello("")})
		if err != nil {
			t.Fatal(err)
		}
		if ice := c.Welcome().ICE; len(ice) != 2 || !strings.HasPrefix(ice[0].URLs[0], "stun:train.example.org:") {
			t.Errorf("%+v", ice)
		}
		c.Close("")
	}
	// A page of the public address can join although the proxy sends another Host.
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPHeader: http.Header{
		"Origin": {"https://train.example.org"}, "X-Forwarded-For": {"6.6.6.6, 198.51.100.7"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	events := make(chan server.Event, 16)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.Run(ctx, testJob(blobs{}, 2), func(ev server.Event) { events <- ev })
	}()
	h := hello("page")
	h.Token = "t"
	b, err := proto.Encode(&h)
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(t.Context(), websocket.MessageText, b); err != nil {
		t.Fatal(err)
	}
	for ev := range events {
		if j, ok := ev.(server.Joined); ok {
			if !strings.HasPrefix(j.Addr, "198.51.100.7") { // as seen by the nearest proxy
				t.Errorf("it joined from %s", j.Addr)
			}
			break
		}
	}
	cancel()
	<-done
}

// Without --proxy, forwarding headers are not trusted.
func TestForwardedIsNotBelieved(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, addr := start(t, server.Config{Token: "t", RelayUDP: udp})
	header := http.Header{"X-Forwarded-Host": {"evil.example"}, "Forwarded": {"host=evil.example;for=1.2.3.4"}}
	ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	defer ws.CloseNow()
	h := hello("a")
	h.Token = "t"
	b, _ := proto.Encode(&h)
	if err := ws.Write(t.Context(), websocket.MessageText, b); err != nil {
		t.Fatal(err)
	}
	_, b, err = ws.Read(t.Context())
	if err != nil || strings.Contains(string(b), "evil") || !strings.Contains(string(b), "turn:127.0.0.1") {
		t.Errorf("%s, %v", b, err)
	}
	header.Set("Origin", "https://evil.example")
	if ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPHeader: header}); err == nil {
		ws.CloseNow()
		t.Error("a page of another site joined")
	}
}

func TestParsePublic(t *testing.T) {
	for in, ok := range map[string]bool{
		"https://train.example.org": true, "http://[fd09::1]:80/x": true, "https://example.org/a/b/": true,
		"": false, "train.example.org": false, "ftp://x": false, "https://u:p@x": false, "https://x?y": false, "https://x#y": false, "https://ex ample.org": false, "https://a;b": false,
	} {
		u, err := server.ParsePublic(in)
		if (err == nil) != ok {
			t.Errorf("%q: %v, %v", in, u, err)
		}
	}
}

func TestACMEArguments(t *testing.T) {
	const directory = "https://acme.example/dir"
	for _, c := range []struct {
		directory, name string
		ok              bool
	}{
		{directory, "train.example.org", true},
		{"http://acme.example/dir", "train.example.org", false},
		{"acme", "train.example.org", false},
		{directory, "192.0.2.1", false},
		{directory, "localhost", false},
	} {
		conf, err := server.ACME(c.directory, t.TempDir(), c.name)
		if (err == nil) != c.ok {
			t.Errorf("%s from %s: %v", c.name, c.directory, err)
		}
		if err == nil && !slices.Contains(conf.NextProtos, "acme-tls/1") {
			t.Errorf("no challenge can be answered: %v", conf.NextProtos)
		}
	}
}

// A machine can get credentials for testing its network without joining, but only so many.
func TestTry(t *testing.T) {
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, addr := start(t, server.Config{Token: "t", RelayUDP: udp})
	v, rtt, err := client.Try(t.Context(), addr, client.Options{Token: "t"})
	if err != nil || len(v.ICE) != 2 || v.ICE[1].Credential == "" || rtt <= 0 || time.Since(time.UnixMilli(v.Time)).Abs() > time.Minute {
		t.Fatalf("%+v, %v, %v", v, rtt, err)
	}
	if len(s.Status().Members) != 0 {
		t.Error("it joined")
	}
	if _, _, err := client.Try(t.Context(), addr, client.Options{Token: "x"}); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("with a wrong token: %v", err)
	}
	for range 100 {
		if _, _, err = client.Try(t.Context(), addr, client.Options{Token: "t"}); err != nil {
			break
		}
	}
	if !errors.Is(err, proto.ErrFull) {
		t.Errorf("for ever: %v", err)
	}
}
