package server

// The HTTP routes: blobs, uploads of trained stages (upload.go), bandwidth tests, status and
// the site. No request needs a body larger than proto.MaxChunk, so that the host works behind
// proxies with small limits, and a body that does not arrive is soon given up.

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// minRate is the lowest average rate in bytes per second at which a body may arrive.
const minRate = 4 << 10

// Handler serves the host's routes:
//
//	GET  /v1/join                          WebSocket, package proto
//	GET  /v1/blob/{sha256}                 graph, data, weights; with Range; from a session
//	PUT  /v1/upload/{run}/{stage}/{sha256}?offset=N&size=N
//	                                       a piece of a trained stage, from its session
//	GET  /v1/speed?bytes=N                 N bytes, at most proto.MaxChunk
//	POST /v1/speed                         discards at most as many
//	GET  /v1/try                           proto.Try, for testing one's network
//	GET  /v1/status                        Status as JSON
//	GET  /v1/watch?after=TIME              a stream of Views, one JSON value a line
//	GET  /metrics                          the same in Prometheus' text format
//	     /                                 Config.Site
//
// If there is a token, all routes require it except the site and /v1/join, which has it in
// its hello. It is sent as "Authorization: Bearer TOKEN" or, if it has letters that a header
// cannot carry, as "Authorization: Ravnest" with the token in base64url. Requests from this
// machine need it too, since a reverse proxy or a tunnel may send them. Errors are
// proto.Error as JSON.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+proto.JoinPath, s.join)
	mux.HandleFunc("GET /v1/blob/{sha256}", s.rationed(s.authorised(s.leading(s.blob))).ServeHTTP)
	mux.HandleFunc("PUT /v1/upload/{run}/{stage}/{sha256}", s.authorised(s.leading(s.upload)))
	mux.HandleFunc("GET "+proto.SpeedPath, s.metered(probes, s.authorised(s.leading(s.speedDown))).ServeHTTP)
	mux.HandleFunc("POST "+proto.SpeedPath, s.authorised(s.leading(s.speedUp)))
	mux.HandleFunc("GET "+proto.StatusPath, s.authorised(s.status))
	mux.HandleFunc("GET "+proto.WatchPath, s.authorised(s.watch))
	mux.HandleFunc("GET "+proto.TryPath, s.authorised(s.try))
	mux.HandleFunc("GET /metrics", s.authorised(s.metrics))
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		httpError(w, http.StatusNotFound, &proto.Error{Code: proto.NotFound, Message: "no such route: " + r.Method + " " + r.URL.Path})
	})
	if s.cfg.Site != nil {
		mux.Handle("/", s.metered(pages, s.cfg.Site))
	} else {
		mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "ravnest signaling host: join with ravnest-provider --join and this address\n")
		})
	}
	// Refuse writes from pages of other sites.
	cross := http.NewCrossOriginProtection()
	if p := s.cfg.Public; p != nil {
		_ = cross.AddTrustedOrigin(p.Scheme + "://" + p.Host) // valid, since ParsePublic accepted it
	}
	return s.bounded(s.shared(s.outside(s.sisters(mux, cross.Handler(mux)))))
}

// sisters lets pages of the job's other hosts use this one's routes, since a tab whose host is
// lost goes on with another. Other requests go to rest.
func (s *Server) sisters(mux, rest http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if origin == "" || !strings.HasPrefix(r.URL.Path, "/v1/") || !slices.Contains(s.sisterOrigins(), origin) {
			rest.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		h.Add("Vary", "Origin")
		if r.Method != http.MethodOptions {
			mux.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Methods", "GET, POST, PUT")
		h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Range, "+proto.SessionHeader)
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
	})
}

// sisterOrigins are the origins of the pages of the job's hosts.
func (s *Server) sisterOrigins() []string {
	if s.cfg.Hosts == nil {
		return nil
	}
	var all []string
	for _, h := range s.cfg.Hosts() {
		if u, err := url.Parse(h); err == nil && u.Host != "" {
			all = append(all, u.Scheme+"://"+u.Host)
		}
	}
	return all
}

// bounded gives the bodies of requests a limit and a deadline.
func (s *Server) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		n := r.ContentLength
		if n < 0 || n > proto.MaxChunk {
			n = proto.MaxChunk
		}
		rc := http.NewResponseController(w)
		b := &body{ReadCloser: http.MaxBytesReader(w, r.Body, proto.MaxChunk), rc: rc, idle: s.cfg.IdleTimeout}
		b.end = time.Now().Add(b.idle + time.Duration(n/minRate)*time.Second)
		b.extend() // also for handlers that never read it
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			w.Header().Set("Connection", "close")
			httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: r.Method + " takes no body"})
			return
		}
		if r.ContentLength > proto.MaxChunk {
			w.Header().Set("Connection", "close")
			httpError(w, http.StatusRequestEntityTooLarge, errChunk)
			return
		}
		r.Body = b
		next.ServeHTTP(w, r)
	})
}

var errChunk = &proto.Error{Code: proto.TooLarge, Message: fmt.Sprintf("the body of a request is limited to %d bytes", proto.MaxChunk)}

// body is a request's body, which must keep arriving and not too slowly. At its end it
// removes the deadline, since the answer has one of its own.
type body struct {
	io.ReadCloser
	rc   *http.ResponseController
	idle time.Duration // longest time without a byte
	mu   sync.Mutex
	end  time.Time // deadline of the whole body
}

func (b *body) extend() {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := time.Now().Add(b.idle)
	if t.After(b.end) {
		t = b.end
	}
	_ = b.rc.SetReadDeadline(t)
}

// breakOff makes reading it fail now.
func (b *body) breakOff() {
	b.mu.Lock()
	b.end = time.Unix(1, 0)
	b.mu.Unlock()
	b.extend()
}

func (b *body) Read(p []byte) (int, error) {
	b.extend()
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// httpError answers with a proto.Error.
func httpError(w http.ResponseWriter, status int, e *proto.Error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(&proto.Error{Code: e.Code, Message: proto.Text(e.Message), Hint: proto.Text(e.Hint), Host: e.Host})
}

// bearer reports whether a request shows the token or, on a host without one, whether it was
// addressed to this machine.
func (s *Server) bearer(r *http.Request) bool {
	if s.cfg.Token == "" {
		return ownHost(r)
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	switch {
	case strings.EqualFold(scheme, proto.AuthScheme):
		b, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			return false
		}
		token = string(b)
	case !strings.EqualFold(scheme, "Bearer"):
		return false
	}
	return s.shows(token)
}

// authorised wraps f so that it requires the token.
func (s *Server) authorised(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if from := s.guestOf(r); s.cfg.Token != "" && !s.guests.hosts(from) {
			// Before the token is looked at: who tries out tokens learns nothing more.
			if wait := s.guests.take(time.Now(), from, hellos, 1); wait > 0 {
				often(w, wait)
				return
			}
			if s.bearer(r) {
				s.guests.add(time.Now(), from, hellos, -1)
			}
		}
		if !s.bearer(r) {
			httpError(w, http.StatusUnauthorized, errBadToken)
			return
		}
		if !s.enter() {
			httpError(w, http.StatusServiceUnavailable, errStopping)
			return
		}
		defer s.wg.Done()
		f(w, r)
	}
}

// leading wraps f so that only the host that leads a job answers.
func (s *Server) leading(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if e := s.standby(); e != nil {
			httpError(w, http.StatusMisdirectedRequest, e)
			return
		}
		f(w, r)
	}
}

func (s *Server) blob(w http.ResponseWriter, r *http.Request) {
	sum := r.PathValue("sha256")
	s.mu.Lock()
	blobs := s.blobs
	s.mu.Unlock()
	var ra io.ReaderAt
	var size int64
	err := proto.CheckSHA256(sum)
	if err == nil {
		err = fs.ErrNotExist
		if blobs != nil {
			ra, size, err = blobs.Blob(sum)
			if c, ok := ra.(io.Closer); ok && err == nil {
				defer c.Close()
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			var c io.Closer
			if ra, size, c, err = s.part(r.Context(), sum); err == nil {
				defer c.Close()
			}
		}
	}
	if err != nil {
		httpError(w, http.StatusNotFound, &proto.Error{Code: proto.NotFound, Message: fmt.Sprintf("blob %.64s: %v", sum, err)})
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", `"`+sum+`"`)
	h.Set("Cache-Control", "private, max-age=31536000, immutable") // its name is its content
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(ra, 0, size))
}

// noise is the content of a download probe: pseudo-random bytes (xorshift64 with a fixed
// seed), so that nothing on the way can compress them.
var noise = func() []byte {
	b := make([]byte, 64<<10)
	x := uint64(0x9e3779b97f4a7c15)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x >> 32)
	}
	return b
}()

func (s *Server) speedDown(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
	if err != nil || n < 0 || n > proto.MaxChunk {
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.TooLarge, Message: fmt.Sprintf("bytes must be 0 to %d", proto.MaxChunk)})
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
	w.Header().Set("Cache-Control", "no-store")
	for n > 0 {
		m, err := w.Write(noise[:min(n, int64(len(noise)))])
		if err != nil {
			return
		}
		n -= int64(m)
	}
}

func (s *Server) speedUp(w http.ResponseWriter, r *http.Request) {
	if wait := s.guests.take(time.Now(), s.guestOf(r), probes, float64(max(r.ContentLength, 0))); s.cfg.Token != "" && wait > 0 {
		often(w, wait)
		return
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: "the probe was cut off: " + err.Error()})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
