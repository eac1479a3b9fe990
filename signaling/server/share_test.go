package server_test

// Shares of an address, with strangers' sockets: see guest.go.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"testing/fstest"
	"time"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/site"
)

// from makes requests from an address of this machine.
func from(ip string) *http.Client {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	return &http.Client{Transport: &http.Transport{DialContext: d.DialContext}}
}

// ask returns the status of a request, and for how long the host asks to wait.
func ask(t *testing.T, c *http.Client, url string, headers ...string) (status int, wait time.Duration) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	if s := resp.Header.Get("Retry-After"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Errorf("Retry-After: %q", s)
		}
		wait = time.Duration(n) * time.Second
	}
	return resp.StatusCode, wait
}

const thisOne, otherOne = "127.0.0.1", "127.0.0.2"

// Tokens are tried out until the address is told to wait, even with the right one; a provider
// elsewhere joins at once, one at that address after the wait.
func TestShareOfTokens(t *testing.T) {
	_, addr := start(t, server.Config{Token: "right"})
	url := "http://" + addr + proto.StatusPath
	guesses := 0
	for ; guesses < 1000; guesses++ {
		status, wait := ask(t, from(thisOne), url, "Authorization", fmt.Sprint("Bearer guess", guesses))
		if status == http.StatusTooManyRequests {
			if wait < time.Second || wait > time.Minute {
				t.Errorf("told to wait %v", wait)
			}
			break
		}
		if status != http.StatusUnauthorized {
			t.Fatalf("guess %d: status %d", guesses, status)
		}
	}
	if guesses < 100 || guesses == 1000 {
		t.Errorf("%d guesses", guesses)
	}
	// exhaust guesses until told to wait. A hello comes back every half a second, so what is
	// asked after it may be let through on a slow machine, but not time after time.
	exhaust := func() {
		for range 1000 {
			if status, _ := ask(t, from(thisOne), url, "Authorization", "Bearer guess"); status == http.StatusTooManyRequests {
				return
			}
		}
		t.Fatal("never told to wait")
	}
	timeAfterTime := func(what string, refused func() bool) {
		t.Helper()
		for range 20 {
			exhaust()
			if refused() {
				return
			}
		}
		t.Error(what)
	}
	timeAfterTime("the right token is taken after the wrong ones", func() bool {
		status, _ := ask(t, from(thisOne), url, "Authorization", "Bearer right")
		return status == http.StatusTooManyRequests
	})
	if status, _ := ask(t, from(otherOne), url, "Authorization", "Bearer right"); status != http.StatusOK {
		t.Errorf("from another address: status %d", status)
	}
	timeAfterTime("a wrong hello among the guesses is let through", func() bool {
		_, err := client.Dial(t.Context(), addr, client.Options{Token: "wrong", Hello: hello("")})
		var often *client.OftenError
		return errors.As(err, &often) && errors.Is(err, client.ErrUnreachable) && often.After >= time.Second
	})
	// A provider waits as it is told.
	timeAfterTime("a provider is let in at once", func() bool {
		begin := time.Now()
		if _, _, err := client.MeasureBandwidth(t.Context(), addr, client.Options{Token: "right"}); err != nil {
			t.Errorf("a patient provider: %v", err)
		}
		return time.Since(begin) >= 900*time.Millisecond
	})
	// Where one has joined, others may, whatever strangers there do.
	c := dialFrom(t, otherOne, addr, "right")
	defer c.Close("done")
	for range 300 {
		if status, _ := ask(t, from(otherOne), url, "Authorization", "Bearer guess"); status != http.StatusUnauthorized {
			t.Fatalf("a guess beside a provider: status %d", status)
		}
	}
	if status, _ := ask(t, from(otherOne), url, "Authorization", "Bearer right"); status != http.StatusOK {
		t.Errorf("beside a provider: status %d", status)
	}
}

func dialFrom(t *testing.T, ip, addr, token string) *client.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, addr, client.Options{Token: token, Hello: hello(""), HTTP: from(ip)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The site's bytes have a share as well.
func TestShareOfPages(t *testing.T) {
	big := make([]byte, 24<<20)
	pages, err := site.New(fstest.MapFS{"index.html": {Data: big}})
	if err != nil {
		t.Fatal(err)
	}
	_, addr := start(t, server.Config{Token: "t", Site: pages})
	url := "http://" + addr + "/"
	n, status := 0, 0
	for ; n < 40; n++ {
		if status, _ = ask(t, from(thisOne), url); status != http.StatusOK {
			break
		}
	}
	if n < 4 || status != http.StatusTooManyRequests {
		t.Errorf("%d pages of 24 MB, then status %d", n, status)
	}
	if status, _ := ask(t, from(otherOne), url); status != http.StatusOK {
		t.Errorf("from another address: status %d", status)
	}
}

// Connections that stand still: an address makes room for its own.
func TestShareOfConnections(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t", IdleTimeout: time.Minute})
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(otherOne)}}
	elder, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer elder.Close()
	// Headers that end, with a body that never comes.
	slow := "POST /v1/speed HTTP/1.1\r\nHost: " + addr + "\r\nAuthorization: Bearer t\r\nContent-Length: 700000\r\n\r\n"
	conns := crowd(t, addr, 400, func(int) string { return slow })
	n := 0
	for wait := 2 * time.Second; n < 400-200 && wait < patience; wait *= 2 {
		n = closedBy(conns, time.Now().Add(wait))
	}
	if n < 400-200 || n == 400 {
		t.Errorf("%d of 400 connections of one address were closed", n)
	}
	if _, err := io.WriteString(elder, "GET / HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.ReadResponse(bufio.NewReader(elder), nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the connection of another address: %v", err)
	}
}

// Behind a proxy the forwarded address counts; elsewhere nobody's word does.
func TestShareBehindProxy(t *testing.T) {
	for _, proxy := range []bool{true, false} {
		_, addr := start(t, server.Config{Token: "right", Proxy: proxy})
		url := "http://" + addr + proto.StatusPath
		c := from(thisOne)
		one := func(ip string) int {
			status, _ := ask(t, c, url, "Authorization", "Bearer wrong", "X-Forwarded-For", "198.51.100.99, "+ip)
			return status
		}
		// refused is how many of n guesses are. While they go on, a few are let through.
		refused := func(n int, ip string) (many int) {
			for range n {
				if one(ip) == http.StatusTooManyRequests {
					many++
				}
			}
			return many
		}
		a, b := refused(100, "203.0.113.1"), refused(100, "203.0.113.2")
		if a > 0 || proxy == (b > 0) {
			t.Errorf("proxy %v: of 100 guesses of each of two, %d and %d were refused", proxy, a, b)
		}
		if n := refused(200, "203.0.113.1"); n < 50 {
			t.Errorf("proxy %v: of 200 guesses more, %d were refused", proxy, n)
		}
		if n := refused(20, "203.0.113.7"); proxy == (n > 0) {
			t.Errorf("proxy %v: of 20 guesses of another client, %d were refused", proxy, n)
		}
	}
}

// A member fetches what its assignment needs several times over, whatever breaks off, and is then
// told when to come again. Nobody else at its address waits for that.
func TestShareOfDownloads(t *testing.T) {
	s, addr := start(t, server.Config{Token: "t"})
	b := blobs{}
	job := testJob(b, 1)
	big := b.add(bytes.Repeat([]byte("0123456789abcdef"), 24<<16)) // 24 MiB
	plan := job.Plan
	job.Plan = func(ctx context.Context, a server.Ask) ([]server.Assignment, error) {
		as, err := plan(ctx, a)
		as[0].Data["inputs"] = big
		return as, err
	}
	run(t, s, job, &events{})
	c := dialFrom(t, thisOne, addr, "t")
	defer c.Close("done")
	for assigned := false; !assigned; {
		m, err := c.Recv(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_, assigned = m.(*proto.Assign)
	}
	url, bearer := "http://"+addr+proto.BlobPath(big.SHA256), []string{"Authorization", "Bearer t"}
	session := append(slices.Clone(bearer), proto.SessionHeader, c.Welcome().Session)
	for range 3 {
		if _, err := c.Blob(t.Context(), big); err != nil {
			t.Fatal(err)
		}
	}
	// More than four breaks off with the last of what is there. A little comes back all the time.
	more, refused := 0, false
	for range 100 {
		req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(session); i += 2 {
			req.Header.Set(session[i], session[i+1])
		}
		resp, err := from(thisOne).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if refused = resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != ""; refused {
			break
		}
		if err == nil && n == big.Size {
			more++
		}
	}
	if !refused || more > 1 {
		t.Errorf("after three downloads %d more, then told to wait: %v", more, refused)
	}
	if status, _ := ask(t, from(thisOne), "http://"+addr+proto.StatusPath, bearer...); status != http.StatusOK {
		t.Errorf("another request of its address: status %d", status)
	}
	if status, _ := ask(t, from(thisOne), url, bearer...); status != http.StatusOK {
		t.Errorf("another visitor of its address: status %d", status)
	}
}
