package server

// Certificates by ACME (RFC 8555), with the challenge that needs no other port than
// the host's own: TLS-ALPN-01 (RFC 8737).

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ACME is a TLS configuration whose certificate for name comes from an ACME directory and
// is kept in cache. It is fetched when the first connection asks for it, and renewed in time.
func ACME(directory, cache, name string) (*tls.Config, error) {
	u, err := url.Parse(directory)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the ACME directory %q is no https address", directory)
	}
	if _, err := netip.ParseAddr(name); err == nil || name == "localhost" {
		return nil, fmt.Errorf("ACME certifies names, and %q is none that others could look up", name)
	}
	m := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		HostPolicy: autocert.HostWhitelist(name),
		Cache:      autocert.DirCache(cache),
		Client:     &acme.Client{DirectoryURL: directory, HTTPClient: &http.Client{Timeout: time.Minute}, UserAgent: "ravnest"},
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: m.GetCertificate,
		NextProtos:     []string{"http/1.1", acme.ALPNProto},
	}, nil
}
