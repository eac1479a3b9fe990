package proto

// The messages. Their fields are plain data, validated in check.go.

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Real is a float64 that can be NaN or infinite in JSON, where it is then a string: a
// diverging loss must be reported and is not a protocol error.
type Real float64

// MarshalJSON writes the shortest decimal that reads back as r.
func (r Real) MarshalJSON() ([]byte, error) {
	f := float64(r)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte(`"` + strconv.FormatFloat(f, 'g', -1, 64) + `"`), nil
	}
	return json.Marshal(f)
}

// UnmarshalJSON reads a number, or one of "NaN", "+Inf", "-Inf".
func (r *Real) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case `"NaN"`:
		*r = Real(math.NaN())
		return nil
	case `"+Inf"`:
		*r = Real(math.Inf(1))
		return nil
	case `"-Inf"`:
		*r = Real(math.Inf(-1))
		return nil
	}
	var f float64
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*r = Real(f)
	return nil
}

// Ref names a blob by its content. Blobs are fetched from the host at [BlobPath].
type Ref struct {
	SHA256 string `json:"sha256"` // 64 lower-case hex digits
	Size   int64  `json:"size"`   // bytes
}

// refPiece is how much of a blob is hashed at once.
const refPiece = 1 << 20

// RefOf is the reference of a blob. between, unless nil, is called now and then meanwhile: where a
// browser's one thread has other things to do.
func RefOf(blob []byte, between func()) Ref {
	h := sha256.New()
	for rest := blob; len(rest) > 0; {
		n := min(len(rest), refPiece)
		h.Write(rest[:n])
		rest = rest[n:]
		if between != nil {
			between()
		}
	}
	return Ref{SHA256: hex.EncodeToString(h.Sum(nil)), Size: int64(len(blob))}
}

// Paths of the host's HTTP routes.
const (
	JoinPath   = "/v1/join"
	SpeedPath  = "/v1/speed"
	StatusPath = "/v1/status"
	WatchPath  = "/v1/watch"
	TryPath    = "/v1/try"
)

// AuthScheme is the scheme of the Authorization header whose credentials are the join token
// in unpadded base64url, since headers sent by a page can only carry Latin-1.
const AuthScheme = "Ravnest"

// Authorization returns that header's value.
func Authorization(token string) string {
	return AuthScheme + " " + base64.RawURLEncoding.EncodeToString([]byte(token))
}

// Try is the answer to a machine that tests its network: the host's STUN and TURN servers,
// with credentials for a minute, and the host's time.
type Try struct {
	ICE  []ICEServer `json:"ice_servers"`
	Time int64       `json:"time_ms"` // Unix milliseconds
}

// Have answers a piece of an upload: the number of bytes that the host has, which is where
// the next piece must begin.
type Have struct {
	Have int64 `json:"have"`
}

// SessionHeader carries Welcome.Session in requests for blobs and uploads: what a session may
// transfer follows from its assignment.
const SessionHeader = "Ravnest-Session"

// BlobPath returns the route of a blob.
func BlobPath(sha256 string) string { return "/v1/blob/" + sha256 }

// UploadPath returns the route for uploading a trained stage.
func UploadPath(run string, stage int, sha256 string) string {
	return fmt.Sprintf("/v1/upload/%s/%d/%s", run, stage, sha256)
}

// Numeric classes: providers of one class compute the same bits.
const (
	ClassFMA   = "fma"   // every dot product by fused multiply-add
	ClassNoFMA = "nofma" // hardware or browser without it
)

// Hello is a provider's first message.
type Hello struct {
	Token    string `json:"token,omitempty"`
	Name     string `json:"name,omitempty"` // such as "node_0"; "": the host chooses one
	Agent    string `json:"agent"`          // the program and its version
	Platform string `json:"platform"`       // "linux/amd64", "js/wasm"
	Class    string `json:"class"`          // ClassFMA or ClassNoFMA
	RAM      int64  `json:"ram_bytes"`      // offered, not installed
	Threads  int    `json:"threads"`
	Bench    Bench  `json:"bench"`
	// Machine identifies the processors that it computes on: providers with the same one share
	// them. Cores is how many there are, and Physical how many of those are not further threads of a
	// core. All may be unknown.
	Machine  string `json:"machine,omitempty"`
	Cores    int    `json:"cores,omitempty"`
	Physical int    `json:"physical_cores,omitempty"`
	// Key is the provider's Ed25519 public key in lower-case hex; "": it has none. The host
	// answers with a Challenge, which a Proof answers.
	Key string `json:"key,omitempty"`
	// Address is the URL at which the provider has called the host. A host that lets a key join
	// without a token checks that it is its own, since another host might pass the proof on.
	Address string `json:"address,omitempty"`
	// Pass asks for a Pass in place of a Welcome.
	Pass bool `json:"pass,omitempty"`
	// Return asks to go on with a session whose connection has ended; the rest, but for
	// the token, then says nothing new.
	Return *Return `json:"return,omitempty"`
}

// Challenge asks a provider to prove that it has the key of its hello.
type Challenge struct {
	Nonce string `json:"nonce"` // 32 random bytes in lower-case hex
}

// Proof answers a Challenge.
type Proof struct {
	Signature string `json:"signature"` // of Proven's bytes, in lower-case hex
}

// Proven returns what a Proof signs: the challenge and the hello as it was sent, which has the
// host's token and the address called in it, so that the proof is of no use at another host.
func Proven(nonce string, hello []byte) []byte {
	sum := sha256.Sum256(hello)
	return fmt.Appendf(nil, "ravnest hello\n%s\n%x", nonce, sum)
}

// Pass is a token of a member's own, which it can use as the join token from then on. It is
// of use only with the member's key.
type Pass struct {
	Token string `json:"token"`
}

// InvitePrefix begins the tokens that are invitations for one provider.
const InvitePrefix = "invite."

// IsInvite reports whether a token is an invitation.
func IsInvite(token string) bool { return strings.HasPrefix(token, InvitePrefix) }

// Return names a session to go on with.
type Return struct {
	Session string `json:"session"` // Welcome.Session
	Got     uint64 `json:"got"`     // counted messages that the provider has
}

// Bench holds measurements; 0 means not measured.
type Bench struct {
	GEMM float64 `json:"gemm_gflops"`
	Conv float64 `json:"conv_gflops"`
	// Vector is elements a nanosecond in loops over them.
	Vector float64 `json:"vector_gelems,omitempty"`
	// Alone is GEMM on one thread.
	Alone float64 `json:"alone_gflops,omitempty"`
	Up    float64 `json:"up_bps"`   // bits/s to the host
	Down  float64 `json:"down_bps"` // bits/s from the host
}

// Welcome accepts a provider, for the first time or again.
type Welcome struct {
	Agent     string      `json:"agent,omitempty"` // the host's program and its release
	ID        string      `json:"id"`              // public: how peers address it
	Name      string      `json:"name"`            // the one asked for, or one chosen by the host
	Session   string      `json:"session"`         // secret: authorises its uploads and its return
	Heartbeat int         `json:"heartbeat_ms"`
	Timeout   int         `json:"timeout_ms"` // silence after which an end counts as dead
	Keep      int         `json:"keep_ms"`    // how long the session outlives its connection; 0: not at all
	Got       uint64      `json:"got"`        // counted messages that the host has, after a Return
	ICE       []ICEServer `json:"ice_servers,omitempty"`
	// Hosts are the addresses of all hosts that serve this job, where there are several. If
	// this one is lost, another leads, and each says which.
	Hosts []string `json:"hosts,omitempty"`
}

// ICEServer is a STUN or TURN server, as in the W3C's RTCIceServer.
type ICEServer struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username,omitempty"`
	Credential string   `json:"credential,omitempty"`
}

// Code classes an Error for programs.
type Code string

// The codes.
const (
	BadToken    Code = "bad_token"    // the join token is missing or wrong
	BadVersion  Code = "version"      // the ends speak different versions
	NameTaken   Code = "name_taken"   // a live provider has this name
	NameUnknown Code = "name_unknown" // not one of the names that the plan fixed
	Full        Code = "full"         // no room for another provider
	Protocol    Code = "protocol"     // a message was malformed, unexpected or one too many
	Stopped     Code = "stopped"      // the run or the host has stopped
	NotFound    Code = "not_found"    // no such blob or peer
	Forbidden   Code = "forbidden"    // not this session's stage; another origin
	TooLarge    Code = "too_large"    // over a size limit
	BadHash     Code = "bad_hash"     // the bytes do not have the digest that names them
	Forgotten   Code = "forgotten"    // no session to return to: it has ended, or the host has been started anew
	Banned      Code = "banned"       // the requester has banned this provider's key
	Storage     Code = "storage"      // the host could not store (disk full, for example)
	Elsewhere   Code = "elsewhere"    // another host leads the job now: see Error.Host
	Busy        Code = "busy"         // too much was asked for from this address: later
)

// Error tells the peer what went wrong. If the connection closes after it, it is the reason.
// It is also a Go error: errors.Is(err, proto.ErrBadToken).
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"` // what to do next
	Host    string `json:"host,omitempty"` // with Elsewhere: the address of the host that leads; "": not known
}

func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Message
	}
	return e.Message + ": " + e.Hint
}

// Is makes e match the sentinel with its code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Message == "" && t.Code == e.Code
}

// Sentinels for errors.Is, one for each code that callers distinguish.
var (
	ErrBadToken    = &Error{Code: BadToken}
	ErrBadVersion  = &Error{Code: BadVersion}
	ErrNameTaken   = &Error{Code: NameTaken}
	ErrNameUnknown = &Error{Code: NameUnknown}
	ErrFull        = &Error{Code: Full}
	ErrProtocol    = &Error{Code: Protocol}
	ErrStopped     = &Error{Code: Stopped}
	ErrNotFound    = &Error{Code: NotFound}
	ErrForbidden   = &Error{Code: Forbidden}
	ErrOverLimit   = &Error{Code: TooLarge}
	ErrBadHash     = &Error{Code: BadHash}
	ErrForgotten   = &Error{Code: Forgotten}
	ErrStorage     = &Error{Code: Storage}
	ErrElsewhere   = &Error{Code: Elsewhere}
)

// Assign gives a provider its part of a run.
type Assign struct {
	Run     string          `json:"run"`
	Cluster int             `json:"cluster"`
	Stage   int             `json:"stage"` // 0 is the root, Stages-1 the leaf
	Stages  int             `json:"stages"`
	Name    string          `json:"name"`
	Job     json.RawMessage `json:"job"` // opaque here
	Graph   Ref             `json:"graph"`
	Data    map[string]Ref  `json:"data,omitempty"`    // by kind
	Weights map[string]Ref  `json:"weights,omitempty"` // initial state, by kind; empty: initialise from the seed
	Peers   []Peer          `json:"peers,omitempty"`   // the cluster's other stages, by stage
	Plan    json.RawMessage `json:"plan,omitempty"`    // opaque here: cuts, edges, rings

	// Generation counts the run's attempts from 1. Every new placement increments it; frames
	// between peers carry it, and those of an older generation are dropped.
	Generation int `json:"generation,omitempty"`
	// Timeout replaces that of the welcome, in milliseconds, from now on; 0: it stays.
	Timeout int `json:"timeout_ms,omitempty"`
	// Resume is the checkpoint to resume from; nil: begin with Weights or the seed.
	Resume *Resume `json:"resume,omitempty"`
	// DigestKey is that of the stage's digests, in hex, which no other provider knows.
	DigestKey string `json:"digest_key,omitempty"`
	// Check, unless nil, is what the provider does in place of a stage of its own.
	Check *Check `json:"check,omitempty"`
}

// Check has a provider train a stretch of the run again, alone, with all stages of all clusters cut
// as they were, from Assign.Resume on. It tells with Done what their states are at the end.
type Check struct {
	From      int64     `json:"from"`      // step
	Stretches []Stretch `json:"stretches"` // one after the other
}

// Stretch is what one attempt has done of it.
type Stretch struct {
	Until int64             `json:"until"` // step
	Plans []json.RawMessage `json:"plans"` // opaque here: of the clusters
}

// State names a stage's state by its content.
type State struct {
	Cluster int    `json:"cluster"`
	Stage   int    `json:"stage"`
	SHA256  string `json:"sha256"`
}

// Resume names the state that a stage resumes from: every part of the checkpoint that
// overlaps the stage's segment.
type Resume struct {
	Position json.RawMessage `json:"position"` // opaque here: position in the run's order
	Parts    []Part          `json:"parts"`
}

// Part is a stage's state in a checkpoint: a blob with the weights, statistics and optimiser
// state of the nodes [Start, End) of the whole graph.
type Part struct {
	Ref
	Start int `json:"start"`
	End   int `json:"end"`
}

// Peer is another provider of the run.
type Peer struct {
	Cluster int    `json:"cluster"`
	Stage   int    `json:"stage"`
	ID      string `json:"id"`
	Name    string `json:"name"`
	Class   string `json:"class"`
}

// Signal is relayed between two providers of a run: SDP, ICE candidates. The
// sender sets To; the host sets From and delivers it.
type Signal struct {
	Run  string          `json:"run"`
	To   string          `json:"to,omitempty"`
	From string          `json:"from,omitempty"`
	Body json.RawMessage `json:"body"`
}

// Ready says that the provider's links are up and its plan is compiled.
type Ready struct {
	Run  string `json:"run"`
	Peak int64  `json:"peak_bytes"` // memory that the stage will use at most
	// Links are those whose round trip was measured.
	Links []LinkTime `json:"links,omitempty"`
}

// LinkTime is the round trip of a link between two providers.
type LinkTime struct {
	Peer string `json:"peer"` // its id
	RTT  int64  `json:"rtt_ns"`
}

// Start begins training; the host sends it to all stages at once.
type Start struct {
	Run string `json:"run"`
}

// Progress reports the losses and validation results since the last report, and counters
// since the run's start. It is sent about four times a second.
type Progress struct {
	Run     string   `json:"run"`
	Stage   int      `json:"stage"`
	Step    int64    `json:"step"` // batches finished
	Losses  []Loss   `json:"losses,omitempty"`
	Vals    []Val    `json:"vals,omitempty"`
	Digests []Digest `json:"digests,omitempty"`
	Samples int64    `json:"samples"`     // trained on since the start
	Out     int64    `json:"wire_out"`    // payload bytes sent to peers since the start
	In      int64    `json:"wire_in"`     // payload bytes received from peers since the start
	Raw     int64    `json:"raw_out"`     // what Out would be in uncompressed float32
	Busy    float64  `json:"busy"`        // fraction of the time computing since the last report, 0..1
	RSS     int64    `json:"rss_bytes"`   // of the process or tab now
	Shared  int64    `json:"average_out"` // payload bytes of Out that went to other clusters
	Waited  int64    `json:"waited_ms"`   // for other clusters at the ends of rounds
	FLOPs   float64  `json:"flops"`       // floating-point operations since the start
	// Share is how many replicas the cluster trains in the round at hand; 0: those that it was
	// assigned.
	Share int `json:"replicas,omitempty"`
	// Work goes up with whatever the provider does for the attempt: kernels, frames, pieces of files.
	// While it stands still the provider waits or, where it is busy, hangs. 0: not told.
	Work int64 `json:"work,omitempty"`
}

// Digest is what a stage commits itself to with an update, or with the average of a round over
// several clusters.
type Digest struct {
	Step  int64  `json:"step"`            // number of the last batch, of the update or of the round
	Round bool   `json:"round,omitempty"` // of the average
	Sums  string `json:"sums"`            // hex: 16 digits for what was received and 16 for what was sent, for each way that something went
	Rings string `json:"rings,omitempty"` // hex, of an average: 16 digits for what each step of the rings exchanged with each neighbour
	// Open says that the stage has ended before it came to the next digest: how many activations and
	// gradients it had received since the last one, and how many it had sent. Step is the number of
	// batches before, and Round tells whether the last digest was of an average.
	Open []int `json:"open,omitempty"`
}

// Last tells whether the stage has ended with it.
func (d Digest) Last() bool { return len(d.Open) > 0 }

// Loss is a training batch's loss.
type Loss struct {
	Step  int64 `json:"step"`
	Epoch int   `json:"epoch"`
	Loss  Real  `json:"loss"`
}

// Val is the result of a validation pass. Total is 0 if accuracy has no meaning, as in a
// regression.
type Val struct {
	Step    int64 `json:"step"`
	Epoch   int   `json:"epoch"`
	Correct int64 `json:"correct"`
	Total   int64 `json:"total"`
	Loss    Real  `json:"loss"`
	// Metrics are the job's other figures of the pass.
	Metrics []Metric `json:"metrics,omitempty"`
}

// Metric is a figure of a validation pass, such as perplexity.
type Metric struct {
	Name  string `json:"name"`
	Value Real   `json:"value"`
}

// Saved says that the stage's state before the update Step was uploaded as Blob. The states
// of all stages at one position make up a checkpoint.
type Saved struct {
	Run      string          `json:"run"`
	Stage    int             `json:"stage"`
	Step     int64           `json:"step"`
	Epoch    int             `json:"epoch"`
	Blob     Ref             `json:"blob"`
	Position json.RawMessage `json:"position,omitempty"` // opaque here: position in the run's order
}

// Checkpoint asks the root of a cluster to make all stages save their state before the next
// update; with Hold, to keep it in memory only.
type Checkpoint struct {
	Run  string `json:"run"`
	Hold bool   `json:"hold,omitempty"`
}

// Held says that the sender has the state of a stage of its cluster before the update Step in
// memory: of its own, or a copy of another one's. It forgets the state when it holds two later
// ones of that stage, and when it begins to train in another run.
type Held struct {
	Run      string          `json:"run"`
	Stage    int             `json:"stage"` // whose state it is
	Step     int64           `json:"step"`
	Blob     Ref             `json:"blob"`
	Position json.RawMessage `json:"position,omitempty"` // of the own state, as in Saved
}

// Bring asks for the upload of a state that the provider holds, after Run has ended early.
type Bring struct {
	Run   string `json:"run"`
	Stage int    `json:"stage"`
	Blob  Ref    `json:"blob"`
}

// Done says that the stage has finished its work and saved everything that it had to.
type Done struct {
	Run    string  `json:"run"`
	Stage  int     `json:"stage"`
	Step   int64   `json:"step"`
	States []State `json:"states,omitempty"` // at the end of a Check
}

// Mode says how to stop.
type Mode string

// The modes.
const (
	// Graceful: the root starts no further batch; every stage finishes the batches in flight,
	// saves, uploads and sends done.
	Graceful Mode = "graceful"
	// Now: abandon the run. Nothing more about it is expected.
	Now Mode = "now"
)

// Stop ends a run.
type Stop struct {
	Run    string `json:"run"`
	Reason string `json:"reason"`
	Mode   Mode   `json:"mode"`
}

// Kind says what made a stage fail, so that the host knows whom to blame and whether trying
// again can help.
type Kind string

// The kinds.
const (
	FailedPeer     Kind = "peer"     // the link to Failed.Peer broke or never came up
	FailedMemory   Kind = "memory"   // the stage does not fit into the provider's memory
	FailedDiverged Kind = "diverged" // a loss, activation, gradient or weight is not finite, which would happen again
	FailedBlob     Kind = "blob"     // a blob of the assignment could not be fetched or is invalid
	FailedRound    Kind = "round"    // what several clusters agreed on cannot be; whose doing it is cannot be told
	FailedOther    Kind = "other"    // anything else; the empty kind means the same
)

// Failed says that the provider cannot continue the run.
type Failed struct {
	Run   string `json:"run"`
	Stage int    `json:"stage"`
	Error string `json:"error"`
	Kind  Kind   `json:"kind,omitempty"`
	// Peer is, with FailedPeer, the other end's ID; with FailedDiverged that of who sent the number, if
	// it came from another stage.
	Peer string `json:"peer,omitempty"`
}

// Leaving says that the provider wants to leave. If it has a stage, the host first has its
// state saved; it answers Bye when the provider can leave without loss. The provider may
// leave without waiting for that.
type Leaving struct {
	Reason string `json:"reason"`
}

// Fetching reports the progress of a provider's downloads, about once a second. As long as
// they make progress they may be as slow as they like.
type Fetching struct {
	Run  string `json:"run"`
	Have int64  `json:"have_bytes"` // of all blobs of the assignment
	Want int64  `json:"want_bytes"`
}

// Bye announces that the sender will close.
type Bye struct {
	Reason string `json:"reason"`
}

// Ping is the host's heartbeat. RTT is the round-trip time measured by the previous ping, in
// nanoseconds; 0: unknown.
type Ping struct {
	Seq uint64 `json:"seq"`
	RTT int64  `json:"rtt_ns"`
	Got uint64 `json:"got"` // counted messages that the host has
}

// Pong answers the Ping with the same Seq.
type Pong struct {
	Seq uint64 `json:"seq"`
	Got uint64 `json:"got"` // counted messages that the provider has
}

// Ack says between two heartbeats how many counted messages have come.
type Ack struct {
	Got uint64 `json:"got"`
}

// Counted tells whether a message belongs to the session, and not only to its connection.
func Counted(m Message) bool {
	switch m.(type) {
	case *Hello, *Welcome, *Ping, *Pong, *Ack:
		return false
	}
	return true
}

// Type returns the message's name on the wire.
func (*Hello) Type() string { return "hello" }

// Type returns the message's name on the wire.
func (*Challenge) Type() string { return "challenge" }

// Type returns the message's name on the wire.
func (*Proof) Type() string { return "proof" }

// Type returns the message's name on the wire.
func (*Pass) Type() string { return "pass" }

// Type returns the message's name on the wire.
func (*Welcome) Type() string { return "welcome" }

// Type returns the message's name on the wire.
func (*Error) Type() string { return "error" }

// Type returns the message's name on the wire.
func (*Assign) Type() string { return "assign" }

// Type returns the message's name on the wire.
func (*Signal) Type() string { return "signal" }

// Type returns the message's name on the wire.
func (*Ready) Type() string { return "ready" }

// Type returns the message's name on the wire.
func (*Start) Type() string { return "start" }

// Type returns the message's name on the wire.
func (*Progress) Type() string { return "progress" }

// Type returns the message's name on the wire.
func (*Saved) Type() string { return "saved" }

// Type returns the message's name on the wire.
func (*Done) Type() string { return "done" }

// Type returns the message's name on the wire.
func (*Stop) Type() string { return "stop" }

// Type returns the message's name on the wire.
func (*Failed) Type() string { return "failed" }

// Type returns the message's name on the wire.
func (*Checkpoint) Type() string { return "checkpoint" }

// Type returns the message's name on the wire.
func (*Held) Type() string { return "held" }

// Type returns the message's name on the wire.
func (*Bring) Type() string { return "bring" }

// Type returns the message's name on the wire.
func (*Leaving) Type() string { return "leaving" }

// Type returns the message's name on the wire.
func (*Fetching) Type() string { return "fetching" }

// Type returns the message's name on the wire.
func (*Bye) Type() string { return "bye" }

// Type returns the message's name on the wire.
func (*Ping) Type() string { return "ping" }

// Type returns the message's name on the wire.
func (*Pong) Type() string { return "pong" }

// Type is the message's name on the wire.
func (*Ack) Type() string { return "ack" }
