package jetstream

// Objects and logs.

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"
)

const (
	small    = 128 << 10 // bytes of an object that goes into one message
	chunk    = 256 << 10 // bytes of a large one's
	inFlight = 32        // chunks not yet acknowledged: a server drops what it cannot store in time
	maxLines = 256 << 10 // bytes of a log's message

	// While NATS is away lines wait: so many bytes of them in memory and more in the cache, in the
	// folder waiting. Where the disk does not take those either, no more than mostWaiting are taken.
	maxWaiting, mostWaiting = 8 << 20, 64 << 20
	waiting                 = "waiting/"
)

// entry is what an obj message says.
type entry struct {
	Name    string `json:"name"`
	Size    int64  `json:"size"`
	Data    []byte `json:"data,omitempty"`   // of a small object
	Part    string `json:"part,omitempty"`   // of a large one: the subject of its chunks
	SHA256  string `json:"sha256,omitempty"` // of a large one
	Deleted bool   `json:"deleted,omitempty"`
}

// op is a write that is on its way to NATS.
type op struct {
	id     string // of lines
	name   string // of an object or a log; "": nothing, only done
	data   []byte
	lines  bool // append data to the log
	stored bool // the data are in the cache
	inline bool // the object is data, not the file in the cache
	remove bool
	done   func(error) // nil: nobody waits
}

// push queues a write. After the term's end it fails.
func (s *Store) push(l *lead, o *op) {
	l.mu.Lock()
	gone := l.ctx.Err() != nil
	if !gone && (!o.lines || s.room(l, len(o.data))) {
		var last *op
		if n := len(l.queue); n > 1 { // the first of the queue may be under way
			last = l.queue[n-1]
		}
		if o.lines && last != nil && last.lines && last.name == o.name && !last.stored && len(last.data)+len(o.data) <= maxLines {
			last.data = append(last.data, o.data...)
		} else {
			l.queue = append(l.queue, o)
		}
	}
	l.mu.Unlock()
	if gone {
		if o.done != nil {
			o.done(ErrDeposed)
		}
		return
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// room makes room for n more bytes of lines: the newest of those that wait go into the cache. It
// returns false if there is no room for them; the other hosts then miss them.
func (s *Store) room(l *lead, n int) bool {
	most := maxWaiting
	if l.lines+n > most {
		most /= 2
	}
	for i := len(l.queue) - 2; i > 0 && l.lines+n > most; i-- { // the first may be under way, the last gets more
		o := l.queue[i]
		if !o.lines || o.stored {
			continue
		}
		if err := s.opt.Cache.Put(l.ctx, waiting+o.id, bytes.NewReader(o.data)); err != nil {
			break
		}
		l.lines -= len(o.data)
		o.data, o.stored = nil, true
	}
	if l.lines+n <= mostWaiting {
		l.lines, l.full = l.lines+n, false
		return true
	}
	if !l.full {
		l.full = true
		s.opt.Say("NATS has been away for so long that this host has no room for more of what the others should know: if another leads, it lacks the losses from here on")
	}
	return false
}

// work carries writes to NATS, one after the other, until the term ends. While NATS is away
// the first one is tried again and again.
func (s *Store) work(l *lead) {
	refused := false // told, since the last write that was taken
	for {
		l.mu.Lock()
		var o *op
		if len(l.queue) > 0 {
			o = l.queue[0]
		}
		l.mu.Unlock()
		if o == nil {
			select {
			case <-l.wake:
				continue
			case <-l.ctx.Done():
			}
		}
		if l.ctx.Err() != nil {
			break
		}
		err := s.do(l, o)
		if err != nil && !errors.Is(err, ErrDeposed) && l.ctx.Err() == nil {
			if !refused {
				refused = s.troubled(err)
			}
			select {
			case <-time.After(250 * time.Millisecond):
			case <-l.ctx.Done():
			}
			continue
		}
		l.mu.Lock()
		l.queue = l.queue[1:]
		if o.lines {
			l.lines -= len(o.data)
		}
		l.mu.Unlock()
		if refused && err == nil {
			refused = false
			s.opt.Say("NATS takes the job's state again")
		}
		if o.done != nil {
			o.done(err)
		}
	}
	l.mu.Lock()
	rest := l.queue
	l.queue = nil
	l.mu.Unlock()
	for _, o := range rest {
		if o.done != nil {
			o.done(ErrDeposed)
		}
	}
}

// troubled tells the user what keeps writes from NATS, such as a full disk there. It returns false
// if NATS does not answer, which reached tells.
func (s *Store) troubled(err error) bool {
	var e *js.APIError
	if !errors.As(err, &e) {
		return false
	}
	s.opt.Say("NATS does not take the job's state: %v: training goes on, checkpoints wait", err)
	return true
}

func (s *Store) do(l *lead, o *op) error {
	switch {
	case o.name == "":
		return nil
	case o.remove:
		return s.remove(l.ctx, l, o.name)
	case o.lines:
		return s.append(l, o)
	case o.inline:
		return s.upload(l, o.name, bytes.NewReader(o.data), int64(len(o.data)))
	}
	f, err := s.opt.Cache.Get(l.ctx, o.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was removed since
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.(fs.File).Stat()
	if err != nil {
		return err
	}
	return s.upload(l, o.name, f, info.Size())
}

// upload sends an object and then its entry.
func (s *Store) upload(l *lead, name string, r io.Reader, size int64) error {
	e := entry{Name: name, Size: size}
	l.mu.Lock()
	old := l.index[name]
	l.mu.Unlock()
	var err error
	if size <= small {
		e.Data, err = io.ReadAll(io.LimitReader(r, size))
	} else {
		e.Part = fmt.Sprintf("%d.%s", l.fence, random())
		if e.SHA256, err = s.send(l.ctx, e.Part, r, size); err != nil {
			_ = s.parts.Purge(l.ctx, js.WithPurgeSubject(s.base+".part."+e.Part)) // else sweep does
		}
	}
	if err == nil {
		_, err = s.fenced(l.ctx, l, "obj."+token(name), e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	l.mu.Lock()
	e.Data = nil // the cache has it
	l.index[name] = e
	l.mu.Unlock()
	return s.drop(l.ctx, old)
}

// drop removes the chunks of an entry that is no longer there.
func (s *Store) drop(ctx context.Context, e entry) error {
	if e.Part == "" {
		return nil
	}
	return s.parts.Purge(ctx, js.WithPurgeSubject(s.base+".part."+e.Part))
}

// send publishes the chunks of a large object and returns its digest.
func (s *Store) send(ctx context.Context, part string, r io.Reader, size int64) (string, error) {
	h := sha256.New()
	var acks []js.PubAckFuture
	wait := func(n int) error {
		for len(acks) > n {
			select {
			case <-acks[0].Ok():
			case err := <-acks[0].Err():
				return err
			case <-time.After(10 * time.Second):
				return nats.ErrTimeout
			case <-ctx.Done():
				return ctx.Err()
			}
			acks = acks[1:]
		}
		return nil
	}
	for size > 0 {
		b := make([]byte, min(chunk, size)) // kept until it is acknowledged
		if _, err := io.ReadFull(r, b); err != nil {
			return "", err
		}
		size -= int64(len(b))
		h.Write(b)
		if err := wait(inFlight - 1); err != nil {
			return "", err
		}
		a, err := s.js.PublishAsync(s.base+".part."+part, b)
		if err != nil {
			return "", err
		}
		acks = append(acks, a)
	}
	return hex.EncodeToString(h.Sum(nil)), wait(0)
}

// remove deletes an object. Its entry goes first, on the condition that this host leads; what
// follows touches nothing that another host may have written since.
func (s *Store) remove(ctx context.Context, l *lead, name string) error {
	l.mu.Lock()
	e, ok := l.index[name]
	l.mu.Unlock()
	if !ok {
		return nil
	}
	seq, err := s.fenced(ctx, l, "obj."+token(name), entry{Name: name, Deleted: true})
	if err != nil {
		return err
	}
	l.mu.Lock()
	delete(l.index, name)
	l.mu.Unlock()
	if err := s.stream.Purge(ctx, js.WithPurgeSubject(s.base+".obj."+token(name)), js.WithPurgeSequence(seq+1)); err != nil {
		return err
	}
	return s.drop(ctx, e)
}

// append adds lines to a log. A message that is sent twice, since its acknowledgement was
// lost, is known by its number.
func (s *Store) append(l *lead, o *op) error {
	m := nats.NewMsg(s.base + ".log." + token(o.name))
	l.mu.Lock()
	stored := o.stored // neither it nor the data of the first of the queue change any more
	m.Data = o.data
	l.mu.Unlock()
	if stored {
		f, err := s.opt.Cache.Get(l.ctx, waiting+o.id)
		if err != nil {
			return err
		}
		m.Data, err = io.ReadAll(io.LimitReader(f, maxLines))
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	m.Header.Set(js.MsgIDHeader, o.id)
	_, err := s.fencedMsg(l.ctx, l, m)
	if err == nil && stored {
		_ = s.opt.Cache.Delete(l.ctx, waiting+o.id) // what is left the next term removes
	}
	return err
}

// term returns the present term, or ErrDeposed.
func (s *Store) term() (*lead, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lead == nil {
		return nil, ErrDeposed
	}
	return s.lead, nil
}

// Put keeps an object in the cache, and has it brought to NATS.
func (s *Store) Put(ctx context.Context, name string, r io.Reader) error {
	l, err := s.term()
	if err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if err := s.opt.Cache.Put(ctx, name, r); err != nil {
		return err
	}
	s.push(l, &op{name: name})
	return nil
}

// Commit implements server.Store: done is called when NATS has the object and all before it.
func (s *Store) Commit(ctx context.Context, name string, data []byte, done func(error)) {
	l, err := s.term()
	if err == nil {
		err = s.opt.Cache.Put(ctx, name, bytes.NewReader(data))
	}
	if err != nil {
		done(fmt.Errorf("commit %s: %w", name, err))
		return
	}
	s.push(l, &op{name: name, data: bytes.Clone(data), inline: true, done: done})
}

// Get opens an object, which is fetched from NATS if it is not here.
func (s *Store) Get(ctx context.Context, name string) (io.ReadCloser, error) {
	r, err := s.opt.Cache.Get(ctx, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	e, ok := entry{}, false
	if l, lerr := s.term(); lerr == nil {
		l.mu.Lock()
		e, ok = l.index[name]
		l.mu.Unlock()
	}
	if !ok || e.Part == "" {
		return nil, err
	}
	if err := s.fetch(ctx, e); err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return s.opt.Cache.Get(ctx, name)
}

// List implements server.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]string, error) {
	names, err := s.opt.Cache.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	if l, err := s.term(); err == nil {
		l.mu.Lock()
		for name := range l.index {
			if strings.HasPrefix(name, prefix) {
				names = append(names, name)
			}
		}
		l.mu.Unlock()
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Delete implements server.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	l, err := s.term()
	if err != nil {
		return fmt.Errorf("delete %s: %w", name, err)
	}
	if err := s.opt.Cache.Delete(ctx, name); err != nil {
		return err
	}
	s.push(l, &op{name: name, remove: true})
	return nil
}

// Append adds a line to a log of this host alone.
func (s *Store) Append(ctx context.Context, log string, line []byte) error {
	return s.opt.Cache.Append(ctx, log, line)
}

// Share adds lines, each of which ends with a newline, to a log that all hosts read.
func (s *Store) Share(log string, lines []byte) error {
	l, err := s.term()
	if err != nil {
		return fmt.Errorf("append to %s: %w", log, err)
	}
	for len(lines) > 0 {
		n := len(lines)
		if n > maxLines {
			n = bytes.LastIndexByte(lines[:maxLines], '\n') + 1
			if n == 0 {
				return fmt.Errorf("append to %s: a line has more than %d bytes", log, maxLines)
			}
		}
		s.push(l, &op{name: log, data: bytes.Clone(lines[:n]), lines: true, id: random()})
		lines = lines[n:]
	}
	return nil
}

// Lines calls f for each line of a shared log, in order, without its newline.
func (s *Store) Lines(ctx context.Context, log string, f func(line []byte) error) error {
	id := ""
	return s.read(ctx, s.stream, s.base+".log."+token(log), false, func(m js.Msg) error {
		if k := m.Headers().Get(js.MsgIDHeader); k != "" {
			if k == id {
				return nil // sent twice
			}
			id = k
		}
		for line := range bytes.SplitSeq(bytes.TrimSuffix(m.Data(), []byte("\n")), []byte("\n")) {
			if err := f(line); err != nil {
				return err
			}
		}
		return nil
	})
}

// read calls f for every message that is there, or only for the last of each subject.
func (s *Store) read(ctx context.Context, st js.Stream, subject string, last bool, f func(js.Msg) error) error {
	info, err := st.Info(ctx, js.WithSubjectFilter(subject))
	if err != nil {
		return err
	}
	if len(info.State.Subjects) == 0 {
		return nil
	}
	cfg := js.OrderedConsumerConfig{FilterSubjects: []string{subject}, DeliverPolicy: js.DeliverAllPolicy}
	if last {
		cfg.DeliverPolicy = js.DeliverLastPerSubjectPolicy
	}
	c, err := st.OrderedConsumer(ctx, cfg)
	if err != nil {
		return err
	}
	it, err := c.Messages(js.PullMaxMessages(inFlight))
	if err != nil {
		return err
	}
	defer it.Stop()
	defer context.AfterFunc(ctx, it.Stop)()
	for {
		m, err := it.Next()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := f(m); err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// entries reads what objects there are.
func (s *Store) entries(ctx context.Context) (map[string]entry, error) {
	all := map[string]entry{}
	err := s.read(ctx, s.stream, s.base+".obj.*", true, func(m js.Msg) error {
		var e entry
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			return fmt.Errorf("%s: %w", m.Subject(), err)
		}
		if !e.Deleted {
			all[e.Name] = e
		}
		return nil
	})
	return all, err
}

// sweep removes the chunks of objects that no entry names: those of a host that ended in the
// middle of an upload.
func (s *Store) sweep(ctx context.Context, l *lead) error {
	info, err := s.parts.Info(ctx, js.WithSubjectFilter(s.base+".part.*.*"))
	if err != nil {
		return err
	}
	named := map[string]bool{}
	l.mu.Lock()
	for _, e := range l.index {
		named[e.Part] = true
	}
	l.mu.Unlock()
	for subject := range info.State.Subjects {
		part := strings.TrimPrefix(subject, s.base+".part.")
		of, _, _ := strings.Cut(part, ".")
		if n, err := strconv.ParseUint(of, 10, 64); err == nil && n < l.fence && !named[part] {
			if err := s.drop(ctx, entry{Part: part}); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch brings a large object into the cache.
func (s *Store) fetch(ctx context.Context, e entry) error {
	r, w := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		h, n := sha256.New(), int64(0)
		err := s.read(ctx, s.parts, s.base+".part."+e.Part, false, func(m js.Msg) error {
			h.Write(m.Data())
			n += int64(len(m.Data()))
			_, err := w.Write(m.Data())
			return err
		})
		if err == nil && (n != e.Size || hex.EncodeToString(h.Sum(nil)) != e.SHA256) {
			err = fmt.Errorf("NATS has %d bytes that are not the %d that were put there", n, e.Size)
		}
		_ = w.CloseWithError(err)
	})
	err := s.opt.Cache.Put(ctx, e.Name, r)
	_ = r.CloseWithError(errors.New("the cache does not take it"))
	wg.Wait()
	return err
}
