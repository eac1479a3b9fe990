package server_test

// Strangers against a whole host: the resources that they can hold are bounded, and
// providers can join all the while.

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/site"
)

// inUse returns the bytes that the process has in use: heap and stacks.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// grows fails the test if the process holds more than limit bytes beyond before.
func grows(t *testing.T, before, limit int64) {
	t.Helper()
	if n := inUse() - before; n > limit {
		t.Errorf("the host and its strangers hold %.1f MB more than before, want at most %.1f", float64(n)/1e6, float64(limit)/1e6)
	}
}

// crowd opens n connections and sends on each what say returns, without ever reading.
func crowd(t *testing.T, addr string, n int, say func(i int) string) []net.Conn {
	t.Helper()
	var conns []net.Conn
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
	for i := range n {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
		conns = append(conns, c)
		// The host may have closed it by now, to make room.
		_, _ = io.WriteString(c, say(i))
	}
	return conns
}

// joins checks that an honest provider can join at once.
func joins(t *testing.T, addr, token, name string) *client.Conn {
	t.Helper()
	begin := time.Now()
	c := dial(t, addr, client.Options{Token: token, Hello: hello(name)})
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("joining took %v", d)
	}
	return c
}

// closedBy returns how many of the connections the host has closed by end.
func closedBy(conns []net.Conn, end time.Time) int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	n := 0
	for _, c := range conns {
		wg.Go(func() {
			_ = c.SetReadDeadline(end)
			_, err := io.Copy(io.Discard, c)
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				return
			}
			mu.Lock()
			n++
			mu.Unlock()
		})
	}
	wg.Wait()
	return n
}

func gz(t *testing.T, b []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	_, _ = z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// A large asset is requested by many who accept no encoding and do not read the answer.
func TestStrangersAssets(t *testing.T) {
	const size = 8 << 20
	big := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(big[:size/2])
	packed := gz(t, big)
	pages, err := site.New(fstest.MapFS{
		"index.html":        {Data: []byte("{{build}}")},
		"assets/big.css.gz": {Data: packed}, "assets/big.css.br": {Data: big[:size/2]},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, addr := startOn(t, server.Config{Token: "t", Site: pages, IdleTimeout: time.Second}, func(l net.Listener) net.Listener { return thin{l} })
	page, err := http.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	id, err := io.ReadAll(page.Body)
	page.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	before := inUse()
	conns := crowd(t, addr, 300, func(i int) string {
		encoding := []string{"", "Accept-Encoding: br\r\n", "Accept-Encoding: gzip\r\n"}[i%3]
		return fmt.Sprintf("GET /assets/%s/big.css HTTP/1.1\r\nHost: %s\r\n%s\r\n", id, addr, encoding)
	})
	time.Sleep(200 * time.Millisecond)
	grows(t, before, 3*size)
	joins(t, addr, "t", "honest")
	// Those who do not read are disconnected.
	if n := closedBy(conns[:100], time.Now().Add(patience)); n < 100 {
		t.Errorf("%d of 100 were disconnected", n)
	}
	// Those who read get the file.
	req, _ := http.NewRequest("GET", "http://"+addr+"/assets/"+string(id)+"/big.css", nil)
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != size {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// WebSockets that never say hello, and connections that never say anything.
func TestStrangersWithoutHello(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t", HelloTimeout: 4 * time.Second, MaxStrangers: 100})
	member := joins(t, addr, "t", "member")
	before := inUse()
	conns := crowd(t, addr, 700, func(i int) string {
		if i%2 == 1 {
			return "GE"
		}
		return "GET " + proto.JoinPath + " HTTP/1.1\r\nHost: " + addr + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	})
	grows(t, before, 16<<20)
	joins(t, addr, "t", "honest")
	if n := closedBy(conns, time.Now().Add(patience)); n < len(conns) {
		t.Errorf("%d of %d strangers were disconnected", n, len(conns))
	}
	select {
	case <-member.Done():
		t.Error("a provider lost its place to strangers")
	default:
	}
}

// Strangers send an oversized hello.
func TestStrangersLongHello(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t", HelloTimeout: time.Hour})
	before := inUse()
	var socks []*websocket.Conn
	for range 100 {
		ws, _, err := websocket.Dial(t.Context(), "ws://"+addr+proto.JoinPath, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		socks = append(socks, ws)
		w, err := ws.Writer(t.Context(), websocket.MessageText)
		if err != nil {
			t.Fatal(err)
		}
		// The host hangs up in the middle.
		_, _ = io.Copy(w, io.LimitReader(zeros{}, proto.MaxMessage-1))
	}
	grows(t, before, 16<<20)
	for _, ws := range socks {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("not hung up on: %v", err)
		}
		cancel()
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// Bodies that never arrive, or byte by byte, to all kinds of routes.
func TestStrangersBodies(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t", IdleTimeout: time.Second, MaxStrangers: 200})
	before := inUse()
	conns := crowd(t, addr, 600, func(i int) string {
		head := []string{
			"POST /v1/speed HTTP/1.1\r\n", "PUT /v1/upload/r/0/" + strings.Repeat("a", 64) + "?offset=0&size=9 HTTP/1.1\r\n", "GET / HTTP/1.1\r\n",
			"GET /v1/status HTTP/1.1\r\n", "POST / HTTP/1.1\r\n", "POST /v1/speed HTTP/1.1\r\nAuthorization: Bearer t\r\n",
		}[i%6]
		length := []string{"Content-Length: 1000", "Content-Length: 700000000", "Transfer-Encoding: chunked"}[i%3]
		return head + "Host: " + addr + "\r\n" + length + "\r\n\r\n"
	})
	grows(t, before, 16<<20)
	joins(t, addr, "t", "honest")
	if n := closedBy(conns, time.Now().Add(patience)); n < len(conns) {
		t.Errorf("%d of %d strangers were disconnected", n, len(conns))
	}
}

// Wrong tokens give the requester a few lines, not one for each.
func TestStrangersWrongToken(t *testing.T) {
	s, addr := start(t, server.Config{Token: "right"})
	var mu sync.Mutex
	told := 0
	var once sync.Once
	begun := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.Run(ctx, testJob(blobs{}, 3), func(ev server.Event) {
			switch ev.(type) {
			case server.Joined:
				once.Do(func() { close(begun) })
			case server.Refused:
				mu.Lock()
				told++
				mu.Unlock()
			}
		})
	}()
	// Without a run there is nobody to tell.
	joins(t, addr, "right", "first")
	<-begun
	for range 300 {
		if _, err := client.Dial(t.Context(), addr, client.Options{Token: "wrong", Hello: hello("")}); err == nil {
			t.Fatal("joined")
		}
	}
	joins(t, addr, "right", "honest")
	cancel()
	<-done
	mu.Lock()
	defer mu.Unlock()
	if told == 0 || told > 10 {
		t.Errorf("300 wrong tokens made %d events", told)
	}
}

// On a host with a token, requests over loopback that name localhost need the token too.
func TestStrangersLoopbackIsNoLicence(t *testing.T) {
	_, addr := start(t, server.Config{Token: "t"})
	for _, path := range []string{proto.StatusPath, proto.WatchPath, proto.BlobPath(strings.Repeat("a", 64)), proto.SpeedPath + "?bytes=1"} {
		for _, host := range []string{addr, "localhost", "127.0.0.1", "[::1]:80"} {
			req, _ := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr+path, nil)
			req.Host = host
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s as %s: %s", path, host, resp.Status)
			}
		}
	}
}

// Tokens may contain any characters, in the header and in hello.
func TestTokens(t *testing.T) {
	for _, token := range []string{"plain", "q83v+/8=", "a&b=c", "100%", "p\u00e2t\u00e9", "\u03a9mega \u4e2d"} {
		_, addr := start(t, server.Config{Token: token})
		if _, _, err := client.MeasureBandwidth(t.Context(), addr, client.Options{Token: token}); err != nil {
			t.Errorf("%q: %v", token, err)
		}
		joins(t, addr, token, "honest")
	}
	for _, token := range []string{"\xff", "a\nb", " a"} {
		if _, err := server.New(server.Config{Token: token}); err == nil {
			t.Errorf("a host with the token %q", token)
		}
	}
}
