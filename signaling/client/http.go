package client

// HTTP requests to the host: blobs, uploads and bandwidth.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ravnest/ravnest/engine/transport/throttle"
	"github.com/ravnest/ravnest/signaling/proto"
)

// ErrBlob is returned if the bytes received are not those that the reference names.
var ErrBlob = errors.New("blob does not match its reference")

// host is where requests are sent, with their credentials.
type host struct {
	url     *url.URL // http or https; its path, if any, is a prefix that does not end in a slash
	token   string
	session string
	http    *HTTP
	maxBlob int64
	limit   *throttle.Limit

	identity Identity
}

// join returns the WebSocket's URL.
func (h *host) join() string {
	u := *h.url
	u.Scheme = "ws" + u.Scheme[len("http"):]
	u.Path += proto.JoinPath
	return u.String()
}

// answer is the host's answer to a request. Its body must be closed.
type answer struct {
	code   int
	status string
	size   int64  // of the body; -1: unknown
	after  string // its header Retry-After
	body   io.ReadCloser
}

// do sends a request, with a body of size bytes if any, and returns the answer if its status
// is 2xx. It waits, and asks again, where the host asks for patience and ctx allows it.
func (h *host) do(ctx context.Context, method, path, query string, body func() io.Reader, size int, headers ...[2]string) (*answer, error) {
	u := *h.url
	u.Path, u.RawQuery = u.Path+path, query
	header := map[string]string{}
	for _, x := range headers {
		header[x[0]] = x[1]
	}
	if h.token != "" {
		header["Authorization"] = proto.Authorization(h.token)
	}
	if h.session != "" && (method == "PUT" || strings.HasPrefix(path, proto.BlobPath(""))) {
		header[proto.SessionHeader] = h.session
	}
	for {
		var sent io.Reader
		if body != nil {
			sent = h.limit.Sent(ctx, body())
		}
		resp, err := h.send(ctx, method, u.String(), header, sent, size)
		if err != nil {
			if cause := ctx.Err(); cause != nil {
				return nil, cause
			}
			return nil, fmt.Errorf("%w at %s: %w", ErrUnreachable, h.url, err)
		}
		if resp.code/100 == 2 {
			resp.body = h.limit.Received(ctx, resp.body)
			return resp, nil
		}
		err = h.refused(resp)
		var often *OftenError
		if !errors.As(err, &often) || !often.wait(ctx) {
			return nil, err
		}
	}
}

// refused returns the error of an answer that is none of success.
func (h *host) refused(resp *answer) error {
	defer resp.body.Close()
	pe := readError(resp.body)
	if resp.code == http429 {
		return &OftenError{retryAfter(resp.after), pe}
	}
	if pe != nil {
		return pe
	}
	err := fmt.Errorf("the host at %s answered %s: is it a ravnest host?", h.url, resp.status)
	if resp.code/100 == 5 {
		err = fmt.Errorf("%w: %w", ErrUnreachable, err) // as a proxy reports it
	}
	return err
}

// OftenError says that the host, or a proxy in front of it, asks for less from this address.
// errors.Is reports that it is an ErrUnreachable.
type OftenError struct {
	After  time.Duration // when to try again
	Reason *proto.Error  // nil: none was given
}

func (e *OftenError) Error() string {
	why := "too many requests come from this address"
	if e.Reason != nil {
		why = e.Reason.Message
	}
	return fmt.Sprintf("the host is busy: %s: trying again in %.0f s", why, e.After.Seconds())
}

// Is reports that e is an ErrUnreachable.
func (e *OftenError) Is(target error) bool { return target == ErrUnreachable }

// Sleep waits until it may be tried again, or ctx ends.
func (e *OftenError) Sleep(ctx context.Context) {
	t := time.NewTimer(e.After)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// wait is Sleep, but returns false at once if ctx ends sooner.
func (e *OftenError) wait(ctx context.Context) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < e.After {
		return false
	}
	e.Sleep(ctx)
	return ctx.Err() == nil
}

// http429 is the status Too Many Requests.
const http429 = 429

// maxAfter is the longest wait that a host may ask for.
const maxAfter = 5 * time.Minute

// retryAfter reads the header in seconds; without one it is a few.
func retryAfter(s string) time.Duration {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 5 * time.Second
	}
	return min(time.Duration(min(n, 3600))*time.Second, maxAfter)
}

// patience is how often in a row a transfer without progress is retried.
const patience = 6

// again waits before the nth retry in a row of a transfer that broke off. It returns err if
// retrying is useless: the host has refused, or ctx is over.
func again(ctx context.Context, n int, err error) error {
	var pe *proto.Error
	if errors.As(err, &pe) && pe.Code != proto.Protocol || errors.Is(err, ErrBlob) || n > patience {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	t := time.NewTimer(min(100*time.Millisecond<<n, 5*time.Second))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
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
	return &proto.Error{Code: proto.Code(proto.Text(string(e.Code))), Message: proto.Text(e.Message), Hint: proto.Text(e.Hint), Host: proto.Text(e.Host)}
}

// Blob fetches a blob of the current run and verifies its size and SHA-256.
func (c *Conn) Blob(ctx context.Context, ref proto.Ref) ([]byte, error) {
	if err := c.checkRef(ref); err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, ref.Size))
	if err := c.BlobTo(ctx, ref, b, nil); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (c *Conn) checkRef(ref proto.Ref) error {
	if err := proto.CheckSHA256(ref.SHA256); err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	if ref.Size < 0 || ref.Size > c.host.maxBlob {
		return fmt.Errorf("blob %.12s has %d bytes, but this provider takes up to %d", ref.SHA256, ref.Size, c.host.maxBlob)
	}
	return nil
}

// BlobTo fetches a blob of the current run into w, and never writes more than ref.Size bytes.
// They are verified only if the error is nil. A download that breaks off is continued. have,
// unless nil, is called from time to time with the number of bytes received so far.
func (c *Conn) BlobTo(ctx context.Context, ref proto.Ref, w io.Writer, have func(int64)) error {
	if err := c.checkRef(ref); err != nil {
		return err
	}
	d := &download{to: w, sum: sha256.New(), told: have}
	for failed := 0; ; {
		was := d.have
		err := c.host.rest(ctx, ref, d)
		switch {
		case err == nil && d.have < ref.Size:
			if d.have > was {
				failed = 0
				continue
			}
			err = fmt.Errorf("%w: it ended after %d of %d bytes", ErrBlob, d.have, ref.Size)
		case err == nil && hex.EncodeToString(d.sum.Sum(nil)) != ref.SHA256:
			err = fmt.Errorf("%w: it has the SHA-256 %x, want %s", ErrBlob, d.sum.Sum(nil), ref.SHA256)
		case err == nil:
			return nil
		}
		if d.have > was {
			failed = 0
		}
		failed++
		if d.err != nil {
			return d.err
		}
		if err := again(ctx, failed, err); err != nil {
			return fmt.Errorf("blob %.12s: %w", ref.SHA256, err)
		}
	}
}

// download is the part of a blob received so far.
type download struct {
	to   io.Writer
	sum  hash.Hash
	have int64
	told func(int64)
	err  error // the writer's error
}

func (d *download) Write(b []byte) (int, error) {
	n, err := d.to.Write(b)
	d.sum.Write(b[:n])
	d.have += int64(n)
	d.err = err
	if d.told != nil {
		d.told(d.have)
	}
	return n, err
}

// rest fetches some or all of the bytes that d does not have yet.
func (h *host) rest(ctx context.Context, ref proto.Ref, d *download) error {
	want := ref.Size - d.have
	var header [][2]string
	if most := h.most(); d.have > 0 || want > most {
		want = min(want, most)
		header = append(header, [2]string{"Range", fmt.Sprintf("bytes=%d-%d", d.have, d.have+want-1)})
	}
	resp, err := h.do(ctx, "GET", proto.BlobPath(ref.SHA256), "", nil, 0, header...)
	if err != nil {
		return err
	}
	defer resp.body.Close()
	if resp.code != http206 && header != nil {
		// A proxy ignored the range and sends everything: skip what d has.
		if _, err := io.CopyN(io.Discard, resp.body, d.have); err != nil {
			return fmt.Errorf("%w at %s: %w", ErrUnreachable, h.url, err)
		}
		want = ref.Size - d.have
	} else if resp.size >= 0 && resp.size != want {
		return fmt.Errorf("%w: %d bytes were sent, want %d", ErrBlob, resp.size, want)
	}
	if _, err := io.CopyN(d, resp.body, want); err != nil {
		return fmt.Errorf("%w at %s: the download broke off: %w", ErrUnreachable, h.url, err)
	}
	if n, _ := io.ReadFull(resp.body, make([]byte, 1)); n != 0 {
		return fmt.Errorf("%w: more than its %d bytes were sent", ErrBlob, ref.Size)
	}
	return nil
}

// http206 is the status Partial Content. (net/http is too large for a tab.)
const http206 = 206

// Upload stores a trained stage at the host, piece by piece. If a connection breaks, it
// continues with the bytes that the host does not have yet. The reference returned is for
// the saved message that should follow. After an error, the previous save is unchanged.
func (c *Conn) Upload(ctx context.Context, run string, stage int, data []byte) (proto.Ref, error) {
	ref := proto.RefOf(data, c.opt.Between)
	path := proto.UploadPath(run, stage, ref.SHA256)
	most := int64(-1) // the most bytes that the host has reported
	for off, failed := int64(0), 0; ; {
		piece := data[off:min(off+proto.MaxChunk, ref.Size)]
		have, done, err := c.host.putPiece(ctx, path, off, ref.Size, piece)
		if err == nil && done {
			return ref, nil
		}
		if err == nil {
			if off = have; have > most {
				most, failed = have, 0
				continue
			}
			err = fmt.Errorf("%w: the host has %d of %d bytes and gets no further", ErrUnreachable, have, ref.Size)
		}
		failed++
		if err := again(ctx, failed, err); err != nil {
			return proto.Ref{}, fmt.Errorf("upload of stage %d: %w", stage, err)
		}
	}
}

// putPiece sends the bytes at off and returns where the host wants the next ones to begin,
// or that it has them all.
func (h *host) putPiece(ctx context.Context, path string, off, size int64, piece []byte) (have int64, done bool, err error) {
	resp, err := h.do(ctx, "PUT", path, fmt.Sprintf("offset=%d&size=%d", off, size), func() io.Reader { return bytes.NewReader(piece) }, len(piece))
	if err != nil {
		return 0, false, err
	}
	defer resp.body.Close()
	if resp.code == http201 {
		return size, true, nil
	}
	var v proto.Have
	if err := json.NewDecoder(io.LimitReader(resp.body, 1<<10)).Decode(&v); err != nil || v.Have < 0 || v.Have > size {
		return 0, false, fmt.Errorf("%w: the answer to a piece of an upload cannot be read: is it a ravnest host?", ErrUnreachable)
	}
	return v.Have, false, nil
}

// http201 is the status Created, for a complete upload that was stored.
const http201 = 201

// A bandwidth probe is a number of requests of a size that proxies accept. Probes grow until
// one takes longProbe, and longTicks of a coarse clock. The last size is then repeated until
// probeTime is over, and the fastest counts, since disturbances (first use, a busy core) can
// only slow a probe down. Probes have at most lastProbe bytes, which is enough for the
// transfer to dominate even on fast links.
const (
	firstProbe = 32 << 10
	lastProbe  = 8 << 20
	longProbe  = 20 * time.Millisecond
	longTicks  = 10
	coarse     = 100 * time.Microsecond
	probeTime  = 100 * time.Millisecond
	slowProbe  = 4 * time.Second  // probes do not grow if the next would take that long
	probeLimit = 15 * time.Second // limit of the whole measurement, for slow links
)

// MeasureBandwidth measures the bandwidth to (up) and from (down) the host in bits per
// second. It takes about 100 ms and at most a few MB for each. It needs no session, as the
// result is sent in the hello.
func MeasureBandwidth(ctx context.Context, addr string, opt Options) (up, down float64, err error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return 0, 0, err
	}
	h := opt.host(u)
	return h.measure(ctx)
}

// MeasureBandwidth is like the function MeasureBandwidth, for this session's host.
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
			err = fmt.Errorf("a probe of %d bytes transferred %d", n, m)
		}
		return err
	}
	block := noiseBlock()
	post := func(n int) error {
		resp, err := h.do(ctx, "POST", proto.SpeedPath, "", func() io.Reader { return &noise{block, n} }, n)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.body)
		_ = resp.body.Close()
		return err
	}
	// The first request opens the connection. The next ones measure the round trip, which
	// every request of a probe contains once.
	if err := get(0); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth: %w", err)
	}
	rtt := time.Duration(math.MaxInt64)
	for range 3 {
		t := time.Now()
		if err := get(0); err != nil {
			return 0, 0, fmt.Errorf("measure bandwidth: %w", err)
		}
		rtt = min(rtt, time.Since(t))
	}
	if down, err = ramp(time.Now, rtt, get); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth from the host: %w", err)
	}
	if up, err = ramp(time.Now, rtt, post); err != nil {
		return 0, 0, fmt.Errorf("measure bandwidth to the host: %w", err)
	}
	// What a bucket has saved up is faster than its rate.
	if l := h.limit.Up(); l > 0 {
		up = min(up, l)
	}
	if l := h.limit.Down(); l > 0 {
		down = min(down, l)
	}
	return up, down, nil
}

// tick returns the clock's resolution: the smallest of a few steps. In browsers it can be as
// coarse as 100 ms.
func tick(now func() time.Time) time.Duration {
	least := time.Second
	for range 3 {
		begin := now()
		d := time.Duration(0)
		for d <= 0 {
			d = now().Sub(begin)
		}
		least = min(least, d)
	}
	return least
}

// ramp probes with growing sizes and returns the bits per second of the fastest probe of the
// largest size.
func ramp(now func() time.Time, rtt time.Duration, probe func(n int) error) (float64, error) {
	res := tick(now)
	long, most := max(longProbe, longTicks*res), lastProbe
	if res > coarse {
		most = 8 * lastProbe
	}
	begin := now()
	best := time.Duration(math.MaxInt64)
	for n := firstProbe; ; {
		t := now()
		requests := 0
		for left := n; left > 0; requests++ {
			m := min(left, proto.MaxChunk)
			if err := probe(m); err != nil {
				return 0, err
			}
			left -= m
		}
		d := now().Sub(t)
		best = min(best, d)
		far := time.Duration(requests) * rtt
		elapsed := now().Sub(begin)
		switch {
		case d-far < long && n < most && elapsed+4*d < max(slowProbe, 5*long):
			n = min(4*n, most)
			best = math.MaxInt64
		case elapsed >= max(probeTime, 2*long) || n == most:
			best = max(best-far, best/4, time.Microsecond)
			return float64(n) * 8 / best.Seconds(), nil
		}
	}
}

// Try tests the network to the host without joining: it fetches the host's STUN and TURN
// servers, and opens a WebSocket. rtt is how long the host takes to answer.
func Try(ctx context.Context, addr string, opt Options) (t proto.Try, rtt time.Duration, err error) {
	opt.fill()
	u, err := ParseURL(addr)
	if err != nil {
		return t, 0, err
	}
	h := opt.host(u)
	for range 2 { // the first request opens the connection
		begin := time.Now()
		resp, err := h.do(ctx, "GET", proto.TryPath, "", nil, 0)
		if err != nil {
			return t, 0, err
		}
		err = json.NewDecoder(io.LimitReader(resp.body, proto.MaxMessage)).Decode(&t)
		_ = resp.body.Close()
		if err != nil {
			return t, 0, fmt.Errorf("what answers at %s is no ravnest host, or another release: %w", u, err)
		}
		if len(t.ICE) > proto.MaxICE {
			return t, 0, fmt.Errorf("the host at %s names %d relays, the limit is %d", u, len(t.ICE), proto.MaxICE)
		}
		rtt = time.Since(begin)
	}
	ws, err := dial(ctx, &h)
	if err != nil {
		return t, rtt, fmt.Errorf("%w: requests get through but WebSockets do not: the proxy in front of the host must pass the Upgrade header on", err)
	}
	ws.abort()
	return t, rtt, nil
}

// noise is the content of an upload probe: pseudo-random bytes, so that nothing on the way
// can compress them, repeated from a small block to save memory.
type noise struct {
	block []byte
	left  int
}

func noiseBlock() []byte {
	block := make([]byte, 0, firstProbe)
	for x := uint32(2463534242); len(block) < firstProbe; { // xorshift32
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		block = append(block, byte(x>>24))
	}
	return block
}

func (n *noise) Read(b []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	m := copy(b[:min(len(b), n.left)], n.block)
	n.left -= m
	return m, nil
}
