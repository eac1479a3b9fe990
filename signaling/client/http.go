package client

// Requests to the host beside the WebSocket: blobs, uploads, bandwidth.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// ErrBlob: what came is not what the reference names.
var ErrBlob = errors.New("blob does not match its reference")

// host is where requests go, and with what.
type host struct {
	url     *url.URL // http or https, no path
	token   string
	session string
	http    *HTTP
	maxBlob int64
}

// join is the WebSocket's URL.
func (h *host) join() string {
	u := *h.url
	u.Scheme = "ws" + u.Scheme[len("http"):]
	u.Path = proto.JoinPath
	return u.String()
}

// answer is what the host answers a request; its body must be closed.
type answer struct {
	code   int
	status string
	size   int64 // of the body; -1: not known
	body   io.ReadCloser
}

// do sends a request and returns the answer where its status is 2xx. A body has size
// bytes.
func (h *host) do(ctx context.Context, method, path, query string, body io.Reader, size int) (*answer, error) {
	u := *h.url
	u.Path, u.RawQuery = path, query
	header := map[string]string{}
	if h.token != "" {
		header["Authorization"] = "Bearer " + h.token
	}
	if method == "PUT" {
		header[proto.SessionHeader] = h.session
	}
	resp, err := h.send(ctx, method, u.String(), header, body, size)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			return nil, cause
		}
		return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, h.url, err)
	}
	if resp.code/100 == 2 {
		return resp, nil
	}
	defer resp.body.Close()
	if pe := readError(resp.body); pe != nil {
		return nil, pe
	}
	return nil, fmt.Errorf("the host at %s answered %s: is it a ravnest host?", h.url, resp.status)
}

// readError reads a host's error from a response, or returns nil.
func readError(r io.Reader) *proto.Error {
	b, err := io.ReadAll(io.LimitReader(r, 16<<10))
	if err != nil {
		return nil
	}
	var e proto.Error
	if json.Unmarshal(b, &e) != nil || e.Code == "" {
		return nil
	}
	return &proto.Error{Code: proto.Code(proto.Text(string(e.Code))), Message: proto.Text(e.Message), Hint: proto.Text(e.Hint)}
}

// Blob fetches a blob of the current run and verifies its size and SHA-256.
func (c *Conn) Blob(ctx context.Context, ref proto.Ref) ([]byte, error) {
	if err := proto.CheckSHA256(ref.SHA256); err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	if ref.Size < 0 || ref.Size > c.host.maxBlob {
		return nil, fmt.Errorf("blob %.12s has %d bytes, this provider takes up to %d", ref.SHA256, ref.Size, c.host.maxBlob)
	}
	resp, err := c.host.do(ctx, "GET", proto.BlobPath(ref.SHA256), "", nil, 0)
	if err != nil {
		return nil, fmt.Errorf("blob %.12s: %w", ref.SHA256, err)
	}
	defer resp.body.Close()
	if n := resp.size; n >= 0 && n != ref.Size {
		return nil, fmt.Errorf("%w: %.12s has %d bytes, want %d", ErrBlob, ref.SHA256, n, ref.Size)
	}
	b := make([]byte, ref.Size)
	n, err := io.ReadFull(resp.body, b)
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("%w: %.12s ended after %d of %d bytes", ErrBlob, ref.SHA256, n, ref.Size)
	case err != nil:
		return nil, fmt.Errorf("blob %.12s: %w", ref.SHA256, err)
	}
	if m, _ := io.ReadFull(resp.body, make([]byte, 1)); m != 0 {
		return nil, fmt.Errorf("%w: %.12s has more than its %d bytes", ErrBlob, ref.SHA256, ref.Size)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != ref.SHA256 {
		return nil, fmt.Errorf("%w: it has the SHA-256 %x, want %s", ErrBlob, sum, ref.SHA256)
	}
	return b, nil
}

// Upload stores a trained stage at the host. The reference is for the saved
// message that should follow. On an error, what was saved before is still
// there.
func (c *Conn) Upload(ctx context.Context, run string, stage int, data []byte) (proto.Ref, error) {
	sum := sha256.Sum256(data)
	ref := proto.Ref{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data))}
	resp, err := c.host.do(ctx, "PUT", proto.UploadPath(run, stage, ref.SHA256), "", bytes.NewReader(data), len(data))
	if err != nil {
		return proto.Ref{}, fmt.Errorf("upload of stage %d: %w", stage, err)
	}
	_ = resp.body.Close()
	return ref, nil
}

// Bandwidth probes grow fourfold while one takes less than longProbe; then the
// size is kept until probeTime is over. They end at lastProbe, which on fast
// links is enough to be dominated by the transfer.
const (
	firstProbe = 32 << 10
	lastProbe  = 8 << 20
	longProbe  = 20 * time.Millisecond
	probeTime  = 100 * time.Millisecond
	probeLimit = 5 * time.Second // on links where even the first takes long
)

// MeasureBandwidth measures bits per second to (up) and from (down) the host,
// in about 100 ms each, with a few MB at most. It needs no session, as the
// result goes into the hello.
func MeasureBandwidth(ctx context.Context, addr string, opt Options) (up, down float64, err error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return 0, 0, err
	}
	h := host{url: u, token: opt.Token, http: opt.HTTP}
	return h.measure(ctx)
}

// MeasureBandwidth is the function of that name, for this session's host.
func (c *Conn) MeasureBandwidth(ctx context.Context) (up, down float64, err error) {
	return c.host.measure(ctx)
}

func (h *host) measure(ctx context.Context) (up, down float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*probeLimit)
	defer cancel()
	get := func(n int) error {
		resp, err := h.do(ctx, "GET", proto.SpeedPath, "bytes="+strconv.Itoa(n), nil, 0)
		if err != nil {
			return err
		}
		defer resp.body.Close()
		m, err := io.Copy(io.Discard, resp.body)
		if err == nil && m != int64(n) {
			err = fmt.Errorf("a probe of %d bytes gave %d", n, m)
		}
		return err
	}
	noise := newNoise()
	post := func(n int) error {
		noise.left = n
		resp, err := h.do(ctx, "POST", proto.SpeedPath, "", noise, n)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.body)
		_ = resp.body.Close()
		return err
	}
	// The first request pays for the connection, the second one is a round
	// trip, which the probes contain once each.
	if err := get(0); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth: %w", err)
	}
	t := time.Now()
	if err := get(0); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth: %w", err)
	}
	rtt := time.Since(t)
	if down, err = ramp(rtt, get); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth from the host: %w", err)
	}
	if up, err = ramp(rtt, post); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth to the host: %w", err)
	}
	return up, down, nil
}

// ramp probes with growing sizes and returns the bits per second of the best of
// the largest: what disturbs a probe (a first use, a busy core) only slows it.
func ramp(rtt time.Duration, probe func(n int) error) (float64, error) {
	begin := time.Now()
	best := time.Duration(math.MaxInt64)
	for n := firstProbe; ; {
		t := time.Now()
		if err := probe(n); err != nil {
			return 0, err
		}
		d := time.Since(t)
		best = min(best, d)
		switch {
		case time.Since(begin) >= probeTime || n == lastProbe:
			best = max(best-rtt, best/2, time.Microsecond)
			return float64(n) * 8 / best.Seconds(), nil
		case d < longProbe:
			n = min(4*n, lastProbe)
			best = math.MaxInt64
		}
	}
}

// noise is what an upload probe consists of: bytes that nothing on the way
// compresses, from a small block so that a probe costs no memory.
type noise struct {
	block []byte
	left  int
}

func newNoise() *noise {
	n := &noise{block: make([]byte, 0, firstProbe)}
	for x := uint32(2463534242); len(n.block) < firstProbe; { // xorshift32
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		n.block = append(n.block, byte(x>>24))
	}
	return n
}

func (n *noise) Read(b []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	m := copy(b[:min(len(b), n.left)], n.block)
	n.left -= m
	return m, nil
}
