package server

// The HTTP side: blobs out, trained stages in, bandwidth, status, and the site.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// maxSpeed bounds a bandwidth probe, in bytes.
const maxSpeed = 16 << 20

// Handler serves the host's routes:
//
//	GET  /v1/join                          WebSocket, package proto
//	GET  /v1/blob/{sha256}                 graph, data, weights; with Range
//	PUT  /v1/upload/{run}/{stage}/{sha256} a trained stage, from its session
//	GET  /v1/speed?bytes=N                 N bytes, at most 16 MiB
//	POST /v1/speed                         takes and forgets that much
//	GET  /v1/status                        Status as JSON
//	GET  /v1/watch?after=TIME              Sights as lines of JSON, until the host ends
//	     /                                 Config.Site
//
// Where there is a token, all but the site and /v1/join, which has it in its
// hello, want "Authorization: Bearer TOKEN"; status and watch from loopback do
// not. Errors are proto.Error as JSON.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+proto.JoinPath, s.join)
	mux.HandleFunc("GET /v1/blob/{sha256}", s.authorised(s.blob))
	mux.HandleFunc("PUT /v1/upload/{run}/{stage}/{sha256}", s.authorised(s.upload))
	mux.HandleFunc("GET "+proto.SpeedPath, s.authorised(s.speedDown))
	mux.HandleFunc("POST "+proto.SpeedPath, s.authorised(s.speedUp))
	mux.HandleFunc("GET "+proto.StatusPath, s.status)
	mux.HandleFunc("GET "+proto.WatchPath, s.watch)
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		httpError(w, http.StatusNotFound, &proto.Error{Code: proto.NotFound, Message: "no such route: " + r.Method + " " + r.URL.Path})
	})
	if s.cfg.Site != nil {
		mux.Handle("/", s.cfg.Site)
	} else {
		mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			_, _ = io.WriteString(w, "ravnest signaling host: join with ravnest-provider --join and this address\n")
		})
	}
	// Writes from pages of other sites are refused.
	return http.NewCrossOriginProtection().Handler(mux)
}

// httpError answers with a proto.Error.
func httpError(w http.ResponseWriter, status int, e *proto.Error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(&proto.Error{Code: e.Code, Message: proto.Text(e.Message), Hint: proto.Text(e.Hint)})
}

func (s *Server) bearer(r *http.Request) bool {
	if s.cfg.Token == "" {
		return ownHost(r)
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && sameToken(token, s.cfg.Token)
}

func (s *Server) authorised(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.bearer(r) {
			httpError(w, http.StatusUnauthorized, errBadToken)
			return
		}
		if !s.enter() {
			httpError(w, http.StatusServiceUnavailable, errStopping)
			return
		}
		defer s.wg.Done()
		// Deadlines of an earlier request on this connection would still hold.
		rc := http.NewResponseController(w)
		t := time.Now().Add(s.cfg.IdleTimeout)
		_, _ = rc.SetReadDeadline(t), rc.SetWriteDeadline(t)
		f(w, r)
	}
}

// moving pushes a deadline ahead of every read, so that a transfer may take its
// time but not stand still.
type moving struct {
	r   io.ReadSeeker
	set func()
}

func (m *moving) Read(b []byte) (int, error)                { m.set(); return m.r.Read(b) }
func (m *moving) Seek(off int64, whence int) (int64, error) { return m.r.Seek(off, whence) }

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
	rc := http.NewResponseController(w)
	http.ServeContent(w, r, "", time.Time{}, &moving{
		io.NewSectionReader(ra, 0, size),
		func() { _ = rc.SetWriteDeadline(time.Now().Add(s.cfg.IdleTimeout)) },
	})
}

// errHash ends an upload whose bytes are not what its name says. Being an error
// in place of io.EOF, it keeps the store from taking them.
var errHash = errors.New("the bytes do not have the SHA-256 of their name")

// verifier passes a body on and judges it at its end.
type verifier struct {
	r    io.Reader
	set  func(time.Time) // the read deadline
	idle time.Duration
	h    hash.Hash
	want string
	n    int64
	err  error // of the body, as against the store's
}

func (v *verifier) Read(b []byte) (int, error) {
	v.set(time.Now().Add(v.idle))
	n, err := v.r.Read(b)
	v.h.Write(b[:n])
	v.n += int64(n)
	if err == io.EOF {
		v.set(time.Time{}) // the store may take its time now
	}
	if err == io.EOF && hex.EncodeToString(v.h.Sum(nil)) != v.want {
		err = errHash
	}
	if err != nil && err != io.EOF {
		v.err = err
	}
	return n, err
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	run, sum := r.PathValue("run"), r.PathValue("sha256")
	stage, err := strconv.Atoi(r.PathValue("stage"))
	if err == nil {
		err = errors.Join(proto.CheckName(run), proto.CheckSHA256(sum))
	}
	if err != nil {
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: err.Error()})
		return
	}
	tooLarge := &proto.Error{Code: proto.TooLarge, Message: fmt.Sprintf("the stage is over this host's limit of %d bytes", s.cfg.MaxUpload)}
	if r.ContentLength > s.cfg.MaxUpload {
		httpError(w, http.StatusRequestEntityTooLarge, tooLarge)
		return
	}
	var id, object string
	refusal := errStopping
	s.call(func(time.Time) {
		id, object, refusal = s.lobby.grant(r.Header.Get(proto.SessionHeader), run, stage, sum)
	})
	if refusal != nil {
		status := http.StatusForbidden
		if refusal.Code == proto.Stopped {
			status = http.StatusGone
		}
		httpError(w, status, refusal)
		return
	}
	rc := http.NewResponseController(w)
	body := &verifier{
		r: http.MaxBytesReader(w, r.Body, s.cfg.MaxUpload), h: sha256.New(), want: sum, idle: s.cfg.IdleTimeout,
		set: func(t time.Time) { _ = rc.SetReadDeadline(t) },
	}
	defer s.post(uploadEnded{id: id})
	err = s.store.Put(r.Context(), object, body)
	_ = rc.SetWriteDeadline(time.Now().Add(s.cfg.IdleTimeout)) // for the answer
	var limit *http.MaxBytesError
	switch {
	case err == nil:
		// Queued before the answer, so before the saved message that follows it.
		s.post(uploaded{id: id, run: run, stage: stage, object: object, blob: proto.Ref{SHA256: sum, Size: body.n}})
		w.WriteHeader(http.StatusCreated)
	case errors.As(err, &limit):
		httpError(w, http.StatusRequestEntityTooLarge, tooLarge)
	case errors.Is(err, errHash):
		httpError(w, http.StatusUnprocessableEntity, &proto.Error{Code: proto.BadHash, Message: errHash.Error(), Hint: "upload it again"})
	case body.err != nil:
		// The provider broke off, or stood still.
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: "the upload broke off: " + body.err.Error()})
	default:
		s.post(stored{err: fmt.Errorf("%w: stage %d of %s: %w", ErrStore, stage, run, err)})
		// A peer that still sends would not see the answer: take the rest in.
		_, _ = io.Copy(io.Discard, body)
		_ = rc.SetWriteDeadline(time.Now().Add(s.cfg.IdleTimeout))
		httpError(w, http.StatusInsufficientStorage, &proto.Error{
			Code: proto.Storage, Message: "the host could not store the stage: " + err.Error(), Hint: "the requester has been told; the state saved before is kept",
		})
	}
}

// noise is what a download probe consists of: bytes that nothing on the way
// compresses (xorshift64, fixed seed).
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
	if err != nil || n < 0 || n > maxSpeed {
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.TooLarge, Message: fmt.Sprintf("bytes must be 0 to %d", maxSpeed)})
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
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, maxSpeed)); err != nil {
		httpError(w, http.StatusRequestEntityTooLarge, &proto.Error{Code: proto.TooLarge, Message: fmt.Sprintf("a probe has at most %d bytes", maxSpeed)})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
