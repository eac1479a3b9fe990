package client

// Blobs from the host, and trained stages to it. Both go on where they broke off.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"

	"github.com/ravnest/ravnest/signaling/proto"
)

// Blob fetches a blob of the current run and verifies its size and SHA-256.
func (c *Conn) Blob(ctx context.Context, ref proto.Ref) ([]byte, error) {
	if err := c.Fits(ref); err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, ref.Size))
	if err := c.BlobTo(ctx, ref, b, nil); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Fits returns an error for a blob that is larger than what Blob takes into memory.
func (c *Conn) Fits(ref proto.Ref) error {
	if ref.Size < 0 || ref.Size > c.host.maxBlob {
		return fmt.Errorf("blob %.12s has %d bytes, but this provider takes up to %d", ref.SHA256, ref.Size, c.host.maxBlob)
	}
	return nil
}

// BlobTo fetches a blob of the current run into w, and never writes more than ref.Size bytes.
// They are verified only if the error is nil. A download that breaks off is continued. have,
// unless nil, is called from time to time with the number of bytes received so far.
func (c *Conn) BlobTo(ctx context.Context, ref proto.Ref, w io.Writer, have func(int64)) error {
	if err := proto.CheckSHA256(ref.SHA256); err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	if ref.Size < 0 {
		return fmt.Errorf("blob %.12s has %d bytes", ref.SHA256, ref.Size)
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
