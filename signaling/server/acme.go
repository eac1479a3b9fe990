package server

// Certificates from an ACME authority (RFC 8555), by the challenge that needs no port other
// than the host's own: TLS-ALPN-01 (RFC 8737).

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

// ACME returns a TLS configuration whose certificate for name comes from an ACME directory
// and is kept in the directory cache. It is fetched at the first connection that needs it,
// and renewed before it expires.
func ACME(directory, cache, name string) (*tls.Config, error) {
	u, err := url.Parse(directory)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the ACME directory %q is not an https address", directory)
	}
	if _, err := netip.ParseAddr(name); err == nil || name == "localhost" {
		return nil, fmt.Errorf("ACME certifies public host names, and %q is not one", name)
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
