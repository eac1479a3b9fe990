// Package jetstream keeps a job's state in NATS JetStream, so that several hosts can serve one
// job: one leads, the others stand by, and whoever leads next finds everything.
//
// A job has two streams. One holds small things, each under a subject of its own:
//
//	job      what all hosts must agree on
//	term     who leads; the sequence number of its last message is the fence
//	alive    a sign of life of the host that leads, several times a lease
//	obj.*    objects: small ones themselves, of large ones where their chunks are
//	log.*    logs, in messages of many lines
//
// The other holds the chunks of large objects. Every message of the first, but for job and
// term, is published on the condition that the last message of term is still the one by which
// the host became the leader: the server checks that with the write. So a host that was
// deposed, or that slept through its lease, can commit nothing, whatever its clock says.
// Chunks are named by fence, so that no host removes another's.
//
// Every host keeps a copy of all objects in a directory: reads are local, and writes reach
// NATS in order, in the background. While NATS is away they wait.
package jetstream

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	js "github.com/nats-io/nats.go/jetstream"

	"github.com/ravnest/ravnest/signaling/store"
)

var (
	// ErrUnreachable is wrapped where no NATS server answers.
	ErrUnreachable = errors.New("cannot reach NATS")
	// ErrOtherJob is wrapped where NATS has another job of that name.
	ErrOtherJob = errors.New("NATS has another job of this name")
	// ErrDeposed is returned for writes of a host that does not lead.
	ErrDeposed = errors.New("another host leads")
	// ErrOver is returned by Lead if the run has ended.
	ErrOver = errors.New("the run is over")
)

// Options of Open. All but Creds, Replicas, Lease, Patience, Ask and Say are needed.
type Options struct {
	Job string // a name that proto.CheckName accepts
	// Identity is what all hosts must have the same, by what people call it: digests.
	Identity map[string]string
	// URL is where providers reach this host.
	URL string
	// Cache keeps this host's copy of the objects. No other process uses it.
	Cache *store.Dir
	// Manifest is the object whose change tells that there is a checkpoint to copy.
	Manifest string

	Creds    string        // file with credentials; "": those of the address, if it has any
	Replicas int           // copies that a cluster of NATS servers keeps; 0: 1
	Lease    time.Duration // silence after which another host leads; 0: 4 s
	Patience time.Duration // how long to wait for NATS in Open; 0: 10 s
	// Fresh forgets an earlier run of the job once this host leads.
	Fresh bool
	// Ask asks the host at an address whether it leads, while NATS cannot be asked; nil: none.
	Ask func(ctx context.Context, url string) bool
	// Say tells the user what happens.
	Say func(format string, a ...any)
}

func (o *Options) fill() {
	if o.Replicas == 0 {
		o.Replicas = 1
	}
	if o.Lease == 0 {
		o.Lease = 4 * time.Second
	}
	if o.Patience == 0 {
		o.Patience = 10 * time.Second
	}
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
}

// Store is a job's state as this host sees it. It implements server.Store while the host
// leads. Its methods are safe for concurrent use, but for Lead, Resign and End.
type Store struct {
	opt    Options
	id     string // of this process
	at     string // NATS' address without credentials
	base   string // of all subjects
	nc     *nats.Conn
	js     js.JetStream
	stream js.Stream
	parts  js.Stream
	run    string // of the job message: begins anew with Fresh
	wg     sync.WaitGroup
	life   context.Context
	end    context.CancelFunc

	pub sync.Mutex // one fenced message at a time: a cluster refuses two under way

	mu     sync.Mutex
	leader string // address of the host that leads; "": not known
	lead   *lead  // nil: this host does not
	others map[string]other
	away   bool // NATS did not answer the last time
}

// other is another host of the job.
type other struct {
	url  string
	seen time.Time
}

// jobMessage is what the hosts agree on.
type jobMessage struct {
	Identity map[string]string `json:"identity"`
	Run      string            `json:"run"`
}

// termMessage says who leads.
type termMessage struct {
	Host  string `json:"host"` // id
	URL   string `json:"url"`
	State state  `json:"state"`
	Why   string `json:"why,omitempty"` // the run failed
}

type state string

const (
	leads state = "leads"
	free  state = "free" // the last leader has left
	over  state = "over" // the run has ended
)

// token makes a subject's token of any name.
func token(name string) string { return hex.EncodeToString([]byte(name)) }

// plain makes a stream's name of a job's.
func plain(job string) string {
	if !strings.Contains(job, ".") {
		return job
	}
	return strings.ReplaceAll(job, ".", "_") + "-" + token(job[strings.IndexByte(job, '.'):])[:8]
}

func random() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}

// Bare removes what may be secret from addresses of NATS servers.
func Bare(urls string) (string, error) {
	var all []string
	for s := range strings.SplitSeq(urls, ",") {
		s = strings.TrimSpace(s)
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
			return "", errors.New("malformed address of a NATS server: give it like nats://192.0.2.1:4222")
		}
		all = append(all, u.Scheme+"://"+u.Host)
	}
	return strings.Join(all, ","), nil
}

// Open connects to NATS, makes the job's streams where they are missing, and checks that the
// hosts there have the same job.
func Open(ctx context.Context, address string, opt Options) (*Store, error) {
	opt.fill()
	at, err := Bare(address)
	if err != nil {
		return nil, err
	}
	name := plain(opt.Job)
	s := &Store{opt: opt, id: random(), at: at, base: "ravnest." + name, others: map[string]other{}}
	if err := s.connect(ctx, address); err != nil {
		return nil, err
	}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	if err = s.open(ctx, "RAVNEST_"+name); err == nil {
		err = s.present()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// connect tries for as long as there is patience.
func (s *Store) connect(ctx context.Context, address string) error {
	opts := []nats.Option{
		nats.Name("ravnest " + s.opt.Job), nats.Timeout(2 * time.Second),
		nats.MaxReconnects(-1), nats.ReconnectWait(200 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1), // what cannot be sent now fails now
		nats.PingInterval(2 * time.Second), nats.MaxPingsOutstanding(2),
	}
	if s.opt.Creds != "" {
		opts = append(opts, nats.UserCredentials(s.opt.Creds))
	}
	said := false
	for end := time.Now().Add(s.opt.Patience); ; {
		var err error
		if s.nc, err = nats.Connect(address, opts...); err == nil {
			break
		}
		// An address may be repeated in an error, so only what went wrong is told.
		switch {
		case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
			return fmt.Errorf("%w at %s: it refuses this host: check the user and password in the address, or --nats-creds", ErrUnreachable, s.at)
		case !errors.Is(err, nats.ErrNoServers) && !isNet(err), time.Now().After(end):
			return fmt.Errorf("%w at %s: %s: check the address, and that nats-server runs there with JetStream (nats-server -js)", ErrUnreachable, s.at, s.without(err, address))
		}
		if !said {
			said = true
			s.opt.Say("NATS at %s does not answer yet: trying for %v", s.at, s.opt.Patience)
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var err error
	if s.js, err = js.New(s.nc, js.WithPublishAsyncMaxPending(inFlight)); err != nil {
		s.nc.Close()
	}
	return err
}

func isNet(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t)
}

// without is an error's text without the address, which may hold a password.
func (s *Store) without(err error, address string) string {
	text := err.Error()
	for a := range strings.SplitSeq(address, ",") {
		text = strings.ReplaceAll(text, strings.TrimSpace(a), s.at)
	}
	return text
}

// oldest is the oldest server that checks the fence of one subject with a write to another.
var oldest = []int{2, 12}

func modern(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		return false
	}
	return major > oldest[0] || major == oldest[0] && minor >= oldest[1]
}

// open makes or finds the streams and the job.
func (s *Store) open(ctx context.Context, name string) error {
	if v := s.nc.ConnectedServerVersion(); !modern(v) {
		return fmt.Errorf("the NATS server at %s has version %s, but %d.%d or newer is needed: update nats-server", s.at, v, oldest[0], oldest[1])
	}
	ctx, stop := context.WithTimeout(ctx, s.opt.Patience)
	defer stop()
	var err error
	if s.stream, err = s.make(ctx, js.StreamConfig{
		Name: name, Description: "a ravnest job", AllowRollup: true,
		Subjects: []string{s.base + ".job", s.base + ".term", s.base + ".alive", s.base + ".obj.*", s.base + ".log.*"},
	}); err != nil {
		return err
	}
	if s.parts, err = s.make(ctx, js.StreamConfig{
		Name: name + "_PARTS", Description: "large objects of a ravnest job", Subjects: []string{s.base + ".part.*.*"},
	}); err != nil {
		return err
	}
	return s.agree(ctx)
}

// noPeers is the server's code for a cluster that has too few servers for a stream's copies, which
// it also says before its servers have found each other.
const noPeers = 10005

// make finds or makes a stream.
func (s *Store) make(ctx context.Context, cfg js.StreamConfig) (js.Stream, error) {
	cfg.Replicas, cfg.Storage = s.opt.Replicas, js.FileStorage
	for {
		st, err := s.js.Stream(ctx, cfg.Name)
		if errors.Is(err, js.ErrStreamNotFound) {
			if st, err = s.js.CreateStream(ctx, cfg); errors.Is(err, js.ErrStreamNameAlreadyInUse) {
				st, err = s.js.Stream(ctx, cfg.Name)
			}
		}
		var api *js.APIError
		switch {
		case err == nil:
			return st, nil
		case errors.Is(err, js.ErrJetStreamNotEnabled), errors.Is(err, js.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
			return nil, fmt.Errorf("the NATS server at %s has no JetStream: start it with nats-server -js", s.at)
		case errors.As(err, &api) && api.ErrorCode == noPeers:
			select {
			case <-time.After(200 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("the NATS servers at %s are too few for %d copies: start more, or ask for fewer with --nats-replicas", s.at, cfg.Replicas)
			}
		}
		return nil, fmt.Errorf("the stream %s at %s: %w", cfg.Name, s.at, err)
	}
}

// agree sees that all hosts have the same job. With Fresh, another job is replaced once this
// host leads.
func (s *Store) agree(ctx context.Context) error {
	for {
		var m jobMessage
		seq, err := s.last(ctx, "job", &m)
		if err != nil {
			return err
		}
		if seq > 0 {
			s.run = m.Run
			if s.opt.Fresh {
				return nil
			}
			return s.same(m.Identity)
		}
		m = jobMessage{Identity: s.opt.Identity, Run: random()}
		if _, err = s.publish(ctx, "job", m, js.WithExpectLastSequencePerSubject(0)); err == nil {
			s.run = m.Run
			return nil
		}
		if !isSequence(err) {
			return err
		}
	}
}

// same compares the job of the other hosts with this host's.
func (s *Store) same(theirs map[string]string) error {
	var differ []string
	for _, k := range slices.Sorted(maps.Keys(s.opt.Identity)) {
		if theirs[k] != s.opt.Identity[k] {
			differ = append(differ, k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(theirs)) {
		if _, ok := s.opt.Identity[k]; !ok {
			differ = append(differ, k)
		}
	}
	if len(differ) == 0 {
		return nil
	}
	return fmt.Errorf("%w: the %s of %q differ from this directory's: copy the directory to every host, rename the job, or begin anew with --fresh", ErrOtherJob, strings.Join(differ, ", "), s.opt.Job)
}

// last reads the last message of a subject into v. 0: there is none.
func (s *Store) last(ctx context.Context, subject string, v any) (uint64, error) {
	m, err := s.stream.GetLastMsgForSubject(ctx, s.base+"."+subject)
	if errors.Is(err, js.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading %s from NATS: %w", subject, err)
	}
	if err := json.Unmarshal(m.Data, v); err != nil {
		return 0, fmt.Errorf("reading %s from NATS: %w", subject, err)
	}
	return m.Sequence, nil
}

// publish replaces the last message of a subject.
func (s *Store) publish(ctx context.Context, subject string, v any, cond ...js.PublishOpt) (uint64, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	m := nats.NewMsg(s.base + "." + subject)
	m.Data = data
	m.Header.Set(js.MsgRollup, js.MsgRollupSubject)
	ack, err := s.js.PublishMsg(ctx, m, append(cond, js.WithRetryAttempts(0))...)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// isSequence tells whether a write was refused since its condition does not hold.
func isSequence(err error) bool {
	var e *js.APIError
	return errors.As(err, &e) && (e.ErrorCode == js.JSErrCodeStreamWrongLastSequence || e.ErrorCode == js.JSErrCodeStreamWrongLastSequenceConstant)
}

// oneTry bounds a request to NATS.
const oneTry = 2 * time.Second

// Run names the run that the job is in: another one after Fresh.
func (s *Store) Run() string { return s.run }

// At is the address of NATS, without credentials.
func (s *Store) At() string { return s.at }

// present tells the other hosts where this one is, and listens to them.
func (s *Store) present() error {
	subject := s.base + ".hosts"
	sub, err := s.nc.Subscribe(subject, func(m *nats.Msg) {
		var t termMessage
		if json.Unmarshal(m.Data, &t) == nil && t.Host != s.id {
			s.mu.Lock()
			s.others[t.Host] = other{t.URL, time.Now()}
			s.mu.Unlock()
		}
	})
	if err != nil {
		return err
	}
	mine, err := json.Marshal(termMessage{Host: s.id, URL: s.opt.URL})
	if err != nil {
		return err
	}
	s.wg.Go(func() {
		t := time.NewTicker(s.opt.Lease / 4)
		defer t.Stop()
		for {
			_ = s.nc.Publish(subject, mine) // the next one may come through
			select {
			case <-t.C:
			case <-s.life.Done():
				_ = sub.Unsubscribe()
				return
			}
		}
	})
	return nil
}

// Others returns the addresses of the other hosts that were heard of lately.
func (s *Store) Others() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for id, o := range s.others {
		if time.Since(o.seen) > 10*s.opt.Lease {
			delete(s.others, id)
			continue
		}
		all = append(all, o.url)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Leader returns the address of the host that leads, "" if it is not known, and whether it is
// this one.
func (s *Store) Leader() (url string, own bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader, s.lead != nil
}

// reached notes whether NATS answers, and tells the user when that changes.
func (s *Store) reached(ok bool) {
	s.mu.Lock()
	was, lead := !s.away, s.lead != nil
	s.away = !ok
	s.mu.Unlock()
	switch {
	case was == ok:
	case ok:
		s.opt.Say("NATS at %s answers again", s.at)
	case lead:
		s.opt.Say("NATS at %s does not answer: training goes on, checkpoints wait", s.at)
	default:
		s.opt.Say("NATS at %s does not answer: waiting", s.at)
	}
}

// Close ends everything. A host that leads should Resign or End first.
func (s *Store) Close() {
	if s.end != nil {
		s.end()
	}
	s.mu.Lock()
	l := s.lead
	s.mu.Unlock()
	if l != nil {
		s.depose(l)
		<-l.done
	}
	s.wg.Wait()
	s.nc.Close()
}
