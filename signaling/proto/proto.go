// Package proto defines the protocol between the signaling host and its providers: versioned
// JSON messages, one per WebSocket text message.
//
// On the wire every message is an envelope
//
//	{"v":5,"type":"hello","body":{...}}
//
// whose body is one of the structs of messages.go. The two ends do not trust each other:
// [Decode] limits the size of a message before parsing it, refuses unknown fields and types,
// and checks every string, count and number against the limits below, so that the result
// needs no further validation.
//
// The messages of a run (the host is on the right):
//
//	hello          ->           who I am, what I measured
//	               <- welcome   your id, your name, your session's secret
//	               <- ping      every heartbeat; answered by pong
//	               <- assign    your stage, its graph, data, peers, and the state to resume from
//	fetching       ->           progress of the downloads, about once a second
//	signal         <->          SDP and ICE candidates, relayed between peers
//	ready          ->           links up, plan compiled
//	               <- start     to all stages at once
//	progress       ->           about four times a second
//	               <- checkpoint  to a root: save or hold all stages' state before the next update
//	held           ->           a stage's state is in this provider's memory
//	               <- bring     upload it, since a stage was lost
//	leaving        ->           wants to leave; answered by bye when nothing would be lost
//	               <- stop      graceful (finish, save, done) or now
//	saved          ->           after a stage was uploaded by HTTP
//	done | failed  ->
//	bye            <->
//
// A session outlives its connection. Both sides count the messages that they have sent and
// taken in; hello, welcome, ping, pong and ack are of one connection and not counted. Ping,
// pong and ack say how many have come, and what is not acknowledged is kept (package window).
// A provider whose connection ends connects again within Welcome.Keep, and its hello says
// with Return which session it is and what it has had; the welcome answers with what the host
// has had, and both send the rest again.
//
// Version history: 1, the first; 2, attempts: generations, resuming, checkpoints
// on request, leaving, fetching and kinds of failures; 3, sessions that outlive
// their connections; 4, measured links, which providers share a machine, and states that
// providers hold in memory; 5, replicas that move between clusters, updates put off until their
// gradients' norm is there, digests of averages, keys of digests, and the speed of loops over
// elements; 6, connections between providers that outlive attempts, and work in reports; 7, rounds that
// run on through epochs.
package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the protocol version that this package speaks. It is raised whenever an older
// peer could misunderstand a message; there is no negotiation.
const Version = 7

// Limits of what Decode accepts. They are part of the protocol.
const (
	MaxMessage   = 1 << 20   // bytes of one message, envelope included
	MaxSignal    = 64 << 10  // bytes of a relayed body
	MaxRaw       = 448 << 10 // bytes of a job or a plan, which share a message
	MaxPosition  = 4 << 10   // bytes of a position in the run's order
	MaxName      = 64        // bytes of a provider's name, an id, a run id, a blob's kind
	MaxText      = 4 << 10   // bytes of a reason, error message or hint
	MaxToken     = 256       // bytes of a join token
	MaxStages    = 1024      // stages in a cluster, clusters in a run, peers of a stage
	MaxLosses    = 4096      // losses in one progress message
	MaxDigests   = 2048      // digests in one progress message
	MaxVals      = 256       // validation passes in one progress message
	MaxMetrics   = 16        // figures of a validation pass
	MaxStretches = 64        // attempts that a check is about
	MaxStates    = 4096      // of stages, that a check tells
	MaxBlobs     = 64        // blobs of one assignment, per map
	MaxParts     = 1024      // parts of a checkpoint that one stage resumes from
	MaxICE       = 16        // URLs of ICE servers of a welcome, all together
	MaxHosts     = 16        // hosts of a welcome
	MaxURL       = 1 << 10   // bytes of a host's address
	MaxChunk     = 768 << 10 // bytes of a request's body; proxies usually allow 1 MB
	MaxHello     = 16 << 10  // bytes of a hello, which anybody can send
)

// What a session may send, in units of Cost: so many a second, and at once after a pause. A
// provider keeps to three quarters of it with its reports, however fast it trains.
const (
	Rate  = 300
	Burst = 6 * Rate
)

// Cost is what a message of n bytes counts: one, and one more for every 4 KiB, so that the rate
// bounds bytes as well as messages.
func Cost(n int) float64 { return 1 + float64(n)/4096 }

// Errors of Decode and Encode, beside *VersionError.
var (
	// ErrTooLarge: the message is larger than MaxMessage.
	ErrTooLarge = errors.New("message too large")
	// ErrMalformed: the message is not JSON or not an envelope, or its body does not fit its
	// type or exceeds a limit.
	ErrMalformed = errors.New("malformed message")
	// ErrUnknownType: this version does not know the message's type.
	ErrUnknownType = errors.New("unknown message type")
)

// VersionError says that the peer speaks another version of the protocol.
type VersionError struct {
	Got, Want int
	// Said is the error that the peer sent in its version: its code, message and hint are the
	// same in all. nil: it was another message.
	Said *Error
}

func (e *VersionError) Error() string {
	if e.Said != nil && e.Said.Message != "" {
		return e.Said.Error()
	}
	return fmt.Sprintf("the peer speaks protocol version %d, but this program speaks version %d: update the older of the two", e.Got, e.Want)
}

// Message is one of the message structs of this package, as a pointer.
type Message interface {
	// Type returns the message's name on the wire.
	Type() string
	// check validates the message. It also seals the interface.
	check() error
}

type envelope struct {
	V    int             `json:"v"`
	Type string          `json:"type"`
	Body json.RawMessage `json:"body"`
}

// blank returns an empty message of the named type, or nil.
func blank(typ string) Message {
	switch typ {
	case "hello":
		return new(Hello)
	case "welcome":
		return new(Welcome)
	case "error":
		return new(Error)
	case "assign":
		return new(Assign)
	case "signal":
		return new(Signal)
	case "ready":
		return new(Ready)
	case "start":
		return new(Start)
	case "progress":
		return new(Progress)
	case "saved":
		return new(Saved)
	case "done":
		return new(Done)
	case "stop":
		return new(Stop)
	case "failed":
		return new(Failed)
	case "held":
		return new(Held)
	case "bring":
		return new(Bring)
	case "checkpoint":
		return new(Checkpoint)
	case "leaving":
		return new(Leaving)
	case "fetching":
		return new(Fetching)
	case "bye":
		return new(Bye)
	case "ping":
		return new(Ping)
	case "pong":
		return new(Pong)
	case "challenge":
		return new(Challenge)
	case "proof":
		return new(Proof)
	case "pass":
		return new(Pass)
	case "ack":
		return new(Ack)
	}
	return nil
}

// Encode returns the wire form of m. It applies the same limits as Decode, so that every
// message sent can be read. Only reasons and error texts, which can come from anywhere, are
// made to fit by [Text].
func Encode(m Message) ([]byte, error) {
	m = tidy(m)
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encode %s: %w: %w", m.Type(), ErrMalformed, err)
	}
	body, err := marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w: %w", m.Type(), ErrMalformed, err)
	}
	b := make([]byte, 0, len(body)+48)
	b = fmt.Appendf(b, `{"v":%d,"type":%q,"body":`, Version, m.Type())
	b = append(b, body...)
	b = append(b, '}')
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("encode %s: %w: %d bytes, the limit is %d", m.Type(), ErrTooLarge, len(b), MaxMessage)
	}
	return b, nil
}

// tidy returns m, or a copy of it, with free text that fits. Both Decode and Encode use it,
// so that no such text bypasses it.
func tidy(m Message) Message {
	switch m := m.(type) {
	case *Hello:
		c := *m
		c.Agent, c.Platform = cut(Text(c.Agent), MaxName), cut(Text(c.Platform), MaxName)
		return &c
	case *Error:
		c := *m
		c.Message, c.Hint = Text(c.Message), Text(c.Hint)
		return &c
	case *Stop:
		c := *m
		c.Reason = Text(c.Reason)
		return &c
	case *Failed:
		c := *m
		c.Error = Text(c.Error)
		return &c
	case *Leaving:
		c := *m
		c.Reason = Text(c.Reason)
		return &c
	case *Bye:
		c := *m
		c.Reason = Text(c.Reason)
		return &c
	}
	return m
}

// marshal is json.Marshal without the escaping of <, > and &, which would lengthen messages,
// so that one could exceed its limit when encoded again.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}

// Decode decodes one message. It checks the version before anything else in the envelope, so
// that a peer of another version is told so and not that its message is malformed.
func Decode(b []byte) (Message, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(b), MaxMessage)
	}
	var env envelope
	if err := strict(b, &env); err != nil || env.V != Version {
		return nil, badEnvelope(b, err)
	}
	m := blank(env.Type)
	if m == nil {
		return nil, fmt.Errorf("%w %.64q", ErrUnknownType, env.Type)
	}
	if len(env.Body) == 0 || env.Body[0] != '{' {
		return nil, fmt.Errorf("%w: %s has no body", ErrMalformed, env.Type)
	}
	if err := strict(env.Body, m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, env.Type, err)
	}
	m = tidy(m)
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, env.Type, err)
	}
	return m, nil
}

// badEnvelope returns what is wrong with an envelope, with the version taking precedence.
func badEnvelope(b []byte, err error) error {
	var head struct {
		V *int `json:"v"`
	}
	if lax := json.Unmarshal(b, &head); lax != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, lax)
	}
	if head.V == nil {
		return fmt.Errorf("%w: it names no protocol version", ErrMalformed)
	}
	if *head.V != Version {
		return &VersionError{Got: *head.V, Want: Version, Said: said(b)}
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// said reads an error of another version; nil: it is none.
func said(b []byte) *Error {
	var env envelope
	if json.Unmarshal(b, &env) != nil || env.Type != "error" {
		return nil
	}
	var e Error
	if json.Unmarshal(env.Body, &e) != nil {
		return nil
	}
	return &Error{Code: Code(cut(Text(string(e.Code)), MaxName)), Message: cut(Text(e.Message), MaxText), Hint: cut(Text(e.Hint), MaxText)}
}

// strict unmarshals b and refuses unknown fields and trailing data.
func strict(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the message")
	}
	return nil
}
