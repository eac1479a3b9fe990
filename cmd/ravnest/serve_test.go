package main

import (
	"bytes"
	"crypto/tls"
	"net"
	"strings"
	"testing"

	"github.com/ravnest/ravnest/native/host"
)

// A host says where what is sent can be read, and where an address that it tells is none of its.
func TestWarnPlain(t *testing.T) {
	ln := &net.TCPAddr{IP: net.IPv4zero, Port: 8090}
	for _, c := range []struct {
		at   string
		edge host.Edge
		want string // "": nothing is said
	}{
		{"http://127.0.0.1:8090", host.Edge{}, ""},
		{"http://192.0.2.1:8090", host.Edge{}, "--tls-cert"},
		{"http://train.example.org", host.Edge{Proxy: true}, "plain http"},
		{"https://train.example.org", host.Edge{}, "no certificate: it serves plain http at 0.0.0.0:8090"},
		{"https://train.example.org", host.Edge{TLS: &tls.Config{}}, ""},
		{"https://train.example.org", host.Edge{Proxy: true}, ""},
	} {
		var out bytes.Buffer
		if warnPlain(&out, c.at, ln, c.edge); (out.Len() > 0) != (c.want != "") || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s, %+v: %q, want %q", c.at, c.edge, out.String(), c.want)
		}
	}
}
