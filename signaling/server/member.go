package server

// Who may join: the token, a member's key, an invitation. Package member has the rules; this
// file asks for proofs of keys and lets go of those who were banned.

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/member"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Members decides who may join, and remembers them. Safe for concurrent use.
type Members interface {
	// Admit judges who has proved a.Key and shown a.Token. nil: it may join.
	Admit(a member.Applicant) *proto.Error
	// Pass returns the token of an allowed member's own; "": the key is none's.
	Pass(key string) string
	// Holder returns the key of the allowed member whose pass a token is; "": it is none.
	Holder(token string) string
	// Banned reports whether a key is.
	Banned(key string) bool
	// Expected is how many are allowed or invited.
	Expected() int
}

// shows reports whether a token opens the host's routes: the join token, or a member's pass.
func (s *Server) shows(token string) bool {
	return s.cfg.Token == "" || sameToken(token, s.cfg.Token) || s.cfg.Members != nil && s.cfg.Members.Holder(token) != ""
}

// prove has a provider sign that it holds the key of the hello that it has sent.
func (s *Server) prove(ctx context.Context, ws *websocket.Conn, key string, hello []byte) error {
	nonce := hexBytes(32)
	b, err := proto.Encode(&proto.Challenge{Nonce: nonce})
	if err != nil {
		return err
	}
	if err := ws.Write(ctx, websocket.MessageText, b); err != nil {
		return err
	}
	_, msg, err := s.receive(ctx, ws)
	if err != nil {
		return err
	}
	proof, ok := msg.(*proto.Proof)
	if !ok {
		return &proto.Error{Code: proto.Protocol, Message: fmt.Sprintf("a challenge is answered by proof, not %s", msg.Type())}
	}
	pub, err := hex.DecodeString(key)
	sig, err2 := hex.DecodeString(proof.Signature)
	if err != nil || err2 != nil || !ed25519.Verify(pub, proto.Proven(nonce, hello), sig) {
		return &proto.Error{Code: proto.Forbidden, Message: "the provider's proof of its key is wrong"}
	}
	return nil
}

// mayJoin judges a hello whose key, if it has one, is proven.
func (s *Server) mayJoin(h *proto.Hello) error {
	trusted := s.cfg.Token == "" || sameToken(h.Token, s.cfg.Token)
	if s.cfg.Members == nil {
		if !trusted {
			return errBadToken
		}
		return nil
	}
	// Tokens, invitations and passes are this host's own; an allowed key is not.
	byKey := h.Key != "" && !trusted && !proto.IsInvite(h.Token) && s.cfg.Members.Holder(h.Token) != h.Key && s.cfg.Members.Pass(h.Key) != ""
	if byKey && !s.called(h.Address) {
		return errAddress
	}
	a := member.Applicant{Key: h.Key, Token: h.Token, Trusted: trusted, Label: h.Name, Agent: h.Agent, Platform: h.Platform}
	if err := s.cfg.Members.Admit(a); err != nil {
		return err
	}
	return nil
}

var errAddress = &proto.Error{
	Code: proto.Forbidden, Message: "the address at which the provider has called is not known to be this host's, so its key alone does not count",
	Hint: "join with a token or an invitation, or ask the requester to give --public with the address that providers use",
}

// called reports whether an address is this host's: the one that it is known by outside, or one
// of this machine's. Nothing that comes with the request counts, as who passes on another's
// proof chooses that.
func (s *Server) called(address string) bool {
	u, err := url.Parse(address)
	if err != nil {
		return false
	}
	if p := s.cfg.Public; p != nil && strings.EqualFold(u.Hostname(), p.Hostname()) && portOf(u) == portOf(p) {
		return true
	}
	if strings.EqualFold(u.Hostname(), "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		return false
	}
	ip = ip.Unmap().WithZone("")
	if ip.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(own, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr().Unmap() == ip
	})
}

// portOf returns the port of a URL, or its scheme's.
func portOf(u *url.URL) string {
	switch p := u.Port(); {
	case p != "":
		return p
	case u.Scheme == "https":
		return "443"
	}
	return "80"
}

// givePass answers an admitted hello that asks for no more than a pass.
func (s *Server) givePass(ctx context.Context, ws *websocket.Conn, h *proto.Hello) {
	var m proto.Message = &proto.Error{Code: proto.NotFound, Message: "this host gives no passes"}
	if s.cfg.Members != nil && h.Key != "" {
		if pass := s.cfg.Members.Pass(h.Key); pass != "" {
			m = &proto.Pass{Token: pass}
		}
	}
	b, err := proto.Encode(m)
	if err != nil {
		return
	}
	ctx, stop := context.WithTimeout(ctx, closeWait)
	defer stop()
	if ws.Write(ctx, websocket.MessageText, b) == nil {
		hangup(ws, func() { _ = ws.CloseNow() }, m.Type())
	}
}

var errBanned = &proto.Error{Code: proto.Banned, Message: "the requester of this host has banned this provider"}

// MembersChanged lets go of those who have been banned.
func (s *Server) MembersChanged() {
	if s.cfg.Members == nil {
		return
	}
	b, err := proto.Encode(errBanned)
	if err != nil {
		return
	}
	s.call(func(time.Time) {
		s.guests.expect(s.expected(s.wanted))
		for _, sess := range s.sessions {
			if sess.key != "" && s.cfg.Members.Banned(sess.key) {
				sess.push(b, true)
				sess.mu.Lock()
				if sess.why == "" {
					sess.why = "the requester has banned it"
				}
				sess.mu.Unlock()
				sess.finish(string(errBanned.Code) + ": " + errBanned.Message)
			}
		}
	})
}
