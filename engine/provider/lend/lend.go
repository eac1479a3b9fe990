// Package lend is what native providers and browser tabs have in common before training:
// they measure the machine, join the host, connect to peers as the host configures it, and
// join again when the host comes back.
package lend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ravnest/ravnest/engine/kernel"
	"github.com/ravnest/ravnest/engine/pipeline/stage"
	"github.com/ravnest/ravnest/engine/provider"
	"github.com/ravnest/ravnest/engine/provider/machine"
	"github.com/ravnest/ravnest/engine/transport"
	"github.com/ravnest/ravnest/engine/transport/rtc"
	"github.com/ravnest/ravnest/engine/transport/throttle"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Config is what differs between providers.
type Config struct {
	Host     string   // its URL
	Hosts    []string // those of further hosts of the same job
	Token    string
	Name     string // in the plan; "": the host chooses one
	Agent    string // the program and its version
	Platform string
	Team     *kernel.Team
	RAM      int64 // bytes to lend
	Rules    machine.Rules
	Now      func() time.Duration
	RSS      func() int64
	Between  func()
	AtOnce   <-chan struct{}
	Hooks    stage.Hooks // see provider.Config
	// Check, unless nil, is called before joining a host again. An error ends the provider.
	Check func(ctx context.Context) error
	// Event receives one line of text for each thing that happens, Watch the provider's
	// status, Joined its name at the host and its speed. Each may be nil.
	Event  func(format string, a ...any)
	Watch  func(provider.Update)
	Joined func(name string, b provider.Bench)
	// Identity proves who this provider is; nil: it has none. Pass is told of a token of its
	// own that the host has given it, in place of Token; nil: nobody keeps it.
	Identity client.Identity
	Pass     func(token string)
	// Limit bounds what is sent and received; nil: nothing does.
	Limit *throttle.Limit
	// May, unless nil, tells whether this machine may be lent now; if not, why. It is asked
	// every second. A provider that may not leaves as
	// politely as one that is asked to, and comes back by itself.
	May func() (why string, ok bool)
	// Loopback says that the host is reached over the loopback interface. Machine identifies
	// this machine's network, if known. See rtc.Config.
	Loopback bool
	Machine  string
	// Processor identifies the processors that this machine has, Cores is how many there are, and Physical
	// how many of those are not further threads of one core, if known: providers on one machine share them.
	Processor       string
	Cores, Physical int
}

// States beside those of a run.
const (
	Benchmarking machine.State = "benchmarking" // the machine is being measured
	Resting      machine.State = "resting"      // it may not be lent now
)

// Lend lends this machine until its rules or the end of ctx make it leave: see
// provider.Serve. Errors sent by the host wrap *proto.Error.
func Lend(ctx context.Context, cfg Config) error {
	if cfg.Event == nil {
		cfg.Event = func(string, ...any) {}
	}
	if cfg.Watch == nil {
		cfg.Watch = func(provider.Update) {}
	}
	for _, at := range append([]string{cfg.Host}, cfg.Hosts...) {
		if _, err := client.ParseURL(at); err != nil {
			return err
		}
	}
	if cfg.Rules.Seed == 0 {
		cfg.Rules.Seed = rand.Uint64()
	}
	if cfg.May == nil {
		cfg.May = func() (string, bool) { return "", true }
	}
	l := &lender{cfg: cfg}
	l.hosts.front(cfg.Host)
	l.hosts.learn("", cfg.Hosts...)
	for {
		if err := l.rest(ctx); err != nil {
			return err
		}
		err := l.serve(ctx)
		var r *resting
		if !errors.As(err, &r) {
			return err
		}
	}
}

// resting is why a provider leaves for a while.
type resting struct{ why string }

func (r *resting) Error() string { return r.why }

// often is how often it is asked whether the machine may be lent.
const often = time.Second

// rest waits until this machine may be lent.
func (l *lender) rest(ctx context.Context) error {
	said := ""
	for {
		why, ok := l.cfg.May()
		if ok {
			return nil
		}
		if why != said {
			said = why
			l.cfg.Watch(provider.Update{State: Resting, Text: why})
			l.cfg.Event("resting: %s", why)
		}
		select {
		case <-time.After(often):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.cfg.AtOnce:
			return nil // Serve will see it, too
		}
	}
}

// serve lends this machine for as long as it may be. A *resting is its end by that.
func (l *lender) serve(ctx context.Context) error {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	over := make(chan struct{})
	defer close(over)
	wg.Go(func() {
		t := time.NewTicker(often)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				if why, ok := l.cfg.May(); !ok {
					leave(&resting{why})
					return
				}
			case <-over:
				return
			}
		}
	})
	cfg := &l.cfg
	return provider.Serve(ctx, provider.Config{
		Join: l.join, Judge: l.judge, Team: cfg.Team, RAM: cfg.RAM, Now: cfg.Now, RSS: cfg.RSS,
		Event: cfg.Event, Watch: cfg.Watch, Between: cfg.Between, Hooks: cfg.Hooks, AtOnce: cfg.AtOnce, Rules: cfg.Rules,
	})
}

type lender struct {
	cfg   Config
	bench *proto.Bench // measured once
	asked bool         // for a pass
	was   bool         // it has been a member before
	hosts hosts
}

// errCheck is wrapped by errors of Config.Check.
var errCheck = errors.New("not joining")

// join opens a session. It is called by one goroutine at a time. If the host asks for
// patience, it returns after that long.
func (l *lender) join(ctx context.Context) (provider.Host, provider.Dialer, error) {
	h, d, err := l.open(ctx)
	var often *client.OftenError
	if errors.As(err, &often) {
		l.cfg.Event("%v", err)
		often.Sleep(ctx)
	}
	return h, d, err
}

func (l *lender) open(ctx context.Context) (provider.Host, provider.Dialer, error) {
	if l.cfg.Check != nil && l.was {
		if err := l.cfg.Check(ctx); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errCheck, err)
		}
	}
	var h provider.Host
	var d provider.Dialer
	err := l.hosts.first(func(at string) (err error) {
		h, d, err = l.joinAt(ctx, at)
		return err
	})
	return h, d, err
}

// joinAt opens a session with the host at an address.
func (l *lender) joinAt(ctx context.Context, at string) (provider.Host, provider.Dialer, error) {
	opt := client.Options{Token: l.cfg.Token, Identity: l.cfg.Identity, MaxBlob: l.cfg.RAM, Limit: l.cfg.Limit, Between: l.cfg.Between, Hello: proto.Hello{
		Name: l.cfg.Name, Agent: l.cfg.Agent, Platform: l.cfg.Platform,
		Class: kernel.Class(), RAM: l.cfg.RAM, Threads: l.cfg.Team.Threads(),
		Machine: l.cfg.Processor, Cores: l.cfg.Cores, Physical: l.cfg.Physical,
	}}
	opt.Away = func(error) { l.cfg.Event("lost the connection to the host: making another one, the work goes on") }
	var moving atomic.Pointer[rtc.Endpoint]
	opt.Back = func(after time.Duration) {
		if ep := moving.Load(); ep != nil {
			ep.Moved() // what broke the connection may be another network
		}
		l.cfg.Event("connected to the host again after %.1f s, nothing is lost", after.Seconds())
	}
	opt.Others = func() []string {
		return slices.DeleteFunc(l.hosts.list(), func(s string) bool { return same(s, at) })
	}
	if err := l.admitted(ctx, at, &opt); err != nil {
		return nil, nil, err
	}
	opt.Hello.Bench = *l.bench
	conn, err := client.Dial(ctx, at, opt)
	if err != nil {
		return nil, nil, err
	}
	l.hosts.learn(at, conn.Welcome().Hosts...)
	var ice []rtc.ICEServer
	for _, s := range conn.Welcome().ICE {
		ice = append(ice, rtc.ICEServer{URLs: s.URLs, Username: s.Username, Credential: s.Credential})
	}
	// Of a limit, a quarter of a second may be under way.
	window := int(l.cfg.Limit.Down() / 8 / 4)
	ep, err := rtc.NewEndpoint(rtc.Config{ICE: ice, Loopback: l.cfg.Loopback, Machine: l.cfg.Machine, Window: window})
	if err != nil {
		conn.Close("cannot connect to peers")
		return nil, nil, err
	}
	moving.Store(ep)
	again := "joined"
	if l.was {
		again = "joined again:"
	}
	l.was = true
	l.cfg.Event("%s %s as %s: %.1f GFLOP/s, %d MB RAM, %d thread(s)", again, at, conn.Name(), l.bench.GEMM, l.cfg.RAM/1e6, l.cfg.Team.Threads())
	if s := older(l.cfg.Agent, conn.Welcome().Agent); s != "" {
		l.cfg.Event("%s", s)
	}
	if l.cfg.Joined != nil {
		l.cfg.Joined(conn.Name(), provider.Bench{GEMM: l.bench.GEMM, Conv: l.bench.Conv, Vector: l.bench.Vector})
	}
	h := &host{Conn: conn, ep: ep, name: conn.Name()}
	h.renamed = func() {
		l.cfg.Event("the host now calls this provider %s", h.name)
		if l.cfg.Joined != nil {
			l.cfg.Joined(h.name, provider.Bench{GEMM: l.bench.GEMM, Conv: l.bench.Conv, Vector: l.bench.Vector})
		}
	}
	return h, dialer{ep, l.cfg.Limit}, nil
}

// admitted sees that opt has a token that the host takes, and that this machine is measured.
func (l *lender) admitted(ctx context.Context, at string, opt *client.Options) error {
	if proto.IsInvite(opt.Token) {
		if err := l.askPass(ctx, at, opt); err != nil {
			return err
		}
	}
	if l.bench != nil {
		return nil
	}
	up, down, err := client.MeasureBandwidth(ctx, at, *opt)
	if errors.Is(err, proto.ErrBadToken) && l.cfg.Identity != nil && !l.asked {
		// The host may know this key all the same.
		if l.askPass(ctx, at, opt) == nil {
			up, down, err = client.MeasureBandwidth(ctx, at, *opt)
		}
	}
	if err != nil {
		return err
	}
	l.cfg.Watch(provider.Update{State: Benchmarking})
	b := provider.Benchmark(l.cfg.Team, l.cfg.Now)
	l.bench = &proto.Bench{GEMM: b.GEMM, Conv: b.Conv, Vector: b.Vector, Alone: b.Alone, Up: up, Down: down}
	return nil
}

// askPass asks the host for a token of this provider's own, to be used from now on.
func (l *lender) askPass(ctx context.Context, at string, opt *client.Options) error {
	l.asked = true
	pass, err := client.AskPass(ctx, at, *opt)
	if err != nil {
		return err
	}
	l.cfg.Token, opt.Token = pass, pass
	if l.cfg.Pass != nil {
		l.cfg.Pass(pass)
	}
	return nil
}

// dialer connects to peers within the limit.
type dialer struct {
	*rtc.Endpoint
	limit *throttle.Limit
}

// Connect implements provider.Dialer.
func (d dialer) Connect(ctx context.Context, offer bool, here json.RawMessage, send func(json.RawMessage) error, recv <-chan json.RawMessage) (transport.Pipe, error) {
	p, err := d.Endpoint.Connect(ctx, offer, here, send, recv)
	if err != nil {
		return nil, err
	}
	return d.limit.Pipe(p), nil
}

// judge interprets the error that ended a session or an attempt to join: see
// provider.Config.
func (l *lender) judge(err error) (goodbye, again bool) {
	var pe *proto.Error
	switch {
	case errors.Is(err, errCheck):
		return false, false
	case errors.As(err, &pe):
		switch pe.Code {
		case proto.Elsewhere:
			return false, true
		case proto.Stopped, proto.Full, proto.Storage:
			return pe.Code == proto.Stopped, true
		case proto.NameTaken:
			// Our own lost session holds the name until the host times it out.
			return false, l.was
		}
		return false, false
	}
	return errors.Is(err, client.ErrGoodbye), errors.Is(err, client.ErrUnreachable) || errors.Is(err, client.ErrLost)
}

// host is a session together with its endpoint for peer connections.
type host struct {
	*client.Conn
	ep      *rtc.Endpoint
	once    sync.Once
	name    string // from the last assignment; before the first, from the welcome
	renamed func()
}

// Recv implements provider.Host. A provider that asked for no name may get a new one with an
// assignment, if another provider has asked for the one it was given first.
func (h *host) Recv(ctx context.Context) (proto.Message, error) {
	m, err := h.Conn.Recv(ctx)
	if a, ok := m.(*proto.Assign); ok && a.Name != h.name && a.Name != "" {
		h.name = a.Name
		h.renamed()
	}
	return m, err
}

// ahead is the most memory allocated for a blob before any of it has arrived.
const ahead = 64 << 20

// Blob implements provider.Host.
func (h *host) Blob(ctx context.Context, r proto.Ref, have func(int64)) ([]byte, error) {
	if err := h.Fits(r); err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, min(r.Size, ahead)))
	if err := h.BlobTo(ctx, r, b, have); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Close implements provider.Host.
func (h *host) Close(reason string) {
	h.once.Do(func() {
		h.Conn.Close(reason)
		_ = h.ep.Close()
	})
}
