// Package site serves the host's pages: the one that lends a tab, the dashboard, and the
// engine that the tab runs, all embedded. Nothing is fetched from anywhere else.
//
// The build (make site) puts its files into dist: pages at the top, everything else under
// dist/assets, each compressed twice, as .br and as .gz. Assets are served under /assets/ID/,
// where ID identifies the whole build. So they can be cached for ever, and a page of an older
// build cannot be mixed with a newer one: its assets are gone, and the page says so.
package site

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

//go:embed all:dist
var embedded embed.FS

// policy is the content security policy of every page: only its own files, workers and host
// are allowed, and compiling WebAssembly.
const policy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self' ws: wss:; worker-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// buildMark is replaced by the build's ID in pages.
const buildMark = "{{build}}"

// types are the media types of our files, since the system's table may lack or change them.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
	".wasm": "application/wasm",
}

// Site is a build of the pages.
type Site struct {
	id    string
	pages map[string][]byte // by path: "/", "/dashboard"

	// Others returns the addresses of further hosts that a page may connect to; nil: none.
	Others func() []string
	files  map[string]*file // assets
}

// file is an asset. All requests share its bytes, so that memory per request does not grow
// with the file.
type file struct {
	br, gz []byte
	plain  func() ([]byte, error) // uncompressed, for the few clients that accept no encoding
}

// Embedded returns the build embedded in this program.
func Embedded() (*Site, error) {
	dist, err := fs.Sub(embedded, "dist")
	if err != nil {
		return nil, err
	}
	return New(dist)
}

// New reads a build.
func New(dist fs.FS) (*Site, error) {
	s := &Site{pages: map[string][]byte{}, files: map[string]*file{}}
	h := sha256.New()
	err := fs.WalkDir(dist, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(path.Base(name), ".") {
			return err
		}
		b, err := fs.ReadFile(dist, name)
		if err != nil {
			return err
		}
		h.Write([]byte(name + "\x00" + strconv.Itoa(len(b)) + "\x00"))
		h.Write(b)
		if page, ok := strings.CutSuffix(name, ".html"); ok {
			s.pages["/"+strings.TrimSuffix(page, "index")] = b
		}
		if asset, ok := strings.CutPrefix(name, "assets/"); ok {
			s.add(asset, b)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.id = hex.EncodeToString(h.Sum(nil))[:12]
	for name, b := range s.pages {
		s.pages[name] = bytes.ReplaceAll(b, []byte(buildMark), []byte(s.id))
	}
	return s, nil
}

// add adds an asset in one of its encodings.
func (s *Site) add(name string, b []byte) {
	ext := path.Ext(name)
	name = strings.TrimSuffix(name, ext)
	f := s.files[name]
	if f == nil {
		f = &file{}
		s.files[name] = f
	}
	switch ext {
	case ".br":
		f.br = b
	case ".gz":
		f.gz = b
		f.plain = sync.OnceValues(func() ([]byte, error) {
			z, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				return nil, err
			}
			return io.ReadAll(z)
		})
	}
}

// Built reports whether there are pages, which make site builds.
func (s *Site) Built() bool { return len(s.pages) > 0 }

// policy is the policy of a page that is opened now. It has no words for an address of IPv6 (CSP
// 3, section 2.3.1): the scheme alone stands for it, as it does for WebSockets.
func (s *Site) policy() string {
	if s.Others == nil {
		return policy
	}
	self := "connect-src 'self'"
	more := self
	for _, at := range s.Others() {
		u, err := url.Parse(at)
		switch {
		case err != nil || u.Host == "" || strings.ContainsAny(u.Host, " ;,'\"*"):
		case strings.HasPrefix(u.Host, "["):
			more += " " + u.Scheme + ":"
		default:
			more += " " + u.Scheme + "://" + u.Host
		}
	}
	return strings.Replace(policy, self, more, 1)
}

// ServeHTTP implements http.Handler.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	// Cross-origin isolation, for memory that workers share (HTML standard, 7.1.3 and 7.1.4).
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Embedder-Policy", "require-corp")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Content-Security-Policy", s.policy())
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		s.refuse(w, http.StatusMethodNotAllowed, "only GET and HEAD are allowed")
		return
	}
	if !s.Built() {
		s.refuse(w, http.StatusNotFound, "This ravnest was built without its pages: `make` builds them (it needs npm).\nNative providers can still join: ravnest-provider --join and this address.")
		return
	}
	if page, ok := s.pages[r.URL.Path]; ok {
		h.Set("Content-Type", types[".html"])
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", `"`+s.id+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(page))
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/assets/")
	id, name, _ := strings.Cut(rest, "/")
	switch {
	case !ok:
		s.refuse(w, http.StatusNotFound, "no such page: there are / and /dashboard")
	case id != s.id:
		s.refuse(w, http.StatusGone, "this host has been updated since the page was loaded: reload the page")
	default:
		s.asset(w, r, name)
	}
}

func (s *Site) refuse(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, text, status)
}

// asset serves a file in the best encoding that the browser accepts.
func (s *Site) asset(w http.ResponseWriter, r *http.Request, name string) {
	h := w.Header()
	kind, known := types[path.Ext(name)]
	if !known {
		s.refuse(w, http.StatusNotFound, "no such file")
		return
	}
	f := s.files[name]
	if f == nil || f.gz == nil {
		s.refuse(w, http.StatusNotFound, "no such file")
		return
	}
	h.Set("Vary", "Accept-Encoding")
	b := f.gz
	switch {
	case accepts(r, "br") && f.br != nil:
		h.Set("Content-Encoding", "br")
		b = f.br
	case accepts(r, "gzip"):
		h.Set("Content-Encoding", "gzip")
	default:
		var err error
		if b, err = f.plain(); err != nil {
			s.refuse(w, http.StatusInternalServerError, "the file is damaged")
			return
		}
	}
	h.Set("Content-Type", kind)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	if r.Method == http.MethodGet {
		_, _ = w.Write(b)
	}
}

// accepts reports whether the request's Accept-Encoding has e with a weight other than 0.
func accepts(r *http.Request, e string) bool {
	return slices.ContainsFunc(strings.Split(r.Header.Get("Accept-Encoding"), ","), func(part string) bool {
		name, weight, _ := strings.Cut(strings.TrimSpace(part), ";")
		q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
		return strings.EqualFold(strings.TrimSpace(name), e) && (weight == "" || (err == nil && q > 0))
	})
}
