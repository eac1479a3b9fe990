package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ravnest/ravnest/signaling/client"
)

// Where the host is not reached, the doctor says what to do next.
func TestDoctorSaysWhatToDo(t *testing.T) {
	page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html>Please log in to this network</html>")
	})
	plain, secure := httptest.NewServer(page), httptest.NewUnstartedServer(page)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().String()
	_ = ln.Close()
	for _, c := range []struct{ join, want string }{
		{plain.URL, "log in"},
		{secure.URL, "SSL_CERT_FILE"},
		{strings.Replace(plain.URL, "http:", "https:", 1), "join by http://"},
		{"http://" + nobody, "nothing listens there"},
	} {
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := doctor(ctx, &out, c.join, "t")
		cancel()
		if !errors.Is(err, errNoPath) {
			t.Errorf("%s: %v", c.join, err)
		}
		lines := strings.Split(out.String(), "\n")
		if len(lines) < 2 || !strings.HasPrefix(lines[0], "FAIL  host ") || !strings.Contains(lines[1], "hint: ") || !strings.Contains(lines[1], c.want) {
			t.Errorf("%s: no hint with %q:\n%s", c.join, c.want, out.String())
		}
	}
	dial := func(err error) error {
		return fmt.Errorf("%w at http://h: %w", client.ErrUnreachable, &url.Error{Op: "Get", URL: "http://h", Err: &net.OpError{Op: "dial", Net: "tcp", Err: err}})
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{dial(&net.DNSError{Err: "no such host", Name: "h", IsNotFound: true}), "spelling"},
		{dial(&net.DNSError{Err: "i/o timeout", Name: "h", IsTimeout: true}), "DNS does not answer"},
		{dial(x509.CertificateInvalidError{Reason: x509.Expired}), "2026-11-29 06:00 UTC by this machine's clock"},
		{dial(x509.HostnameError{Certificate: &x509.Certificate{}, Host: "h"}), "name that the certificate is for"},
		{dial(syscall.ENETUNREACH), "IPv4"},
		{dial(context.DeadlineExceeded), "port 443"},
		{fmt.Errorf("%w: %w", client.ErrUnreachable, &net.OpError{Op: "proxyconnect", Net: "tcp", Err: syscall.ECONNREFUSED}), "NO_PROXY"},
		{fmt.Errorf("%w: %w", client.ErrUnreachable, io.EOF), "check the address"},
	} {
		if got := remedy(c.err, time.Date(2026, 11, 29, 6, 0, 0, 0, time.UTC)); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q has no %q", c.err, got, c.want)
		}
	}
}

// TestWrongFlags: what is given to no purpose, or written wrongly, is told as it is written.
func TestWrongFlags(t *testing.T) {
	for in, want := range map[string]string{
		"--nosuch":                             "unknown flag --nosuch: run ravnest-provider --help",
		"--threads x":                          "for flag --threads",
		"doctor --nosuch":                      "unknown flag --nosuch",
		"doctor http://127.0.0.1:1":            "a host's address is given with --join http://127.0.0.1:1",
		"doctor --join http://127.0.0.1:1 now": `unexpected argument "now"`,
		"version --nosuch":                     "unknown flag --nosuch",
		"version now":                          `unexpected argument "now"`,
	} {
		a := app()
		var out strings.Builder
		a.Writer = &out
		err := a.RunContext(t.Context(), append([]string{"ravnest-provider"}, strings.Fields(in)...))
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() > 0 {
			t.Errorf("%s: %v, want %q; it prints %.100q", in, err, want, out.String())
		}
	}
}
