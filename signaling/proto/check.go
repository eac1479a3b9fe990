package proto

// Validation of messages. Decode and Encode run the same checks, so that both ends agree.

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// CheckName returns an error unless s can be the name of a provider, a run or a blob's kind:
// 1 to MaxName of the characters a-z A-Z 0-9 _ - and . (no leading dot), so that it needs no
// escaping in a path, a terminal or a page.
func CheckName(s string) error {
	if s == "" {
		return fmt.Errorf("the name is empty")
	}
	if len(s) > MaxName {
		return fmt.Errorf("name of %d bytes, the limit is %d", len(s), MaxName)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-':
		case c == '.' && i > 0:
		default:
			return fmt.Errorf("name %q: only letters, digits, _, - and inner dots are allowed", s)
		}
	}
	return nil
}

// CheckSHA256 returns an error unless s is a SHA-256 in lower-case hex.
func CheckSHA256(s string) error { return lowerHex("SHA-256", s, 64) }

// CheckKey returns an error unless s is an Ed25519 public key in lower-case hex.
func CheckKey(s string) error { return lowerHex("key", s, 64) }

func lowerHex(what, s string, n int) error {
	if len(s) != n {
		return fmt.Errorf("a %s of %d characters, want %d", what, len(s), n)
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("%s %q is not lower-case hex", what, s)
		}
	}
	return nil
}

// text checks free text.
func text(field, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s of %d bytes, the limit is %d", field, len(s), limit)
	}
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not UTF-8", field)
	}
	for _, r := range s {
		if !shown(r) {
			return fmt.Errorf("%s contains the control character %#x", field, r)
		}
	}
	return nil
}

// shown reports whether a character may appear in text shown in a terminal, a page or a log.
// Characters that move the cursor, end a line or change the writing direction would let one
// side forge the other's lines. Joiners (U+200C, U+200D) are needed in some scripts.
func shown(r rune) bool {
	switch {
	case r == '\u200c' || r == '\u200d':
		return true
	case r < 0x7f:
		return r >= ' '
	}
	return !unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp)
}

// Text turns s into a single line that fits a reason, message or error field: line breaks,
// tabs, control and direction characters become spaces, invalid UTF-8 becomes the replacement
// character, and the text is truncated to MaxText bytes.
func Text(s string) string {
	s = cut(s, MaxText)
	out := make([]byte, 0, len(s))
	for _, r := range s {
		if !shown(r) {
			r = ' '
		}
		out = utf8.AppendRune(out, r)
	}
	return cut(string(out), MaxText)
}

// cut truncates s to at most n bytes, at a character's boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// CheckToken returns an error unless s can be a join token: UTF-8 of at most MaxToken bytes
// without control characters, which a page or a header could not carry.
func CheckToken(s string) error {
	if err := text("the token", s, MaxToken); err != nil {
		return fmt.Errorf("%w: choose another one", err)
	}
	if strings.TrimSpace(s) != s {
		return errors.New("the token begins or ends with a space, which is easily lost when copying: choose another one")
	}
	return nil
}

func number(field string, f, limit float64) error {
	if math.IsNaN(f) || f < 0 || f > limit {
		return fmt.Errorf("%s is %g, want 0 to %g", field, f, limit)
	}
	return nil
}

func within[T ~int | ~int64](field string, n, lo, hi T) error {
	if n < lo || n > hi {
		return fmt.Errorf("%s is %d, want %d to %d", field, n, lo, hi)
	}
	return nil
}

// raw checks the size of an opaque part. encoding/json checks its syntax at both ends.
func raw(field string, b json.RawMessage, limit int, need bool) error {
	if len(b) == 0 {
		if need {
			return fmt.Errorf("%s is missing", field)
		}
		return nil
	}
	if len(b) > limit {
		return fmt.Errorf("%s of %d bytes, the limit is %d", field, len(b), limit)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

const (
	maxBytes    = 1 << 50
	maxSteps    = 1 << 50
	maxReplicas = 64 // of a job
	maxEpoch    = math.MaxInt32
	maxFLOPs    = 1e30

	maxGeneration = 1 << 30
	maxSums       = 224
	maxRings      = 1 << 16
	maxNodes      = 1 << 24
)

func (r *Ref) check() error {
	return first(CheckSHA256(r.SHA256), within("blob size", r.Size, 0, maxBytes))
}

func (m *Hello) check() error {
	if m.Name != "" {
		if err := CheckName(m.Name); err != nil {
			return err
		}
	}
	if m.Class != ClassFMA && m.Class != ClassNoFMA {
		return fmt.Errorf("numeric class %.32q, want %q or %q", m.Class, ClassFMA, ClassNoFMA)
	}
	if m.Key != "" {
		if err := CheckKey(m.Key); err != nil {
			return err
		}
	}
	if m.Return != nil {
		if err := CheckName(m.Return.Session); err != nil {
			return fmt.Errorf("session: %w", err)
		}
	}
	return first(
		text("token", m.Token, MaxToken),
		text("agent", m.Agent, MaxName),
		text("address", m.Address, MaxURL),
		text("platform", m.Platform, MaxName),
		within("ram_bytes", m.RAM, 0, maxBytes),
		within("threads", m.Threads, 0, 1<<16),
		within("cores", m.Cores, 0, 1<<16),
		within("physical_cores", m.Physical, 0, 1<<16),
		text("machine", m.Machine, MaxName),
		number("gemm_gflops", m.Bench.GEMM, 1e12),
		number("conv_gflops", m.Bench.Conv, 1e12),
		number("vector_gelems", m.Bench.Vector, 1e12),
		number("alone_gflops", m.Bench.Alone, 1e12),
		number("up_bps", m.Bench.Up, 1e15),
		number("down_bps", m.Bench.Down, 1e15),
	)
}

func (m *Challenge) check() error { return lowerHex("nonce", m.Nonce, 64) }

func (m *Proof) check() error { return lowerHex("signature", m.Signature, 128) }

func (m *Pass) check() error { return text("pass", m.Token, MaxToken) }

// CheckICE refuses more STUN and TURN servers than a host has addresses: a provider asks all of them.
func CheckICE(servers []ICEServer) error {
	urls := 0
	for _, s := range servers {
		for _, u := range s.URLs {
			if err := text("ICE URL", u, MaxText); err != nil {
				return err
			}
		}
		if err := first(text("ICE username", s.Username, MaxText), text("ICE credential", s.Credential, MaxText)); err != nil {
			return err
		}
		urls += len(s.URLs)
	}
	if len(servers) > MaxICE || urls > MaxICE {
		return fmt.Errorf("%d URLs of %d ICE servers, the limit is %d", urls, len(servers), MaxICE)
	}
	return nil
}

func (m *Welcome) check() error {
	if err := text("agent", m.Agent, MaxName); err != nil {
		return err
	}
	if err := CheckICE(m.ICE); err != nil {
		return err
	}
	if len(m.Hosts) > MaxHosts {
		return fmt.Errorf("%d hosts, the limit is %d", len(m.Hosts), MaxHosts)
	}
	for _, h := range m.Hosts {
		if err := text("host", h, MaxURL); err != nil {
			return err
		}
	}
	return first(
		CheckName(m.ID), CheckName(m.Name), CheckName(m.Session),
		within("heartbeat_ms", m.Heartbeat, 1, 3_600_000),
		within("timeout_ms", m.Timeout, m.Heartbeat, 3_600_000),
		within("keep_ms", m.Keep, 0, 3_600_000),
	)
}

func (e *Error) check() error {
	return first(CheckName(string(e.Code)), text("message", e.Message, MaxText), text("hint", e.Hint, MaxText), text("host", e.Host, MaxURL))
}

func refs(field string, m map[string]Ref) error {
	if len(m) > MaxBlobs {
		return fmt.Errorf("%d blobs in %s, the limit is %d", len(m), field, MaxBlobs)
	}
	for kind, r := range m {
		if err := first(CheckName(kind), r.check()); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
	}
	return nil
}

func (m *Assign) check() error {
	if len(m.Peers) > MaxStages {
		return fmt.Errorf("%d peers, the limit is %d", len(m.Peers), MaxStages)
	}
	for _, p := range m.Peers {
		err := first(
			within("peer's cluster", p.Cluster, 0, MaxStages-1), within("peer's stage", p.Stage, 0, MaxStages-1),
			CheckName(p.ID), CheckName(p.Name), CheckName(p.Class),
		)
		if err != nil {
			return err
		}
	}
	return first(
		CheckName(m.Run), CheckName(m.Name),
		within("cluster", m.Cluster, 0, MaxStages-1),
		within("stages", m.Stages, 1, MaxStages),
		within("stage", m.Stage, 0, m.Stages-1),
		m.Graph.check(),
		refs("data", m.Data), refs("weights", m.Weights),
		raw("job", m.Job, MaxRaw, true),
		raw("plan", m.Plan, MaxRaw, false),
		within("generation", m.Generation, 0, maxGeneration),
		within("timeout_ms", m.Timeout, 0, 3_600_000),
		m.Resume.check(),
		digestKey(m.DigestKey),
		m.Check.check(),
	)
}

func (c *Check) check() error {
	if c == nil {
		return nil
	}
	if n := len(c.Stretches); n < 1 || n > MaxStretches {
		return fmt.Errorf("a check of %d stretches, want 1 to %d", n, MaxStretches)
	}
	at := c.From
	for _, s := range c.Stretches {
		if n := len(s.Plans); n < 1 || n > MaxStages {
			return fmt.Errorf("a stretch with %d plans, want 1 to %d", n, MaxStages)
		}
		for _, p := range s.Plans {
			if err := raw("a stretch's plan", p, MaxRaw, true); err != nil {
				return err
			}
		}
		if err := first(within("from", at, 0, maxSteps-1), within("until", s.Until, at+1, maxSteps)); err != nil {
			return fmt.Errorf("stretch: %w", err)
		}
		at = s.Until
	}
	return nil
}

// digestKey checks the key of a stage's digests: 16 bytes in hex, or none.
func digestKey(s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 0 && len(b) != 16 {
		return fmt.Errorf("a digest_key of %d letters, want 32 hexadecimal digits or none", len(s))
	}
	return nil
}

func (r *Resume) check() error {
	if r == nil {
		return nil
	}
	if len(r.Parts) == 0 || len(r.Parts) > MaxParts {
		return fmt.Errorf("%d parts to resume from, want 1 to %d", len(r.Parts), MaxParts)
	}
	for _, p := range r.Parts {
		err := first(p.Ref.check(), within("part's start", p.Start, 0, maxNodes-1), within("part's end", p.End, p.Start+1, maxNodes))
		if err != nil {
			return err
		}
	}
	return raw("position", r.Position, MaxPosition, true)
}

func (m *Signal) check() error {
	if m.To == "" && m.From == "" {
		return fmt.Errorf("neither to nor from is set")
	}
	for _, id := range []string{m.To, m.From} {
		if id == "" {
			continue
		}
		if err := CheckName(id); err != nil {
			return err
		}
	}
	return first(CheckName(m.Run), raw("body", m.Body, MaxSignal, true))
}

func (m *Ready) check() error {
	if len(m.Links) > MaxStages {
		return fmt.Errorf("%d links, the limit is %d", len(m.Links), MaxStages)
	}
	for _, l := range m.Links {
		if err := first(CheckName(l.Peer), within("rtt_ns", l.RTT, 0, maxBytes)); err != nil {
			return fmt.Errorf("link: %w", err)
		}
	}
	return first(CheckName(m.Run), within("peak_bytes", m.Peak, 0, maxBytes))
}

func (m *Start) check() error { return CheckName(m.Run) }

func (m *Progress) check() error {
	if len(m.Losses) > MaxLosses {
		return fmt.Errorf("%d losses, the limit is %d", len(m.Losses), MaxLosses)
	}
	if len(m.Vals) > MaxVals {
		return fmt.Errorf("%d validation passes, the limit is %d", len(m.Vals), MaxVals)
	}
	if len(m.Digests) > MaxDigests {
		return fmt.Errorf("%d digests, the limit is %d", len(m.Digests), MaxDigests)
	}
	for _, d := range m.Digests {
		if err := first(within("step", d.Step, 0, maxSteps), checkSums(d.Sums), checkRings(d), checkOpen(d.Open)); err != nil {
			return fmt.Errorf("digest: %w", err)
		}
	}
	for _, l := range m.Losses {
		if err := first(within("step", l.Step, 0, maxSteps), within("epoch", l.Epoch, 0, maxEpoch)); err != nil {
			return err
		}
	}
	for _, v := range m.Vals {
		err := first(
			within("step", v.Step, 0, maxSteps), within("epoch", v.Epoch, 0, maxEpoch),
			within("total", v.Total, 0, maxSteps), within("correct", v.Correct, 0, v.Total),
			within("metrics", int64(len(v.Metrics)), 0, MaxMetrics),
		)
		for i, m := range v.Metrics {
			err = first(err, CheckName(m.Name))
			if slices.ContainsFunc(v.Metrics[:i], func(o Metric) bool { return o.Name == m.Name }) {
				err = first(err, fmt.Errorf("metric %q stands twice", m.Name))
			}
		}
		if err != nil {
			return err
		}
	}
	return first(
		CheckName(m.Run),
		within("stage", m.Stage, 0, MaxStages-1),
		within("step", m.Step, 0, maxSteps),
		within("samples", m.Samples, 0, maxSteps),
		within("wire_out", m.Out, 0, maxBytes), within("wire_in", m.In, 0, maxBytes), within("raw_out", m.Raw, 0, maxBytes),
		within("average_out", m.Shared, 0, maxBytes), within("waited_ms", m.Waited, 0, maxSteps), within("replicas", int64(m.Share), 0, maxReplicas),
		within("rss_bytes", m.RSS, 0, maxBytes),
		number("busy", m.Busy, 1<<16), number("flops", m.FLOPs, maxFLOPs),
	)
}

// checkSums checks a digest's sums.
func checkSums(s string) error {
	if len(s) == 0 || len(s) > maxSums || len(s)%32 != 0 {
		return fmt.Errorf("sums of %d characters, want 32 to %d", len(s), maxSums)
	}
	return checkHex(s)
}

// checkRings checks a digest's sums of rings.
func checkRings(d Digest) error {
	if n := len(d.Rings); n > maxRings || n%16 != 0 || n > 0 && !d.Round {
		return fmt.Errorf("sums of rings of %d characters, want at most %d, with a round's average only", n, maxRings)
	}
	return checkHex(d.Rings)
}

// checkOpen checks the counts of an open digest.
func checkOpen(ns []int) error {
	if len(ns) != 0 && len(ns) != 4 {
		return fmt.Errorf("%d counts of an open digest, want 4", len(ns))
	}
	for _, n := range ns {
		if err := within("count", n, 0, maxNodes); err != nil {
			return err
		}
	}
	return nil
}

func checkHex(s string) error {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("sums %.80q are not lower-case hex", s)
		}
	}
	return nil
}

func (m *Saved) check() error {
	return first(
		CheckName(m.Run), within("stage", m.Stage, 0, MaxStages-1),
		within("step", m.Step, 0, maxSteps), within("epoch", m.Epoch, 0, maxEpoch),
		m.Blob.check(), raw("position", m.Position, MaxPosition, false),
	)
}

func (m *Checkpoint) check() error { return CheckName(m.Run) }

func (m *Held) check() error {
	return first(
		CheckName(m.Run), within("stage", m.Stage, 0, MaxStages-1), within("step", m.Step, 0, maxSteps),
		m.Blob.check(), raw("position", m.Position, MaxPosition, false),
	)
}

func (m *Bring) check() error {
	return first(CheckName(m.Run), within("stage", m.Stage, 0, MaxStages-1), m.Blob.check())
}

func (m *Leaving) check() error { return text("reason", m.Reason, MaxText) }

func (m *Fetching) check() error {
	return first(CheckName(m.Run), within("want_bytes", m.Want, 0, maxBytes), within("have_bytes", m.Have, 0, m.Want))
}

func (m *Done) check() error {
	if len(m.States) > MaxStates {
		return fmt.Errorf("%d states, the limit is %d", len(m.States), MaxStates)
	}
	for _, s := range m.States {
		if err := first(within("cluster", s.Cluster, 0, MaxStages-1), within("stage", s.Stage, 0, MaxStages-1), CheckSHA256(s.SHA256)); err != nil {
			return fmt.Errorf("state: %w", err)
		}
	}
	return first(CheckName(m.Run), within("stage", m.Stage, 0, MaxStages-1), within("step", m.Step, 0, maxSteps))
}

func (m *Stop) check() error {
	if m.Mode != Graceful && m.Mode != Now {
		return fmt.Errorf("stop mode %.32q, want %q or %q", m.Mode, Graceful, Now)
	}
	return first(CheckName(m.Run), text("reason", m.Reason, MaxText))
}

func (m *Failed) check() error {
	switch m.Kind {
	case "", FailedMemory, FailedBlob, FailedRound, FailedOther:
		if m.Peer != "" {
			return fmt.Errorf("a failure of kind %q names the peer %.64q", m.Kind, m.Peer)
		}
	case FailedPeer:
		if err := CheckName(m.Peer); err != nil {
			return fmt.Errorf("peer: %w", err)
		}
	case FailedDiverged:
		if m.Peer != "" {
			if err := CheckName(m.Peer); err != nil {
				return fmt.Errorf("peer: %w", err)
			}
		}
	default:
		return fmt.Errorf("failure of kind %.32q, want %q, %q, %q, %q, %q or %q", m.Kind, FailedPeer, FailedMemory, FailedDiverged, FailedBlob, FailedRound, FailedOther)
	}
	return first(CheckName(m.Run), within("stage", m.Stage, 0, MaxStages-1), text("error", m.Error, MaxText))
}

func (m *Bye) check() error { return text("reason", m.Reason, MaxText) }

func (m *Ping) check() error { return within("rtt_ns", m.RTT, 0, maxBytes) }

func (m *Pong) check() error { return nil }

func (m *Ack) check() error { return nil }
