package member_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/member"
	"github.com/ravnest/ravnest/signaling/proto"
)

func key(n int) string { return fmt.Sprintf("%064x", n+1) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// again writes the book and reads it.
func again(t *testing.T, b *member.Book) *member.Book {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := member.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := c.Encode(); !bytes.Equal(d, data) {
		t.Error("a book that is read and written is another one")
	}
	return c
}

func admit(t *testing.T, b *member.Book, now time.Time, a member.Applicant, only bool, want error) {
	t.Helper()
	err := b.Admit(now, a, only)
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Helper()
		t.Errorf("%+v: %v, want %v", a, err, want)
	}
}

var forbidden = &proto.Error{Code: proto.Forbidden}

func TestAdmit(t *testing.T) {
	b := member.New()
	token := member.Applicant{Token: "t", Trusted: true}
	admit(t, b, noon, token, false, nil)
	admit(t, b, noon, token, true, forbidden)
	admit(t, b, noon, member.Applicant{Token: "wrong"}, false, proto.ErrBadToken)

	token.Key, token.Label = key(1), "node_0"
	admit(t, b, noon, token, true, forbidden)
	if len(b.Members) != 0 {
		t.Error("who was refused was entered")
	}
	admit(t, b, noon, token, false, nil)
	b = again(t, b)
	m, err := b.Find("node_0")
	if err != nil || m.Key != key(1) || m.Standing != member.Known || !m.First.Equal(noon) {
		t.Errorf("%+v %v", m, err)
	}
	// A key alone is no reason, until it is allowed.
	bare := member.Applicant{Key: key(1)}
	admit(t, b, noon, bare, false, proto.ErrBadToken)
	if pass := b.Pass(key(1)); pass != "" {
		t.Error("who is only known has a pass")
	}
	if err := b.Set(key(1), member.Allowed); err != nil {
		t.Fatal(err)
	}
	admit(t, b, noon.Add(time.Hour), bare, true, nil)
	b = again(t, b)
	pass := b.Pass(key(1))
	if b.Holder(pass) != key(1) || proto.CheckToken(pass) != nil {
		t.Errorf("the pass %q is of %q", pass, b.Holder(pass))
	}
	for _, bad := range []string{"", "pass.", pass + "0", pass[:len(pass)-1], strings.Replace(pass, key(1), key(2), 1)} {
		if b.Holder(bad) != "" {
			t.Errorf("%q is a pass", bad)
		}
	}
	// Revoked, the pass is none; allowed again, it is another one.
	for _, s := range []member.Standing{member.Known, member.Allowed} {
		if err := b.Set(key(1), s); err != nil {
			t.Fatal(err)
		}
		if b.Holder(pass) != "" {
			t.Errorf("a revoked pass is one while its holder is %s", s)
		}
	}
	if err := b.Set(key(1), member.Banned); err != nil {
		t.Fatal(err)
	}
	b = again(t, b)
	admit(t, b, noon, token, false, &proto.Error{Code: proto.Banned})
	if !b.IsBanned(key(1)) || b.IsBanned(key(2)) {
		t.Error("the wrong one is banned")
	}
}

func TestInvite(t *testing.T) {
	b := member.New()
	token, made, err := b.Invite(noon, time.Hour, "for Ada")
	if err != nil {
		t.Fatal(err)
	}
	if data, _ := b.Encode(); bytes.Contains(data, []byte(token)) || strings.Contains(made.ID, token) {
		t.Error("the book keeps the invitation's secret")
	}
	b = again(t, b)
	admit(t, b, noon, member.Applicant{Token: token}, false, forbidden) // nobody in particular
	admit(t, b, noon, member.Applicant{Key: key(1), Token: token + "x"}, true, proto.ErrBadToken)
	admit(t, b, noon.Add(time.Hour+1), member.Applicant{Key: key(1), Token: token}, true, proto.ErrBadToken)
	admit(t, b, noon.Add(time.Hour-1), member.Applicant{Key: key(1), Token: token, Label: "ada"}, true, nil)
	b = again(t, b)
	if m, err := b.Find("ada"); err != nil || m.Standing != member.Allowed || m.Note != "for Ada" {
		t.Errorf("%+v %v", m, err)
	}
	// The same provider may come again by it, at any time; another one may not.
	admit(t, b, noon.Add(48*time.Hour), member.Applicant{Key: key(1), Token: token}, true, nil)
	admit(t, b, noon, member.Applicant{Key: key(2), Token: token}, true, proto.ErrBadToken)
	if err := b.Set(key(1), member.Known); err != nil {
		t.Fatal(err)
	}
	admit(t, b, noon, member.Applicant{Key: key(1), Token: token}, true, proto.ErrBadToken)

	other, made, err := b.Invite(noon, time.Hour, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Withdraw(made.ID[:8]); err != nil {
		t.Fatal(err)
	}
	admit(t, b, noon, member.Applicant{Key: key(3), Token: other}, false, proto.ErrBadToken)
	if b.Withdraw(made.ID) == nil || b.Withdraw("") == nil {
		t.Error("what is not there was withdrawn")
	}
	if _, _, err := b.Invite(noon, time.Hour, "two\nlines"); err == nil {
		t.Error("a note of two lines was taken")
	}
}

// TestRoom: however many come, the book is bounded, and who is banned stays so.
func TestRoom(t *testing.T) {
	b := member.New()
	if err := b.Set(key(0), member.Banned); err != nil {
		t.Fatal(err)
	}
	for i := range member.MaxMembers + 10 {
		admit(t, b, noon.Add(time.Duration(i)), member.Applicant{Key: key(i + 1), Trusted: true}, false, nil)
	}
	if len(b.Members) != member.MaxMembers || !b.IsBanned(key(0)) {
		t.Errorf("%d members", len(b.Members))
	}
	for range member.MaxInvites {
		if _, _, err := b.Invite(noon, time.Hour, ""); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := b.Invite(noon, time.Hour, ""); err == nil {
		t.Error("one invitation too many")
	}
	if _, _, err := b.Invite(noon.Add(2*time.Hour), time.Hour, ""); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	b := member.New()
	_, _, _ = b.Invite(noon, time.Hour, "x")
	_ = b.Set(key(1), member.Allowed)
	data, _ := b.Encode()
	f.Add(data)
	f.Add([]byte(`{"version":1,"secret":"00","members":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := member.Parse(data)
		if err != nil {
			return
		}
		_ = b.Admit(noon, member.Applicant{Key: key(1), Trusted: true}, false)
		if _, err := b.Encode(); err != nil {
			t.Fatal(err)
		}
	})
}
