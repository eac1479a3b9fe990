package server

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/member"
	"github.com/ravnest/ravnest/signaling/proto"
)

// book is a Members in memory.
type book struct {
	sync.Mutex
	*member.Book
	only bool
}

func (b *book) Admit(a member.Applicant) *proto.Error {
	b.Lock()
	defer b.Unlock()
	return b.Book.Admit(time.Now(), a, b.only)
}

func (b *book) Pass(key string) string {
	b.Lock()
	defer b.Unlock()
	return b.Book.Pass(key)
}

func (b *book) Holder(token string) string {
	b.Lock()
	defer b.Unlock()
	return b.Book.Holder(token)
}

func (b *book) Expected() int { return 0 }

func (b *book) Banned(key string) bool {
	b.Lock()
	defer b.Unlock()
	return b.IsBanned(key)
}

// signer is an identity whose key and signatures need not fit.
type signer struct {
	shown string
	key   ed25519.PrivateKey
	last  *[2][]byte // message and signature
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{shown: hex.EncodeToString(pub), key: key, last: new([2][]byte)}
}

func (s *signer) Key() string { return s.shown }

func (s *signer) Sign(_ context.Context, m []byte) ([]byte, error) {
	sig := ed25519.Sign(s.key, m)
	*s.last = [2][]byte{m, sig}
	return sig, nil
}

// replay is an identity that has an old signature only.
type replay struct{ s *signer }

func (r replay) Key() string                                  { return r.s.shown }
func (r replay) Sign(context.Context, []byte) ([]byte, error) { return r.s.last[1], nil }

func TestProofs(t *testing.T) {
	b := &book{Book: member.New()}
	s, err := New(Config{Token: "secret", Members: b})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	hello := proto.Hello{Agent: "a", Platform: "p", Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1}
	dial := func(token string, id client.Identity) error {
		c, err := client.Dial(t.Context(), web.URL, client.Options{Token: token, Hello: hello, Identity: id})
		if err == nil {
			c.Close("")
		}
		return err
	}
	ada, eve := newSigner(t), newSigner(t)
	if err := b.Set(ada.shown, member.Allowed); err != nil {
		t.Fatal(err)
	}
	if err := dial("", ada); err != nil {
		t.Errorf("an allowed key: %v", err)
	}
	forbidden := &proto.Error{Code: proto.Forbidden}
	if err := dial("secret", &signer{shown: ada.shown, key: eve.key, last: new([2][]byte)}); !errors.Is(err, forbidden) {
		t.Errorf("another's key, even with the token: %v", err)
	}
	if err := dial("", replay{ada}); !errors.Is(err, forbidden) {
		t.Errorf("a proof that was overheard: %v", err)
	}
	if err := dial("", eve); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("a key that nobody knows: %v", err)
	}
	// A pass is of use with its key only, and for requests.
	pass, err := client.AskPass(t.Context(), web.URL, client.Options{Hello: hello, Identity: ada})
	if err != nil {
		t.Fatal(err)
	}
	if err := dial(pass, ada); err != nil {
		t.Errorf("a pass: %v", err)
	}
	if err := dial(pass, eve); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("another's pass: %v", err)
	}
	if err := dial(pass, nil); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("a pass without a key: %v", err)
	}
	if _, _, err := client.Try(t.Context(), web.URL, client.Options{Token: pass}); err != nil {
		t.Errorf("a request with a pass: %v", err)
	}
	if err := b.Set(ada.shown, member.Known); err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.Try(t.Context(), web.URL, client.Options{Token: pass}); !errors.Is(err, proto.ErrBadToken) {
		t.Errorf("a request with a revoked pass: %v", err)
	}
	if _, err := client.AskPass(t.Context(), web.URL, client.Options{Hello: hello, Token: "secret", Identity: eve}); !errors.Is(err, proto.ErrNotFound) {
		t.Errorf("a pass for who is only known: %v", err)
	}
	if n := len(s.Status().Members); n != 0 {
		t.Errorf("%d members are left", n)
	}
}

// TestBanned: who is banned is told so, and gone, while others stay.
// TestRelayedProof: another host, at which an allowed provider calls, passes its hello and its
// proof on to this one. The address that the provider has called gives it away.
func TestRelayedProof(t *testing.T) {
	b := &book{Book: member.New()}
	ada := newSigner(t)
	if err := b.Set(ada.shown, member.Allowed); err != nil {
		t.Fatal(err)
	}
	public, err := ParsePublic("http://train.example")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Token: "secret", Members: b, Public: public})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	to, err := url.Parse(web.URL)
	if err != nil {
		t.Fatal(err)
	}
	relay := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }})
	defer relay.Close()
	// Whatever name is called, the relay answers.
	called := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, relay.Listener.Addr().String())
	}}}
	hello := proto.Hello{Agent: "a", Platform: "p", Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1}
	for address, want := range map[string]bool{
		"http://evil.example": false, "http://train.example": true, "http://TRAIN.example:80": true,
		"http://train.example:8080": false, "http://192.0.2.1": false, "http://localhost:99": true,
	} {
		for _, token := range []string{"", "of another host"} {
			c, err := client.Dial(t.Context(), address, client.Options{Token: token, Hello: hello, Identity: ada, HTTP: called})
			if err == nil {
				c.Close("")
			}
			if (err == nil) != want || !want && !errors.Is(err, proto.ErrForbidden) {
				t.Errorf("%s with the token %q: %v", address, token, err)
			}
		}
	}
	// The host's own token is a secret of the two.
	c, err := client.Dial(t.Context(), "http://elsewhere.example", client.Options{Token: "secret", Hello: hello, Identity: ada, HTTP: called})
	if err != nil {
		t.Fatalf("with the token, at a name that the host does not know: %v", err)
	}
	c.Close("")
}

func TestBanned(t *testing.T) {
	b := &book{Book: member.New()}
	s, err := New(Config{Members: b})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Shutdown(context.Background()) }()
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	hello := proto.Hello{Agent: "a", Platform: "p", Class: proto.ClassFMA, RAM: 1 << 30, Threads: 1}
	var conns []*client.Conn
	ids := []*signer{newSigner(t), newSigner(t)}
	for _, id := range ids {
		c, err := client.Dial(t.Context(), web.URL, client.Options{Hello: hello, Identity: id})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close("")
		conns = append(conns, c)
	}
	b.Lock()
	err = b.Set(ids[0].shown, member.Banned)
	b.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.MembersChanged()
	for {
		if _, err = conns[0].Recv(t.Context()); err != nil {
			break
		}
	}
	if !errors.Is(err, &proto.Error{Code: proto.Banned}) {
		t.Errorf("the banned one is told %v", err)
	}
	select {
	case <-conns[1].Done():
		t.Error("the other one is gone, too")
	default:
	}
}
