package server_test

// Uploads of trained stages.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	machine "github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// fullStore refuses objects of stages while full.
type fullStore struct {
	store.Mem
	mu   sync.Mutex
	full bool
}

func (f *fullStore) Put(ctx context.Context, name string, r io.Reader) error {
	f.mu.Lock()
	full := f.full
	f.mu.Unlock()
	if full && strings.Contains(name, "/stage_") {
		_, _ = io.CopyN(io.Discard, r, 100)
		return &fs.PathError{Op: "write", Path: name, Err: syscall.ENOSPC}
	}
	return f.Mem.Put(ctx, name, r)
}

func TestFullDisk(t *testing.T) {
	st := &fullStore{}
	_, _, c, ev, done := alone(t, server.Config{Store: st})
	run := "digits-1"
	save := func(step int64, text string) error {
		ref, err := c.Upload(t.Context(), run, 0, []byte(text))
		if err != nil {
			return err
		}
		return c.Send(t.Context(), &proto.Saved{Run: run, Step: step, Blob: ref})
	}
	if err := save(1, "the first"); err != nil {
		t.Fatal(err)
	}
	first := await[server.Checkpointed](t, ev)
	st.mu.Lock()
	st.full = true
	st.mu.Unlock()
	refusal := save(2, strings.Repeat("the second ", 1<<20)) // 11 MiB, so that the answer must cross the body
	if !errors.Is(refusal, proto.ErrStorage) || !strings.Contains(refusal.Error(), "no space left") {
		t.Fatalf("the provider was told %v", refusal)
	}
	if w := await[server.Warning](t, ev); !errors.Is(w.Err, syscall.ENOSPC) || !errors.Is(w.Err, server.ErrStore) {
		t.Errorf("the requester was told %v", w.Err)
	}
	rc, err := st.Get(t.Context(), first.Manifest.Parts[0].Object)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(rc); string(b) != "the first" {
		t.Errorf("the earlier object holds %q", b)
	}
	st.mu.Lock()
	st.full = false
	st.mu.Unlock()
	if err := save(3, "the third"); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), &proto.Done{Run: run, Step: 3}); err != nil {
		t.Fatal(err)
	}
	if r := <-done; r.err != nil || r.Checkpoint == nil || r.Checkpoint.Position.Step != 3 {
		t.Errorf("got %+v, %v", r.Result, r.err)
	}
	if again := await[server.Checkpointed](t, ev); again.Manifest.Position.Step != 3 || again.After <= 0 {
		t.Errorf("saved again: %+v", again)
	}
}

// deafStore takes objects of stages and cannot give them back, while deaf: at once, or in their middle.
type deafStore struct {
	store.Mem
	mu      sync.Mutex
	at, mid bool
}

func (d *deafStore) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	d.mu.Lock()
	at, mid := d.at, d.mid
	d.mu.Unlock()
	if !strings.Contains(name, "/stage_") || !at && !mid {
		return d.Mem.Get(ctx, name)
	}
	fault := &fs.PathError{Op: "read", Path: name, Err: syscall.EIO}
	if at {
		return nil, fault
	}
	return io.NopCloser(io.MultiReader(strings.NewReader("the"), iotest.ErrReader(fault))), nil
}

// TestUnreadable: a provider is not blamed for a store that does not give back what it has taken.
func TestUnreadable(t *testing.T) {
	st := &deafStore{}
	job := testJob(blobs{}, 1)
	job.Inspect = func(_ machine.Grant, r io.Reader, size int64) (order.Position, []string, error) {
		b, err := io.ReadAll(r)
		if err == nil && int64(len(b)) != size {
			err = io.ErrUnexpectedEOF
		}
		return order.Position{Step: 1}, []string{snapshot.Weights}, err
	}
	_, _, c, ev, done := aloneWith(t, server.Config{Store: st}, job, func(l net.Listener) net.Listener { return l })
	for _, at := range []bool{true, false} {
		st.mu.Lock()
		st.at, st.mid = at, !at
		st.mu.Unlock()
		if _, err := c.Upload(t.Context(), "digits-1", 0, []byte("the state")); !errors.Is(err, proto.ErrStorage) || !strings.Contains(err.Error(), "input/output error") {
			t.Fatalf("the provider was told %v", err)
		}
		if w := await[server.Warning](t, ev); !errors.Is(w.Err, syscall.EIO) {
			t.Errorf("the requester was told %v", w.Err)
		}
	}
	st.mu.Lock()
	st.at, st.mid = false, false
	st.mu.Unlock()
	ref, err := c.Upload(t.Context(), "digits-1", 0, []byte("the state"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []proto.Message{&proto.Saved{Run: "digits-1", Step: 1, Blob: ref}, &proto.Done{Run: "digits-1", Step: 1}} {
		if err := c.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if r := <-done; r.err != nil || r.Checkpoint == nil {
		t.Errorf("got %+v, %v", r.Result, r.err)
	}
}

func TestUploadGuards(t *testing.T) {
	st := &store.Mem{}
	_, addr, c, _, _ := alone(t, server.Config{Store: st, MaxUpload: 1000})
	other := dial(t, addr, client.Options{Hello: hello("other")})
	run := "digits-1"
	if _, err := c.Upload(t.Context(), run, 0, make([]byte, 1001)); !errors.Is(err, proto.ErrOverLimit) {
		t.Errorf("over the limit: %v", err)
	}
	if _, err := c.Upload(t.Context(), run, 1, []byte("x")); !errors.Is(err, proto.ErrForbidden) {
		t.Errorf("another's stage: %v", err)
	}
	if _, err := other.Upload(t.Context(), run, 0, []byte("x")); !errors.Is(err, proto.ErrStopped) {
		t.Errorf("from an unassigned session: %v", err)
	}
	put := func(sum string, size int, body io.Reader) int {
		url := fmt.Sprintf("http://%s%s?offset=0&size=%d", addr, proto.UploadPath(run, 0, sum), size)
		req, err := http.NewRequestWithContext(t.Context(), "PUT", url, body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(proto.SessionHeader, c.Welcome().Session)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := put(strings.Repeat("b", 64), 8, strings.NewReader("not that")); got != 422 {
		t.Errorf("a wrong hash: %d", got)
	}
	// Without a length it is cut off while being read.
	if got := put(strings.Repeat("b", 64), 900, struct{ io.Reader }{bytes.NewReader(make([]byte, 2000))}); got != 400 {
		t.Errorf("a long body without a length: %d", got)
	}
	if l, err := st.List(t.Context(), run+"/cluster"); err != nil || len(l) != 0 {
		t.Errorf("stored all the same: %v, %v", l, err)
	}
	if _, err := c.Upload(t.Context(), run, 0, []byte("good")); err != nil {
		t.Error(err)
	}
}

func TestStalledUpload(t *testing.T) {
	_, addr, c, _, _ := alone(t, server.Config{IdleTimeout: 500 * time.Millisecond})
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT %s?offset=0&size=100 HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nContent-Length: 100\r\n\r\nhalf", proto.UploadPath("digits-1", 0, strings.Repeat("b", 64)), addr, proto.SessionHeader, c.Welcome().Session)
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	b, err := io.ReadAll(conn)
	if err != nil {
		t.Fatalf("the host still waits for the rest: %v", err)
	}
	if !strings.HasPrefix(string(b), "HTTP/1.1 400") {
		t.Errorf("got %.80q", b)
	}
	// The session may try again.
	if _, err := c.Upload(t.Context(), "digits-1", 0, []byte("whole")); err != nil {
		t.Error(err)
	}
}

// cutter breaks connections off after some bytes.
type cutter struct {
	net.Listener
	mu   sync.Mutex
	cuts int // connections to break off
	n    int // after so many bytes in
}

func (l *cutter) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: c, l: l}, nil
}

type cutConn struct {
	net.Conn
	l  *cutter
	in int
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.in += n
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	if c.l.cuts > 0 && c.in > c.l.n {
		c.l.cuts--
		_ = c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// An upload continues after broken connections, and no piece exceeds the limit.
func TestUploadResumes(t *testing.T) {
	cut := &cutter{}
	st := &store.Mem{}
	data := make([]byte, 5*proto.MaxChunk+12345)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	_, _, c, _, _ := aloneBehind(t, server.Config{Store: st, IdleTimeout: 2 * time.Second}, func(l net.Listener) net.Listener {
		cut.Listener = l
		return cut
	})
	cut.mu.Lock()
	cut.cuts, cut.n = 3, 2*proto.MaxChunk
	cut.mu.Unlock()
	ref, err := c.Upload(t.Context(), "digits-1", 0, data)
	if err != nil {
		t.Fatal(err)
	}
	if cut.mu.Lock(); cut.cuts == 3 {
		t.Error("no connection was broken off")
	}
	cut.mu.Unlock()
	r, err := st.Get(t.Context(), "digits-1/cluster_0/stage_0/"+ref.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, data) {
		t.Errorf("stored %d bytes, %v", len(b), err)
	}
	// The same bytes again are another upload.
	if _, err := c.Upload(t.Context(), "digits-1", 0, data[:100]); err != nil {
		t.Error(err)
	}
	if _, err := c.Upload(t.Context(), "digits-1", 0, data[:100]); err != nil {
		t.Error(err)
	}
	if _, err := c.Upload(t.Context(), "digits-1", 0, nil); err != nil {
		t.Errorf("an empty one: %v", err)
	}
}

// An upload that nobody continues is given up, and stores nothing.
func TestUploadExpires(t *testing.T) {
	st := &store.Mem{}
	_, addr, c, _, _ := alone(t, server.Config{Store: st, IdleTimeout: 100 * time.Millisecond})
	half := bytes.Repeat([]byte("x"), 1000)
	sum := sha256.Sum256(append(half, half...))
	put := func(off int, body []byte) (int, string) {
		url := fmt.Sprintf("http://%s%s?offset=%d&size=2000", addr, proto.UploadPath("digits-1", 0, hex.EncodeToString(sum[:])), off)
		req, _ := http.NewRequestWithContext(t.Context(), "PUT", url, bytes.NewReader(body))
		req.Header.Set(proto.SessionHeader, c.Welcome().Session)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, strings.TrimSpace(string(b))
	}
	const nothing, first = `{"have":0}`, `{"have":1000}`
	// Where the machine is slow, an upload expires between any two pieces and begins anew.
	for {
		if code, b := put(0, half); code != 200 || b != first {
			t.Fatalf("the first half: %d %s", code, b)
		}
		if code, b := put(500, half); code == 200 && b == first {
			break
		} else if code != 200 || b != nothing {
			t.Fatalf("not where it is: %d %s", code, b)
		}
	}
	deadline := time.Now().Add(patience)
	for {
		time.Sleep(50 * time.Millisecond)
		// A piece from the middle begins no upload, and revives none.
		if code, b := put(999, nil); code == 200 && b == nothing {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("not given up: %d %s", code, b)
		}
		time.Sleep(150 * time.Millisecond)
	}
	if l, _ := st.List(t.Context(), "digits-1/cluster"); len(l) != 0 {
		t.Errorf("stored: %v", l)
	}
	for {
		if code, b := put(0, half); code != 200 || b != first {
			t.Fatalf("anew: %d %s", code, b)
		}
		if code, b := put(1000, half); code == 201 {
			break
		} else if code != 200 || b != nothing {
			t.Fatalf("the second half: %d %s", code, b)
		}
	}
}
