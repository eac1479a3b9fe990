package main

// The doctor tests the network between this machine and a host, and says what to do about
// what does not work. It does not join the host.

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/ravnest/ravnest/engine/transport/rtc"
	"github.com/ravnest/ravnest/native"
	"github.com/ravnest/ravnest/native/console"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/urfave/cli/v2"
)

// errNoPath is the doctor's worst finding.
var errNoPath = errors.New("this machine cannot take part in a run of this host")

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "test the network between this machine and a host, without joining it",
		Flags:        []cli.Flag{joinFlag, tokenFlag, tokenFileFlag, identityFlag},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			hosts, token, err := hostsOf(c)
			if err != nil {
				return err
			}
			join := hosts[0]
			id, err := identity(c, func(string, ...any) {})
			if err != nil {
				return err
			}
			if token == "" && id != nil {
				if u, err := client.ParseURL(join); err == nil {
					token = id.Pass(u.String())
				}
			}
			return doctor(c.Context, c.App.Writer, join, token)
		},
	}
}

// finding prints one of the doctor's findings.
func finding(w io.Writer, good bool, what, result, hint string) {
	mark := "ok  "
	if !good {
		mark = "FAIL"
	}
	fmt.Fprintf(w, "%s  %-16s %s\n", mark, what, console.Plain(result))
	if !good && hint != "" {
		fmt.Fprintf(w, "      hint: %s\n", hint)
	}
}

func doctor(ctx context.Context, w io.Writer, join, token string) error {
	opt := client.Options{Token: token}
	before := time.Now()
	t, rtt, err := client.Try(ctx, join, opt)
	if err != nil {
		finding(w, false, "host", err.Error(), remedy(err, before))
		return errNoPath
	}
	u, err := client.ParseURL(join)
	if err != nil {
		return err
	}
	finding(w, true, "host", fmt.Sprintf("%s answers in %.1f ms, by HTTP and WebSocket%s", join, float64(rtt.Microseconds())/1e3, through(u)), "")
	encrypted(w, u)
	off := time.UnixMilli(t.Time).Sub(before.Add(time.Since(before) / 2)).Round(100 * time.Millisecond)
	finding(w, off.Abs() < time.Minute, "clock", fmt.Sprintf("%v from the host's", off), "set this machine's clock: certificates are checked against it")
	up, down, err := client.MeasureBandwidth(ctx, join, opt)
	if err != nil {
		finding(w, false, "speed", err.Error(), "")
	} else {
		finding(w, true, "speed", fmt.Sprintf("%.3g Mbit/s to the host, %.3g Mbit/s from it", up/1e6, down/1e6), "")
	}
	return paths(ctx, w, t.ICE, native.Loopback(join))
}

// through says by which proxy requests to a host go.
func through(u *url.URL) string {
	p, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil || p == nil {
		return ""
	}
	return fmt.Sprintf(", through the proxy %s (paths to other providers do not use it)", p.Host)
}

// remedy says what to do about a host that was not reached.
func remedy(err error, now time.Time) string {
	var (
		told    *proto.Error
		name    *net.DNSError
		op      *net.OpError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		other   x509.HostnameError
		syntax  *json.SyntaxError
		timeout net.Error
	)
	switch {
	case errors.As(err, &told):
		return "" // the host has said it
	case errors.As(err, &syntax):
		return "something else answers there: open the address in a browser: if it shows the login page of this network, log in; otherwise check the address"
	case errors.As(err, &name) && name.IsNotFound:
		return "check the spelling of the host's name; if it is right, this machine's DNS does not know it: is it on the Internet?"
	case errors.As(err, &name):
		return "this machine's DNS does not answer: check its network, or join by the host's address instead of its name"
	case errors.As(err, &unknown):
		return "the certificate is self-signed, or a proxy has put its own in place: ask the requester for one that is publicly trusted (serve --acme), or name a file with the certificate of whom you trust in SSL_CERT_FILE"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Sprintf("it is %s by this machine's clock: set it if it is wrong; otherwise the requester has to renew the certificate", now.UTC().Format("2006-01-02 15:04 MST"))
	case errors.As(err, &other):
		return "join by a name that the certificate is for, or ask the requester which address to use"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the host has no TLS at that port: join by http://, or ask the requester for the https address"
	case errors.As(err, &op) && op.Op == "proxyconnect":
		return "correct or unset HTTPS_PROXY and HTTP_PROXY, or list the host in NO_PROXY"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there: check the port, and that ravnest serve runs there with --listen on an address that other machines reach"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "this machine has no way to that address: check its network; if the address is one of IPv6, ask the requester for one of IPv4"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return "nothing answers: a firewall here or at the host drops what is sent to that port: ask the requester to serve at port 443"
	case strings.HasPrefix(err.Error(), client.ErrUnreachable.Error()):
		return "check the address: http:// where the host has a certificate, or the port of another server, breaks off like this"
	}
	return ""
}

func encrypted(w io.Writer, u *url.URL) {
	if u.Scheme == "https" || native.Loopback(u.String()) {
		finding(w, true, "encryption", map[bool]string{true: "TLS", false: "none; it is not needed on one machine"}[u.Scheme == "https"], "")
		return
	}
	finding(w, false, "encryption", "plain http: others on the network can read the token, the data and the weights", "ask the requester for an https address")
}

// paths tests the paths to other providers.
func paths(ctx context.Context, w io.Writer, servers []proto.ICEServer, loopback bool) error {
	switch {
	case loopback:
		finding(w, true, "other providers", "on this machine", "")
		return nil
	case len(servers) == 0:
		finding(w, false, "relay", "the host has no relay: providers need direct paths to each other", "the requester can start it with serve --relay ADDR")
		return nil
	}
	udp, relayed := false, false
	for _, s := range servers {
		for _, at := range s.URLs {
			pctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			addr, err := rtc.Probe(pctx, rtc.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential}, at)
			cancel()
			what, hint := probed(at)
			if err != nil {
				finding(w, false, what, fmt.Sprintf("%s: %v", at, err), hint)
				continue
			}
			switch {
			case strings.HasPrefix(at, "stun:"):
				udp = true
				finding(w, true, what, "seen from outside as "+addr, "")
			default:
				relayed = true
				udp = udp || strings.HasSuffix(at, "transport=udp")
				finding(w, true, what, "works", "")
			}
		}
	}
	switch {
	case udp && relayed:
		finding(w, true, "other providers", "directly if both networks allow it, otherwise through the host's relay", "")
	case relayed:
		finding(w, true, "other providers", "only through the host's relay, over TCP: this network blocks UDP", "")
	case udp:
		finding(w, true, "other providers", "directly only", "")
	default:
		finding(w, false, "other providers", "no path to any", "let UDP or TCP out to the host's port")
		return errNoPath
	}
	return nil
}

// probed returns the name of the test of a server's URL, and what to do if it fails.
func probed(at string) (what, hint string) {
	switch {
	case strings.HasPrefix(at, "stun:"):
		return "UDP, STUN", "a firewall here or at the host blocks UDP: training will use the relay over TCP, which is slower"
	case strings.HasPrefix(at, "turns:"):
		return "relay, TLS", "TLS to the host's port is blocked here"
	case strings.HasSuffix(at, "transport=tcp"):
		return "relay, TCP", "the host's relay cannot be reached at that port: behind a reverse proxy it needs an address of its own (serve --relay ADDR)"
	}
	return "relay, UDP", "a firewall here or at the host blocks UDP: the relay over TCP is used instead"
}
