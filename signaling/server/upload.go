package server

// Trained stages are uploaded in pieces, each a request of its own, so that a proxy's limit
// on bodies does not matter, and after a broken connection the provider can continue from
// the last byte received. The pieces flow into one Put of the store as they arrive, so that
// nothing is held in memory. The object is replaced only if the whole has the digest that
// its name says.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/run"
)

// Reasons for the failure of an upload. The store's reader gets them instead of io.EOF, so
// that it does not keep the incomplete object.
var (
	errHash    = errors.New("the SHA-256 of the bytes is not the one in the path")
	errGivenUp = errors.New("the upload was given up")
)

// piece says where a request's body belongs.
type piece struct {
	session, run, sum string
	stage             int
	offset, size      int64
}

func (p *piece) same(o *piece) bool {
	return p.run == o.run && p.sum == o.sum && p.stage == o.stage && p.size == o.size
}

// upload is an upload in progress, or one that has just succeeded.
type upload struct {
	piece
	grant run.Grant
	idle  *time.Timer // ends it if no more pieces come

	mu   sync.Mutex // serialises pieces
	have int64
	hash hash.Hash
	into *io.PipeWriter
	put  chan struct{} // closed when the store has returned
	err  error         // the store's error
	kept atomic.Bool

	rush sync.Mutex
	cut  func() // breaks off the piece being read; nil: there is none
}

// uploads holds the upload of each session.
type uploads struct {
	mu   sync.Mutex
	open map[string]*upload
}

func pieceOf(r *http.Request) (*piece, error) {
	p := &piece{session: r.Header.Get(proto.SessionHeader), run: r.PathValue("run"), sum: r.PathValue("sha256")}
	var errs [3]error
	q, err := url.ParseQuery(r.URL.RawQuery)
	p.stage, errs[0] = strconv.Atoi(r.PathValue("stage"))
	p.offset, errs[1] = strconv.ParseInt(q.Get("offset"), 10, 64)
	p.size, errs[2] = strconv.ParseInt(q.Get("size"), 10, 64)
	if err := errors.Join(err, errs[0], errs[1], errs[2], proto.CheckName(p.run), proto.CheckSHA256(p.sum)); err != nil {
		return nil, err
	}
	if p.offset < 0 || p.size < 0 || p.offset > p.size {
		return nil, fmt.Errorf("offset %d in an upload of %d bytes", p.offset, p.size)
	}
	return p, nil
}

func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	p, err := pieceOf(r)
	if err != nil {
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: err.Error()})
		return
	}
	u, refusal := s.uploadFor(p)
	if refusal != nil {
		status := http.StatusForbidden
		switch refusal.Code {
		case proto.Stopped:
			status = http.StatusGone
		case proto.TooLarge:
			status = http.StatusRequestEntityTooLarge
		}
		httpError(w, status, refusal)
		return
	}
	if u == nil { // nothing of it is here: ask for it from the start
		s.have(w, 0)
		return
	}
	u.breakOff()
	u.mu.Lock()
	defer u.mu.Unlock()
	if b, ok := r.Body.(*body); ok {
		u.breakable(b.breakOff)
		defer u.breakable(nil)
	}
	u.idle.Stop()
	defer u.idle.Reset(s.cfg.IdleTimeout)
	switch {
	case u.kept.Load():
		w.WriteHeader(http.StatusCreated)
		return
	case p.offset != u.have:
		s.have(w, u.have)
		return
	}
	n, err := io.Copy(u, io.LimitReader(r.Body, u.size-u.have+1))
	switch {
	case err == nil && u.have == u.size:
		s.finishUpload(w, u)
	case err == nil && u.have < u.size:
		s.have(w, u.have)
	case err == nil || errors.Is(err, errTooLong):
		s.drop(u, errHash)
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: "the request has more bytes than the upload"})
	case u.failed():
		s.refuseStore(w, r, u, u.err)
	default:
		// The provider broke off or stopped sending. It may continue from here.
		s.log.Debug("a piece of an upload was cut off", "stage", u.stage, "bytes", n, "err", err)
		httpError(w, http.StatusBadRequest, &proto.Error{Code: proto.Protocol, Message: "the piece was cut off: " + err.Error()})
	}
}

func (s *Server) have(w http.ResponseWriter, n int64) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(proto.Have{Have: n})
}

// breakOff ends the piece being read, whose connection the provider has given up.
func (u *upload) breakOff() {
	u.rush.Lock()
	defer u.rush.Unlock()
	if u.cut != nil {
		u.cut()
	}
}

// breakable sets the function that breaks off the piece being read.
func (u *upload) breakable(cut func()) {
	u.rush.Lock()
	defer u.rush.Unlock()
	u.cut = cut
}

var errTooLong = errors.New("too long")

// Write adds bytes of a piece to the upload.
func (u *upload) Write(b []byte) (int, error) {
	if int64(len(b)) > u.size-u.have {
		return 0, errTooLong
	}
	n, err := u.into.Write(b)
	u.hash.Write(b[:n])
	u.have += int64(n)
	return n, err
}

// failed reports whether the store has given up.
func (u *upload) failed() bool {
	select {
	case <-u.put:
		return true
	default:
		return false
	}
}

// uploadFor finds the upload that a piece belongs to, or begins one. It returns two nils if
// the piece is from the middle of an upload that is unknown.
func (s *Server) uploadFor(p *piece) (*upload, *proto.Error) {
	s.ups.mu.Lock()
	defer s.ups.mu.Unlock()
	u := s.ups.open[p.session]
	// If an upload that was stored begins again, it is another save of the same bytes, or
	// belongs to another run of the same name.
	if u != nil && u.same(p) && (p.offset > 0 || !u.kept.Load()) {
		return u, nil
	}
	if p.offset != 0 {
		return nil, nil
	}
	if p.size > s.cfg.MaxUpload {
		return nil, &proto.Error{Code: proto.TooLarge, Message: fmt.Sprintf("the stage is larger than this host's limit of %d bytes", s.cfg.MaxUpload)}
	}
	if u != nil {
		// The provider has begun another upload.
		delete(s.ups.open, p.session)
		s.abandon(u, errGivenUp)
	}
	g, refusal := s.grant(p)
	if refusal != nil {
		return nil, refusal
	}
	if g.Limit > 0 && p.size > g.Limit {
		s.post(run.UploadEnd{ID: g.ID})
		return nil, &proto.Error{Code: proto.TooLarge, Message: fmt.Sprintf("the upload has %d bytes, but the state of stage %d has at most %d", p.size, p.stage, g.Limit)}
	}
	out, into := io.Pipe()
	u = &upload{piece: *p, grant: g, hash: sha256.New(), into: into, put: make(chan struct{})}
	if s.ups.open == nil {
		s.ups.open = map[string]*upload{}
	}
	s.ups.open[p.session] = u
	u.idle = time.AfterFunc(s.cfg.IdleTimeout, func() { s.drop(u, errGivenUp) })
	stop := context.AfterFunc(s.door, func() { s.drop(u, errStopping) })
	s.wg.Go(func() {
		defer stop()
		u.err = s.store.Put(s.ctx, u.grant.Object, out)
		close(u.put)
		_ = out.CloseWithError(u.err)
	})
	return u, nil
}

// grant asks the machine whether the session may upload that stage.
func (s *Server) grant(p *piece) (g run.Grant, refusal *proto.Error) {
	refusal = errStopping
	s.call(func(now time.Time) {
		id := ""
		if sess := s.bySecret(p.session); sess != nil {
			id = sess.id
		}
		s.asked++
		s.step(now, run.UploadRequest{Seq: s.asked, ID: id, Run: p.run, Stage: p.stage, SHA256: p.sum})
		switch a := s.answers[s.asked].(type) {
		case run.Grant:
			g, refusal = a, nil
		case run.Denial:
			refusal = a.Err
		}
		delete(s.answers, s.asked)
	})
	return g, refusal
}

// look checks that the object in the store is the stage's state.
func (s *Server) look(u *upload) (*order.Position, []string, error) {
	s.mu.Lock()
	inspect := s.inspect
	s.mu.Unlock()
	if inspect == nil {
		return nil, nil, nil
	}
	r, err := s.store.Get(s.ctx, u.grant.Object)
	if err != nil {
		return nil, nil, &unread{err}
	}
	defer r.Close()
	in := &witness{r: r}
	pos, holds, err := inspect(u.grant, in, u.size)
	if in.err != nil {
		return nil, nil, &unread{in.err}
	}
	return &pos, holds, err
}

// unread is the store's failure to give back what it has taken, for which nobody else is to blame.
type unread struct{ error }

// witness keeps the error of a reader.
type witness struct {
	r   io.Reader
	err error
}

// Read implements io.Reader.
func (w *witness) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// drop ends an upload that has failed.
func (s *Server) drop(u *upload, why error) {
	s.ups.mu.Lock()
	mine := s.ups.open[u.session] == u
	if mine {
		delete(s.ups.open, u.session)
	}
	s.ups.mu.Unlock()
	if mine {
		s.abandon(u, why)
	}
}

// abandon tells the store and the machine that an upload has ended. It is called once for
// each upload that is no longer in the table.
func (s *Server) abandon(u *upload, why error) {
	u.idle.Stop()
	_ = u.into.CloseWithError(why) // has no effect on an upload that succeeded
	s.post(run.UploadEnd{ID: u.grant.ID})
}

// finishUpload checks the complete upload and keeps it.
func (s *Server) finishUpload(w http.ResponseWriter, u *upload) {
	if hex.EncodeToString(u.hash.Sum(nil)) != u.sum {
		s.drop(u, errHash)
		httpError(w, http.StatusUnprocessableEntity, &proto.Error{Code: proto.BadHash, Message: errHash.Error(), Hint: "upload it again"})
		return
	}
	_ = u.into.Close()
	<-u.put
	if u.err != nil {
		s.refuseStore(w, nil, u, u.err)
		return
	}
	pos, holds, err := s.look(u)
	if own := (*unread)(nil); errors.As(err, &own) {
		s.refuseStore(w, nil, u, own.error)
		return
	}
	if err != nil {
		err = fmt.Errorf("its upload is not the state of stage %d: %w", u.stage, err)
		s.drop(u, err)
		_ = s.store.Delete(s.ctx, u.grant.Object) // nothing refers to it
		httpError(w, http.StatusUnprocessableEntity, &proto.Error{Code: proto.Protocol, Message: err.Error()})
		s.post(run.Violation{ID: u.grant.ID, Err: err})
		return
	}
	u.kept.Store(true) // a provider that misses the answer may ask again
	// Posted before the answer, and so before the saved message that follows it.
	s.post(run.Upload{
		ID: u.grant.ID, Run: u.run, Stage: u.stage, Object: u.grant.Object, Blob: proto.Ref{SHA256: u.sum, Size: u.size},
		Position: pos, Holds: holds,
	})
	s.post(run.UploadEnd{ID: u.grant.ID})
	w.WriteHeader(http.StatusCreated)
}

// refuseStore answers that the store did not accept the upload, or does not give it back, and why.
func (s *Server) refuseStore(w http.ResponseWriter, r *http.Request, u *upload, err error) {
	ours := errors.Is(err, errGivenUp) || errors.Is(err, errStopping) || err == nil
	if !ours { // before the upload's end
		s.post(run.StoreFault{ID: u.grant.ID, Upload: true, Err: fmt.Errorf("%w: stage %d of %s: %w", ErrStore, u.stage, u.run, err)})
	}
	s.drop(u, err)
	if ours {
		httpError(w, http.StatusGone, &proto.Error{Code: proto.Stopped, Message: "the upload has ended"})
		return
	}
	if r != nil { // a peer that is still sending would not see the answer: read the rest
		_, _ = io.Copy(io.Discard, r.Body)
	}
	httpError(w, http.StatusInsufficientStorage, &proto.Error{
		Code: proto.Storage, Message: "the host could not store the stage: " + err.Error(), Hint: "try again later; the requester has been told, and the state saved before is kept",
	})
}
