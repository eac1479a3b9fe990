package client

// A session outlives its connections: what was not acknowledged is sent again over the next
// one, and nothing else of the program notices. Package window counts.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
)

// serve lives the session's life, which begins with a connection.
func (c *Conn) serve(life context.Context, ws *socket) {
	var err error
	for {
		err = c.carry(life, ws)
		c.mu.Lock()
		over := c.closing || c.last != nil || c.bye != ""
		c.mu.Unlock()
		if over || c.keep == 0 || life.Err() != nil || errors.Is(err, errHost) {
			break
		}
		began := time.Now()
		if c.opt.Away != nil {
			c.opt.Away(err)
		}
		next, fatal := c.again(life, began)
		if fatal != nil {
			switch {
			case life.Err() != nil:
			case errors.Is(fatal, errElsewhere):
				err = fmt.Errorf("%w; %w", err, fatal)
			default:
				// Not the host's refusal itself: a new session may well be welcome.
				err = fmt.Errorf("%w; %v", err, fatal)
			}
			break
		}
		ws = next
		c.host.cut()
		if c.opt.Back != nil {
			c.opt.Back(time.Since(began))
		}
	}
	c.cancel()
	c.mu.Lock()
	switch {
	case c.closing:
		c.err = ErrClosed
	case c.last != nil:
		c.err = c.last
	case c.bye != "":
		c.err = fmt.Errorf("%w: %s", ErrGoodbye, c.bye)
	case errors.Is(err, errSilent):
		c.err = fmt.Errorf("%w: %w: check the network and that the host still runs, then join again", ErrLost, err)
	case errors.Is(err, errElsewhere):
		c.err = fmt.Errorf("%w: %w", ErrLost, err)
	default:
		c.err = fmt.Errorf("%w: %w: check that the host still runs, then join again", ErrLost, err)
	}
	c.mu.Unlock()
	close(c.gone)
}

var (
	// errSilent is wrapped where a connection ended because nothing came.
	errSilent = errors.New("nothing heard")
	// errElsewhere is wrapped where another host of the job answered.
	errElsewhere = errors.New("leads the job now")
	// errHost is wrapped where the host does what no host should: another connection
	// would not help.
	errHost = errors.New("the host breaks the protocol")
)

// carry serves one connection until it ends, and says why.
func (c *Conn) carry(life context.Context, ws *socket) error {
	ctx, cancel := context.WithCancel(life)
	defer cancel()
	// The host pings every heartbeat; a silence of its timeout is its death. A session that
	// can return looks for another way while the host still waits for it.
	patience := c.patience()
	var silent atomic.Bool
	watchdog := time.AfterFunc(patience, func() {
		silent.Store(true)
		cancel()
	})
	defer watchdog.Stop()
	written := make(chan error, 1)
	go func() { written <- c.write(ctx, ws, cancel) }()
	err := c.read(ctx, ws, func() { watchdog.Reset(c.patience()) })
	cancel()
	ws.abort()
	if broken := <-written; broken != nil {
		err = broken
	}
	if silent.Load() {
		return fmt.Errorf("%w for %v", errSilent, c.patience())
	}
	return err
}

// hears sets the silence that counts as the host's death.
func (c *Conn) hears(ms int) { c.silence.Store(int64(time.Duration(ms) * time.Millisecond)) }

// patience is the silence after which another connection is sought.
func (c *Conn) patience() time.Duration {
	d := time.Duration(c.silence.Load())
	if c.keep > 0 {
		d = d * 2 / 3
	}
	return d
}

// lastWords is how long the reader goes on where the writer can not.
const lastWords = time.Second

// write brings messages to the connection until it ends. A context that ends during a write
// would take the connection with it, so writes are bound to its life alone.
func (c *Conn) write(ctx context.Context, ws *socket, cancel func()) error {
	for {
		c.mu.Lock()
		it, b := c.out.Next()
		c.mu.Unlock()
		if it == nil {
			select {
			case <-c.kick:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		// A host that takes nothing for as long as it may be silent counts as lost.
		wctx, stop := context.WithTimeout(ctx, max(time.Duration(c.silence.Load()), time.Second))
		c.host.limit.Note(true, len(b))
		err := ws.write(wctx, b)
		stop()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			// The host's last words, if there are any, have a moment to be read.
			t := time.AfterFunc(lastWords, cancel)
			<-ctx.Done()
			t.Stop()
			return err
		}
		c.mu.Lock()
		c.out.Written(it)
		c.stir()
		c.mu.Unlock()
	}
}

// stir wakes those who wait for something to be written or acknowledged. c.mu is held.
func (c *Conn) stir() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// put sends a message of the session, and waits until it is written.
func (c *Conn) put(ctx context.Context, b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, size := c.out.Held(); n > 0 && (n >= maxKept || size+len(b) > maxKeptBytes); n, size = c.out.Held() {
		if err := c.await(ctx); err != nil {
			return err
		}
	}
	it := c.out.Add(b, c.keep == 0)
	c.nudge()
	for !it.Sent {
		if err := c.await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// nudge tells the writer that there is something.
func (c *Conn) nudge() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// await waits for something to be written or acknowledged. c.mu is held, but not meanwhile.
func (c *Conn) await(ctx context.Context) error {
	moved := c.moved
	c.mu.Unlock()
	defer c.mu.Lock()
	select {
	case <-moved:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.gone:
		return c.err
	}
}

// say sends what is of this connection only, without waiting.
func (c *Conn) say(m proto.Message) error {
	b, err := proto.Encode(m)
	if err != nil {
		return err
	}
	if n, _ := c.out.Held(); n >= 2*maxKept {
		return errors.New("it asks for more answers than it reads")
	}
	c.out.Add(b, true)
	c.nudge()
	return nil
}

// read takes messages in until the connection ends.
func (c *Conn) read(ctx context.Context, ws *socket, heard func()) error {
	for {
		b, err := ws.read(ctx)
		if err != nil {
			return err
		}
		heard()
		c.host.limit.Note(false, len(b))
		m, err := proto.Decode(b)
		if err != nil {
			return fmt.Errorf("%w: %w", errHost, err)
		}
		c.mu.Lock()
		err = c.accept(m, len(b))
		c.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%w: %w", errHost, err)
		}
		c.poke()
	}
}

// accept takes one message in. c.mu is held.
func (c *Conn) accept(m proto.Message, size int) error {
	switch m := m.(type) {
	case *proto.Ping:
		c.rtt.Store(m.RTT)
		if err := c.acked(m.Got); err != nil {
			return err
		}
		return c.say(&proto.Pong{Seq: m.Seq, Got: c.in.Ack()})
	case *proto.Ack:
		return c.acked(m.Got)
	case *proto.Error:
		c.last = m
	case *proto.Assign:
		if m.Timeout > 0 {
			c.hears(m.Timeout)
		}
	case *proto.Bye:
		c.bye = m.Reason
		if c.bye == "" {
			c.bye = "without a reason"
		}
	}
	if proto.Counted(m) && c.in.Take(size) && c.keep > 0 {
		if err := c.say(&proto.Ack{Got: c.in.Ack()}); err != nil {
			return err
		}
	}
	if len(c.queue) >= maxReceived || c.bytes+size > maxReceivedBytes {
		return errors.New("it sends messages faster than this provider handles them")
	}
	c.queue, c.sizes = append(c.queue, m), append(c.sizes, size)
	c.bytes += size
	return nil
}

// acked lets go of what the host has. c.mu is held.
func (c *Conn) acked(n uint64) error {
	if c.keep == 0 {
		return nil // nothing is kept
	}
	defer c.stir()
	return c.out.Ack(n)
}

// Times between two tries to return: the first is at once, then twice the one before, with
// half of it jitter, and the most; a try itself takes no longer than oneTry.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
	oneTry     = 2 * time.Second
)

// again finds the session another connection, within the time that the host keeps it.
func (c *Conn) again(life context.Context, began time.Time) (*socket, error) {
	end := began.Add(c.keep)
	var failed error
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		ctx, stop := context.WithDeadline(life, end)
		ws, err := c.comeBack(ctx)
		stop()
		if err == nil {
			return ws, nil
		}
		var refused *proto.Error
		if errors.As(err, &refused) || errors.Is(err, errHost) {
			return nil, err
		}
		if err := c.replaced(life, end); err != nil {
			return nil, err
		}
		if failed == nil || life.Err() == nil && time.Now().Before(end) {
			failed = err
		}
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-t.C:
		case <-life.Done():
			t.Stop()
			return nil, life.Err()
		}
		if !time.Now().Before(end) {
			return nil, fmt.Errorf("it could not be reached again for %v: %w", c.keep, failed)
		}
	}
}

// replaced asks the job's other hosts for the session, which the host that leads now does
// not know. nil: none of them leads.
func (c *Conn) replaced(life context.Context, end time.Time) error {
	if c.opt.Others == nil {
		return nil
	}
	for _, at := range c.opt.Others() {
		u, err := ParseURL(at)
		if err != nil {
			continue
		}
		hello := c.opt.Hello
		hello.Return = &proto.Return{Session: c.welcome.Session}
		b, err := proto.Encode(&hello)
		if err != nil {
			return fmt.Errorf("%w: %w", errHost, err)
		}
		ctx, stop := context.WithDeadline(life, end)
		ctx, stop2 := context.WithTimeout(ctx, oneTry)
		h := c.opt.host(u)
		ws, _, err := enter(ctx, &h, b)
		stop2()
		stop()
		if err == nil {
			ws.abort() // a session of that secret is another one
		}
		if errors.Is(err, proto.ErrForgotten) {
			return fmt.Errorf("%s %w", at, errElsewhere)
		}
	}
	return nil
}

// comeBack tries once.
func (c *Conn) comeBack(ctx context.Context) (*socket, error) {
	ctx, stop := context.WithTimeout(ctx, oneTry)
	defer stop()
	c.mu.Lock()
	hello := c.opt.Hello
	hello.Return = &proto.Return{Session: c.welcome.Session, Got: c.in.Ack()}
	c.mu.Unlock()
	b, err := proto.Encode(&hello)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errHost, err)
	}
	ws, welcome, err := enter(ctx, &c.host, b)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err = c.out.Resume(welcome.Got); err == nil && welcome.ID != c.welcome.ID {
		err = errors.New("it takes this provider for another one")
	}
	if err != nil {
		ws.abort()
		return nil, fmt.Errorf("%w: %w", errHost, err)
	}
	c.stir()
	return ws, nil
}
