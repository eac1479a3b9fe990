package lend

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
)

// TestFirst: a provider tries the hosts it knows, and those that they name, until one takes it.
func TestFirst(t *testing.T) {
	gone := fmt.Errorf("dial: %w", client.ErrUnreachable)
	elsewhere := func(at string) error {
		return fmt.Errorf("join: %w", &proto.Error{Code: proto.Elsewhere, Message: "not here", Host: at})
	}
	refused := fmt.Errorf("join: %w", &proto.Error{Code: proto.BadToken, Message: "no"})
	for _, c := range []struct {
		name    string
		known   []string
		answers map[string]error
		tried   []string
		want    error
	}{
		{"the one that there is", []string{"http://a"}, nil, []string{"http://a"}, nil},
		{"the next", []string{"http://a", "http://b"}, map[string]error{"http://a": gone}, []string{"http://a", "http://b"}, nil},
		{"none", []string{"http://a", "http://b"}, map[string]error{"http://a": gone, "http://b": gone}, []string{"http://a", "http://b"}, client.ErrUnreachable},
		{"one that is named", []string{"http://a", "http://b"}, map[string]error{"http://a": elsewhere("http://c"), "http://b": gone}, []string{"http://a", "http://c"}, nil},
		{"each is sure of the other", []string{"http://a"}, map[string]error{"http://a": elsewhere("http://b"), "http://b": elsewhere("http://a")}, []string{"http://a", "http://b"}, proto.ErrElsewhere},
		{"a refusal counts", []string{"http://a", "http://b"}, map[string]error{"http://a": refused}, []string{"http://a"}, proto.ErrBadToken},
		{"not from TLS to none", []string{"https://a"}, map[string]error{"https://a": elsewhere("http://b")}, []string{"https://a"}, proto.ErrElsewhere},
	} {
		t.Run(c.name, func(t *testing.T) {
			var h hosts
			h.learn("", c.known...)
			var tried []string
			err := h.first(func(at string) error {
				tried = append(tried, at)
				return c.answers[at]
			})
			if !slices.Equal(tried, c.tried) || (err == nil) != (c.want == nil) || !errors.Is(err, c.want) {
				t.Errorf("it tried %q and ended with %v", tried, err)
			}
			if err == nil && h.list()[0] != tried[len(tried)-1] {
				t.Errorf("%q is not tried first the next time", tried[len(tried)-1])
			}
		})
	}
}

func TestLearn(t *testing.T) {
	var h hosts
	h.front("http://a:1/p/")
	h.learn("http://a:1", "http://a:1/p", "ftp://no", "b:2", "")
	for i := range 100 {
		h.learn("http://a:1", fmt.Sprintf("http://h%d", i))
	}
	if l := h.list(); l[0] != "http://a:1/p/" || l[1] != "http://b:2" || len(l) != maxHosts {
		t.Errorf("%d: %q", len(l), l)
	}
}
