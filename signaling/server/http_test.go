package server_test

// What the host serves beside sessions, and to whom.

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
)

func TestBlobs(t *testing.T) {
	s, addr := start(t, server.Config{Token: "t"})
	b := blobs{}
	job := testJob(b, 9)
	big := make([]byte, 5<<20)
	for i := range big {
		big[i] = byte(i * i >> 3)
	}
	ref := b.add(big)
	var ev events
	_ = run(t, s, job, &ev)
	c := dial(t, addr, client.Options{Token: "t", Hello: hello(""), MaxBlob: 6 << 20})
	got, err := c.Blob(t.Context(), ref)
	if err != nil || !bytes.Equal(got, big) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	empty := b.add(nil)
	if got, err := c.Blob(t.Context(), empty); err != nil || len(got) != 0 {
		t.Errorf("empty blob: %d bytes, %v", len(got), err)
	}
	liar := proto.Ref{SHA256: strings.Repeat("0", 64), Size: 4}
	b[liar.SHA256] = []byte("lies")
	tests := []struct {
		name string
		ref  proto.Ref
		want error
		text string
	}{
		{"not there", proto.Ref{SHA256: strings.Repeat("1", 64), Size: 4}, proto.ErrNotFound, ""},
		{"other bytes", liar, client.ErrBlob, "SHA-256"},
		{"shorter", proto.Ref{SHA256: ref.SHA256, Size: ref.Size + 1}, client.ErrBlob, "bytes"},
		{"longer", proto.Ref{SHA256: ref.SHA256, Size: ref.Size - 1}, client.ErrBlob, "bytes"},
		{"too large", proto.Ref{SHA256: ref.SHA256, Size: 1 << 40}, nil, "takes up to"},
		{"no hash", proto.Ref{SHA256: "../../etc/passwd", Size: 1}, nil, "SHA-256"},
	}
	for _, tt := range tests {
		_, err := c.Blob(t.Context(), tt.ref)
		if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestHTTPGuards(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t", Site: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "the site")
	})})
	sum := strings.Repeat("a", 64)
	tests := []struct {
		method, path string
		header       map[string]string
		want         int
	}{
		{"GET", "/", nil, 200},
		{"GET", "/v1/blob/" + sum, nil, 401},
		{"GET", "/v1/blob/" + sum, map[string]string{"Authorization": "Bearer x"}, 401},
		{"GET", "/v1/blob/" + sum, map[string]string{"Authorization": "t"}, 401},
		{"GET", "/v1/blob/" + sum, map[string]string{"Authorization": "Bearer t"}, 404},
		{"GET", "/v1/blob/..%2f..%2fetc", map[string]string{"Authorization": "Bearer t"}, 404},
		{"GET", "/v1/speed?bytes=10", nil, 401},
		{"GET", "/v1/speed?bytes=10", map[string]string{"Authorization": "Bearer t"}, 200},
		{"GET", "/v1/speed?bytes=99999999999", map[string]string{"Authorization": "Bearer t"}, 400},
		{"GET", "/v1/speed?bytes=-1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"GET", "/v1/status", nil, 401}, // loopback needs it too: a proxy's requests come from there
		{"GET", "/v1/watch", nil, 401},
		{"GET", "/v1/status", map[string]string{"Authorization": "Bearer t"}, 200},
		{"GET", "/v1/status", map[string]string{"Authorization": proto.Authorization("t")}, 200},
		{"GET", "/v1/status", map[string]string{"Authorization": "Ravnest t"}, 401},
		{"GET", "/v1/status", map[string]string{"Authorization": "Ravnest"}, 401},
		{"GET", "/v1/nothing", nil, 404},
		{"PUT", proto.UploadPath("r", 0, sum), nil, 401},
		{"PUT", proto.UploadPath("r", 0, sum) + "?offset=0&size=1", map[string]string{"Authorization": "Bearer t"}, 403},
		{"PUT", proto.UploadPath("r", 0, "short") + "?offset=0&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", proto.UploadPath("r", 0, sum), map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", proto.UploadPath("r", 0, sum) + "?offset=2&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", proto.UploadPath("r", 0, sum) + "?offset=-1&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"PUT", "/v1/upload/r/x/" + sum + "?offset=0&size=1", map[string]string{"Authorization": "Bearer t"}, 400},
		{"POST", "/v1/speed", map[string]string{"Authorization": "Bearer t", "Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, 403},
		{"DELETE", "/v1/blob/" + sum, map[string]string{"Authorization": "Bearer t"}, 404},
	}
	for _, tt := range tests {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+addr+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range tt.header {
			req.Header.Set(k, v)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tt.want {
			t.Errorf("%s %s %v: %d, want %d", tt.method, tt.path, tt.header, resp.StatusCode, tt.want)
		}
	}
	// A page of another site cannot join.
	_, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {"http://evil.example"}}})
	if err == nil {
		t.Error("a page of another site joined")
	}
}

func TestOpenHostServesThisMachineOnly(t *testing.T) {
	_, addr := start(t, server.Config{})
	// DNS rebinding: an attacker's name that points here.
	_, port, _ := net.SplitHostPort(addr)
	for _, path := range []string{proto.StatusPath, proto.WatchPath, "/v1/speed?bytes=1", proto.JoinPath} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example:" + port
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 401 && resp.StatusCode != 403 {
			t.Errorf("%s by a foreign name: %d", path, resp.StatusCode)
		}
	}
}

func TestBandwidth(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t"})
	up, down, err := client.MeasureBandwidth(t.Context(), addr, client.Options{Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if up <= 0 || down <= 0 {
		t.Errorf("up %g, down %g bits/s", up, down)
	}
	t.Logf("up %.2f, down %.2f Gbit/s", up/1e9, down/1e9)
	if _, _, err := client.MeasureBandwidth(t.Context(), addr, client.Options{Token: "x"}); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("wrong token: %v", err)
	}
}

func TestListen(t *testing.T) {
	ln, err := server.Listen("127.0.0.1:0", "")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().String()
	_, err = server.Listen(addr, "")
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), addr) || !strings.Contains(err.Error(), "another port") {
		t.Errorf("port in use: %v", err)
	}
	for _, open := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		if _, err := server.Listen(open, ""); !errors.Is(err, server.ErrOpen) || !strings.Contains(err.Error(), "token") {
			t.Errorf("%s without a token: %v", open, err)
		}
	}
	for _, bad := range []string{"nonsense", "127.0.0.1:99999", "127.0.0.1"} {
		if _, err := server.Listen(bad, ""); err == nil || !strings.Contains(err.Error(), "host:port") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if l, err := server.Listen("localhost:0", ""); err != nil {
		t.Error(err)
	} else {
		l.Close()
	}
}
