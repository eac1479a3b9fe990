package site

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
)

func packed(t *testing.T, s string) *fstest.MapFile {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: b.Bytes()}
}

func get(t *testing.T, h http.Handler, method, path string, header ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSite(t *testing.T) {
	s, err := New(fstest.MapFS{
		".keep":                  {Data: []byte("x")},
		"index.html":             {Data: []byte(`<script src="/assets/{{build}}/a.js">`)},
		"dashboard.html":         {Data: []byte("dashboard")},
		"assets/a.js.gz":         packed(t, "plain"),
		"assets/a.js.br":         {Data: []byte("brotli")},
		"assets/ravnest.wasm.gz": packed(t, "\x00asm"),
	})
	if err != nil || !s.Built() {
		t.Fatal(err, s.Built())
	}
	r := get(t, s, "GET", "/")
	if got := body(t, r); got != `<script src="/assets/`+s.id+`/a.js">` || len(s.id) != 12 {
		t.Errorf("index: %s", got)
	}
	for k, want := range map[string]string{
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp", "X-Content-Type-Options": "nosniff",
		"Cache-Control": "no-cache", "Etag": `"` + s.id + `"`, "Referrer-Policy": "no-referrer",
	} {
		if got := r.Header.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
	if p := r.Header.Get("Content-Security-Policy"); strings.Contains(p, "unsafe-inline") || !strings.Contains(p, "default-src 'none'") {
		t.Errorf("policy %q", p)
	}
	if r := get(t, s, "GET", "/", "If-None-Match", `"`+s.id+`"`); r.StatusCode != http.StatusNotModified {
		t.Errorf("the page again: %s", r.Status)
	}
	base := "/assets/" + s.id
	for _, c := range []struct{ accept, encoding, want string }{
		{"gzip, br;q=0.9", "br", "brotli"},
		{"br;q=0, gzip", "gzip", string(packed(t, "plain").Data)},
		{"", "", "plain"},
		{"identity", "", "plain"},
	} {
		r := get(t, s, "GET", base+"/a.js", "Accept-Encoding", c.accept)
		if got := body(t, r); r.StatusCode != 200 || got != c.want || r.Header.Get("Content-Encoding") != c.encoding {
			t.Errorf("accepting %q: %s %q %q", c.accept, r.Status, r.Header.Get("Content-Encoding"), got)
		}
		if r.Header.Get("Vary") != "Accept-Encoding" || !strings.Contains(r.Header.Get("Cache-Control"), "immutable") || r.Header.Get("Content-Type") != types[".js"] {
			t.Errorf("headers %v", r.Header)
		}
	}
	if r := get(t, s, "GET", base+"/ravnest.wasm"); r.Header.Get("Content-Type") != "application/wasm" {
		t.Errorf("wasm is %q", r.Header.Get("Content-Type"))
	}
	for path, want := range map[string]int{
		"/assets/0123456789ab/a.js": http.StatusGone, "/nothing": 404, base + "/b.js": 404, base + "/../index.html": 404, base + "/a.js.gz": 404, base + "/": 404,
	} {
		if r := get(t, s, "GET", path); r.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, r.Status, want)
		}
	}
	if r := get(t, s, "POST", "/"); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", r.Status)
	}
}

// TestPolicy: a page may connect to the job's other hosts, whatever their addresses.
func TestPolicy(t *testing.T) {
	s := &Site{Others: func() []string {
		return []string{"https://b.example:8443/train", "http://[2001:db8::1]:8090", "http://x;script-src:1"}
	}}
	_, more, _ := strings.Cut(s.policy(), "connect-src ")
	more, _, _ = strings.Cut(more, ";")
	if want := "'self' https://b.example:8443 http: ws: wss:"; more != want {
		t.Errorf("a page may connect to %q, want %q", more, want)
	}
}

// A program compiled without the pages says what is missing.
func TestNotBuilt(t *testing.T) {
	s, err := New(fstest.MapFS{".keep": {}})
	if err != nil || s.Built() {
		t.Fatal(err)
	}
	if r := get(t, s, "GET", "/"); r.StatusCode != 404 || !strings.Contains(body(t, r), "make") {
		t.Errorf("without pages: %s", r.Status)
	}
}

func TestEmbedded(t *testing.T) {
	if _, err := Embedded(); err != nil {
		t.Fatal(err)
	}
}

// TestScripts tests the pages' computations, if Node is installed.
func TestScripts(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed: the browser tests cover the pages' computations")
	}
	if out, err := exec.CommandContext(t.Context(), node, "--test", "test.mjs").CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
