package client

// HTTP requests to the host, and what it answers where it refuses.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
