package server

// What a host is given: its settings and limits, and where it keeps what is saved.

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/relay"
	"github.com/ravnest/ravnest/signaling/run"
	"github.com/ravnest/ravnest/signaling/store"
)

// Store keeps objects and logs. Objects are replaced as a whole or not at all; names are
// slash-separated paths. It must be safe for concurrent use. Package store has
// implementations.
type Store interface {
	// Put stores everything that r yields up to io.EOF. After an error, its own or r's, an
	// earlier object of that name is unchanged.
	Put(ctx context.Context, name string, r io.Reader) error
	// Commit puts a small object and calls done once it and all that was put before it are
	// safe, also for other hosts that share the store, or with the error that prevents it. done
	// may be called before Commit returns, or later from another goroutine. Commits are done in
	// the order of the calls.
	Commit(ctx context.Context, name string, data []byte, done func(error))
	// Get opens an object, or returns fs.ErrNotExist.
	Get(ctx context.Context, name string) (io.ReadCloser, error)
	// List returns the names that start with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes an object if it exists.
	Delete(ctx context.Context, name string) error
	// Append adds a line to a log.
	Append(ctx context.Context, log string, line []byte) error
}

// Config configures a host. Every field's comment gives its default or the meaning of its
// zero value.
type Config struct {
	Token string // join token; "": none, for loopback only
	Agent string // the program and its release, told to providers; "": not told
	// Members admits providers by their keys, beside the token; nil: only the token counts.
	Members Members
	Site    http.Handler // serves all paths but /v1/; nil: a line of text
	Store   Store        // nil: in memory
	Once    bool         // say bye to the providers when a run is over
	// Standby says why this host takes no providers now: another one leads the job. nil, or a
	// nil result: it takes them.
	Standby func() *proto.Error
	// Hosts returns the addresses of all hosts that serve the job; nil: this is the only one.
	Hosts func() []string
	ICE   []proto.ICEServer

	TLS      *tls.Config    // nil: plain http
	Public   *url.URL       // address by which the host is known outside; nil: any
	Proxy    bool           // trust Forwarded and X-Forwarded-*, as only a proxy reaches the host
	RelayUDP net.PacketConn // socket of the relay for providers without a direct path; nil: no relay
	Relay    relay.Config

	Heartbeat    time.Duration // 1.5 s
	Timeout      time.Duration // silence after which a provider is dead, 3 heartbeats
	HelloTimeout time.Duration // for a connection's first message, 5 s
	WriteTimeout time.Duration // for sending a message, 5 s
	IdleTimeout  time.Duration // for a transfer that makes no progress, 30 s
	ReadyTimeout time.Duration // from assigned to ready; restarted by every byte fetched; 60 s
	DrainTimeout time.Duration // from the first stage done to the last; restarted by progress; 60 s
	StopTimeout  time.Duration // the same after a graceful stop, 5 s
	Grace        time.Duration // how long to wait for a lost provider, 15 s
	Away         time.Duration // how long a session outlives its connection, Timeout; negative: not at all
	Checkpoint   time.Duration // minimum time between checkpoints that the host asks for, 10 s; negative: none
	Stall        time.Duration // minimum time without progress before a stage counts as stuck, 30 s
	AuditKeep    int64         // bytes of the audit log that are kept beside what audits may still need, 256 MiB

	MaxSessions int // providers, 8192
	// MaxStrangers bounds the connections that are not providers'. Beyond it, a new one
	// replaces an idle one. 512
	MaxStrangers int
	MaxUpload    int64   // bytes of a trained stage, 4 GiB
	Rate, Burst  float64 // messages per second and session, per 4 KiB each; 100 and 600

	Log   *slog.Logger // for details below the level of events; nil: none
	Trace io.Writer    // records the run machine's events, for run.Replay; nil: not recorded
}

func (c *Config) fill() error {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.Heartbeat, 1500*time.Millisecond)
	def(&c.Timeout, 3*c.Heartbeat)
	def(&c.Away, c.Timeout)
	def(&c.HelloTimeout, 5*time.Second)
	def(&c.WriteTimeout, 5*time.Second)
	def(&c.IdleTimeout, 30*time.Second)
	if c.Heartbeat < time.Millisecond || c.Timeout < c.Heartbeat {
		return fmt.Errorf("signaling: a heartbeat of %v with a timeout of %v: want at least 1ms, and the timeout not below the heartbeat", c.Heartbeat, c.Timeout)
	}
	if c.MaxSessions == 0 {
		c.MaxSessions = 8192
	}
	if c.MaxStrangers == 0 {
		c.MaxStrangers = 512
	}
	if c.MaxUpload == 0 {
		c.MaxUpload = 4 << 30
	}
	if c.Rate == 0 {
		c.Rate = proto.Rate
	}
	if c.Burst == 0 {
		c.Burst = proto.Burst / proto.Rate * c.Rate
	}
	if err := proto.CheckToken(c.Token); err != nil {
		return fmt.Errorf("signaling: %w", err)
	}
	if c.Store == nil {
		c.Store = &store.Mem{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

func (c *Config) settings() run.Settings {
	return run.Settings{
		Heartbeat: c.Heartbeat, Timeout: c.Timeout, ReadyTimeout: c.ReadyTimeout, DrainTimeout: c.DrainTimeout,
		StopTimeout: c.StopTimeout, Grace: c.Grace, Away: c.Away, Checkpoint: c.Checkpoint, Stall: c.Stall, AuditKeep: c.AuditKeep,
		MaxMembers: c.MaxSessions, Once: c.Once,
	}
}
