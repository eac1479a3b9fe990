// Package member keeps who may join a host: the keys of providers, which are allowed and which
// are banned, and the invitations that are open. It reads no clock and no file.
//
// A provider is its key; its name is a label. One that shows the host's join token may join
// unless it is banned, or unless the host takes members only. One that is allowed needs no
// token: it proves its key and is given a pass, a token that only it can use.
package member

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Standing is what a host thinks of a key.
type Standing string

// The standings.
const (
	Known   Standing = "known"   // it has joined with the host's token
	Allowed Standing = "allowed" // it may join without
	Banned  Standing = "banned"  // it may not join at all
)

// Member is a key with what is known of it.
type Member struct {
	Key      string    `json:"key"`
	Standing Standing  `json:"standing"`
	Label    string    `json:"label,omitempty"` // the name that it last asked for
	Note     string    `json:"note,omitempty"`  // of its invitation
	Agent    string    `json:"agent,omitempty"`
	Platform string    `json:"platform,omitempty"`
	Passes   int       `json:"passes,omitempty"` // that were revoked
	First    time.Time `json:"first,omitzero"`   // when it joined first
	Last     time.Time `json:"last,omitzero"`
}

// Invite is an invitation for one provider.
type Invite struct {
	ID      string    `json:"id"` // SHA-256 of its secret
	Note    string    `json:"note,omitempty"`
	Made    time.Time `json:"made"`
	Expires time.Time `json:"expires"`
	UsedBy  string    `json:"used_by,omitempty"` // a key
}

// Book is what a host remembers of its members. Make it with New or Parse.
type Book struct {
	Version int      `json:"version"`
	Secret  string   `json:"secret"` // that passes are made with
	URL     string   `json:"url,omitempty"`
	Members []Member `json:"members"`
	Invites []Invite `json:"invites"`
}

const version = 1

// Limits of a book.
const (
	MaxMembers = 4096
	MaxInvites = 1024
	MaxNote    = 200
	MaxBook    = 8 << 20 // bytes
)

// New returns an empty book with a secret of its own.
func New() *Book {
	return &Book{Version: version, Secret: hex.EncodeToString(random(32))}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return b
}

// Parse reads a book as Encode writes it.
func Parse(data []byte) (*Book, error) {
	if len(data) > MaxBook {
		return nil, fmt.Errorf("a list of members of %d bytes, the limit is %d", len(data), MaxBook)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	b := new(Book)
	if err := d.Decode(b); err != nil {
		return nil, fmt.Errorf("the list of members: %w", err)
	}
	if b.Version != version {
		return nil, fmt.Errorf("the list of members has version %d, this program reads %d", b.Version, version)
	}
	if len(b.Members) > MaxMembers || len(b.Invites) > MaxInvites {
		return nil, fmt.Errorf("the list has %d members and %d invitations, the limits are %d and %d", len(b.Members), len(b.Invites), MaxMembers, MaxInvites)
	}
	if s, err := hex.DecodeString(b.Secret); err != nil || len(s) < 16 {
		return nil, errors.New("the list of members has no secret of 16 bytes or more in hex")
	}
	seen := map[string]bool{}
	for _, m := range b.Members {
		if err := proto.CheckKey(m.Key); err != nil {
			return nil, fmt.Errorf("the list of members: %w", err)
		}
		if seen[m.Key] {
			return nil, fmt.Errorf("the list of members has the key %s twice", Short(m.Key))
		}
		seen[m.Key] = true
		if !slices.Contains([]Standing{Known, Allowed, Banned}, m.Standing) {
			return nil, fmt.Errorf("the member %s is %.20q: want %s, %s or %s", Short(m.Key), m.Standing, Known, Allowed, Banned)
		}
	}
	for _, i := range b.Invites {
		if err := proto.CheckSHA256(i.ID); err != nil {
			return nil, fmt.Errorf("the list's invitations: %w", err)
		}
	}
	return b, nil
}

// Encode writes the book.
func (b *Book) Encode() ([]byte, error) {
	data, err := json.MarshalIndent(b, "", "  ")
	return append(data, '\n'), err
}

// Short is enough of a key for people.
func Short(key string) string { return key[:min(len(key), 12)] }

// find returns the member with a key, or nil.
func (b *Book) find(key string) *Member {
	for i := range b.Members {
		if b.Members[i].Key == key {
			return &b.Members[i]
		}
	}
	return nil
}

// IsBanned reports whether a key is.
func (b *Book) IsBanned(key string) bool {
	m := b.find(key)
	return m != nil && m.Standing == Banned
}

// Find returns the one member that people mean by the beginning of its key (at least 6
// digits), or by its label.
func (b *Book) Find(who string) (Member, error) {
	var found []Member
	for _, m := range b.Members {
		if len(who) >= 6 && strings.HasPrefix(m.Key, strings.ToLower(who)) || m.Label != "" && m.Label == who {
			found = append(found, m)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return Member{}, fmt.Errorf("%q may be any of %d members: give more of the key", who, len(found))
	}
	return Member{}, fmt.Errorf("no member %q: ravnest members DIR lists them", who)
}

// Set gives a key a standing; a key that is not known yet is entered. To be no longer allowed
// invalidates its passes.
func (b *Book) Set(key string, s Standing) error {
	if err := proto.CheckKey(key); err != nil {
		return err
	}
	m := b.find(key)
	if m == nil {
		if err := b.room(); err != nil {
			return err
		}
		b.Members = append(b.Members, Member{Key: key})
		m = &b.Members[len(b.Members)-1]
	}
	if m.Standing == Allowed && s != Allowed {
		m.Passes++
	}
	m.Standing = s
	return nil
}

// room makes room for another member: who has joined with the token, and longest ago, goes.
func (b *Book) room() error {
	if len(b.Members) < MaxMembers {
		return nil
	}
	oldest := -1
	for i, m := range b.Members {
		if m.Standing == Known && m.Passes == 0 && (oldest < 0 || m.Last.Before(b.Members[oldest].Last)) {
			oldest = i
		}
	}
	if oldest < 0 {
		return fmt.Errorf("the list has %d members, all allowed or banned", len(b.Members))
	}
	b.Members = slices.Delete(b.Members, oldest, oldest+1)
	return nil
}

// passPrefix begins a member's own token.
const passPrefix = "pass."

// Invite enters an invitation and returns its token, which the book does not keep.
func (b *Book) Invite(now time.Time, life time.Duration, note string) (token string, i Invite, err error) {
	if len(note) > MaxNote || proto.Text(note) != note {
		return "", i, fmt.Errorf("the note must be one line of at most %d bytes", MaxNote)
	}
	b.Invites = slices.DeleteFunc(b.Invites, func(i Invite) bool { return i.UsedBy == "" && now.After(i.Expires) })
	if len(b.Invites) >= MaxInvites {
		b.Invites = slices.DeleteFunc(b.Invites, func(i Invite) bool { return i.UsedBy != "" })
	}
	if len(b.Invites) >= MaxInvites {
		return "", i, fmt.Errorf("%d invitations are open: withdraw some", len(b.Invites))
	}
	token = proto.InvitePrefix + base64.RawURLEncoding.EncodeToString(random(16))
	i = Invite{ID: digest(token), Note: note, Made: now, Expires: now.Add(life)}
	b.Invites = append(b.Invites, i)
	return token, i, nil
}

// Withdraw removes an open invitation, by the beginning of its ID.
func (b *Book) Withdraw(id string) error {
	n := len(b.Invites)
	b.Invites = slices.DeleteFunc(b.Invites, func(i Invite) bool {
		return len(id) >= 6 && strings.HasPrefix(i.ID, id) && i.UsedBy == ""
	})
	if len(b.Invites) == n {
		return fmt.Errorf("no open invitation %q", id)
	}
	return nil
}

func digest(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Pass returns the token of an allowed member's own; "": the key is none's.
func (b *Book) Pass(key string) string {
	m := b.find(key)
	if m == nil || m.Standing != Allowed {
		return ""
	}
	return passPrefix + key + "." + b.mac(m)
}

func (b *Book) mac(m *Member) string {
	secret, _ := hex.DecodeString(b.Secret) // checked by Parse
	h := hmac.New(sha256.New, secret)
	fmt.Fprintf(h, "pass %s %d", m.Key, m.Passes)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Holder returns the key of the allowed member whose pass a token is; "": it is none.
func (b *Book) Holder(token string) string {
	rest, ok := strings.CutPrefix(token, passPrefix)
	key, mac, dot := strings.Cut(rest, ".")
	if !ok || !dot {
		return ""
	}
	m := b.find(key)
	if m == nil || m.Standing != Allowed || !hmac.Equal([]byte(mac), []byte(b.mac(m))) {
		return ""
	}
	return key
}

// Applicant is who wants to join, and what it has shown.
type Applicant struct {
	Key      string // proven; "": it has none
	Token    string
	Trusted  bool // Token is the host's join token, or the host needs none
	Label    string
	Agent    string
	Platform string
}

// Errors of Admit, for people.
var (
	errBanned = &proto.Error{Code: proto.Banned, Message: "the requester of this host has banned this provider"}
	errInvite = &proto.Error{Code: proto.BadToken, Message: "this invitation has expired, was withdrawn or is none", Hint: "ask the requester for another one"}
	errUsed   = &proto.Error{Code: proto.BadToken, Message: "this invitation has been used by another provider", Hint: "ask the requester for one of your own"}
	errKey    = &proto.Error{Code: proto.Forbidden, Message: "this host wants to know its providers, and this one keeps no key", Hint: "lend from a program or browser that keeps one: ravnest-provider without --identity none, or a page over https"}
	errOnly   = &proto.Error{Code: proto.Forbidden, Message: "this host takes members only", Hint: "ask the requester for an invitation"}
	errToken  = &proto.Error{Code: proto.BadToken, Message: "the join token is missing or wrong", Hint: "ask the requester for the token of this run, or for an invitation"}
)

// Admit judges an applicant and enters those who may join; only: the join token alone is not
// enough. The book has changed if the error is nil.
func (b *Book) Admit(now time.Time, a Applicant, only bool) *proto.Error {
	if a.Key == "" {
		switch {
		case only || proto.IsInvite(a.Token):
			return errKey
		case !a.Trusted:
			return errToken
		}
		return nil
	}
	if b.IsBanned(a.Key) {
		return errBanned
	}
	m := b.find(a.Key)
	allowed := m != nil && m.Standing == Allowed
	invite, note := -1, ""
	switch {
	case proto.IsInvite(a.Token):
		id := digest(a.Token)
		k := slices.IndexFunc(b.Invites, func(i Invite) bool { return i.ID == id })
		switch {
		case k < 0 || b.Invites[k].UsedBy == "" && now.After(b.Invites[k].Expires):
			return errInvite
		case b.Invites[k].UsedBy != "" && b.Invites[k].UsedBy != a.Key:
			return errUsed
		case b.Invites[k].UsedBy == a.Key && !allowed:
			return errInvite // revoked since
		}
		invite, note = k, b.Invites[k].Note
		allowed = true
	case allowed:
	case !a.Trusted:
		return errToken
	case only:
		return errOnly
	}
	s := Known
	if allowed {
		s = Allowed
	}
	if err := b.Set(a.Key, s); err != nil {
		return &proto.Error{Code: proto.Full, Message: err.Error()}
	}
	if invite >= 0 {
		b.Invites[invite].UsedBy = a.Key
	}
	m = b.find(a.Key)
	m.Label, m.Agent, m.Platform, m.Last = a.Label, a.Agent, a.Platform, now
	if m.First.IsZero() {
		m.First = now
	}
	if note != "" {
		m.Note = note
	}
	return nil
}
