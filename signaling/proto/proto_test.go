package proto

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

var sum = strings.Repeat("0123456789abcdef", 4)

// samples holds one valid message of every type.
func samples() []Message {
	ref := Ref{SHA256: sum, Size: 12}
	return []Message{
		&Hello{
			Token: "t", Name: "node_0", Agent: "ravnest-provider 0.1", Platform: "linux/amd64", Class: ClassFMA,
			RAM: 8 << 30, Threads: 2, Bench: Bench{GEMM: 80.5, Conv: 60, Up: 1e8, Down: 2e8},
			Return: &Return{Session: "0f", Got: 12}, Key: sum, Pass: true, Address: "https://example.org/train",
		},
		&Challenge{Nonce: sum},
		&Proof{Signature: sum + sum},
		&Pass{Token: "pass.x"},
		&Welcome{
			Agent: "ravnest/v1.2.3", ID: "p1", Name: "node_0", Session: "0f", Heartbeat: 1500, Timeout: 4500, Keep: 4500, Got: 3,
			ICE: []ICEServer{{URLs: []string{"stun:127.0.0.1:3478"}, Username: "u", Credential: "c"}},
		},
		&Error{Code: BadToken, Message: "the join token is wrong", Hint: "ask <the> requester & retry"},
		&Assign{
			Run: "run-1", Cluster: 0, Stage: 1, Stages: 3, Name: "node_1", Job: json.RawMessage(`{"a":"<b>"}`), Graph: ref,
			Data: map[string]Ref{"inputs": ref, "labels": ref}, Weights: map[string]Ref{"params": ref},
			Peers: []Peer{{Stage: 0, ID: "p1", Name: "node_0", Class: ClassFMA}}, Plan: json.RawMessage(`[1,2]`),
			Generation: 3, DigestKey: strings.Repeat("0f", 16), Resume: &Resume{
				Position: json.RawMessage(`{"epoch":1}`),
				Parts:    []Part{{Ref: ref, Start: 0, End: 9}, {Ref: ref, Start: 9, End: 27}},
			},
		},
		&Assign{
			Run: "run-check-1", Stages: 1, Name: "node_4", Job: json.RawMessage(`{"a":1}`), Graph: ref, Check: &Check{
				From: 7, Stretches: []Stretch{{Until: 9, Plans: []json.RawMessage{[]byte(`{"train":1}`), []byte(`{}`)}}, {Until: 12, Plans: []json.RawMessage{[]byte(`{}`)}}},
			},
		},
		&Signal{Run: "run-1", To: "p2", From: "p1", Body: json.RawMessage(`{"sdp":"v=0\r\n"}`)},
		&Ready{Run: "run-1", Peak: 310 << 20},
		&Start{Run: "run-1"},
		&Progress{
			Run: "run-1", Stage: 2, Step: 17, Losses: []Loss{{Step: 16, Loss: 0.0899}, {Step: 17, Loss: Real(math.NaN())}},
			Vals: []Val{{Step: 17, Epoch: 1, Correct: 700, Total: 719}}, Digests: []Digest{{Step: 17, Sums: sum}, {Step: 18, Round: true, Sums: sum, Rings: sum[:48]}, {Step: 19, Sums: sum, Open: []int{3, 0, 2, 1}}}, Samples: 1088, Out: 9, In: 8, Busy: 0.5, RSS: 1 << 25, FLOPs: 1e9,
		},
		&Saved{Run: "run-1", Stage: 2, Step: 17, Epoch: 1, Blob: ref, Position: json.RawMessage(`{"epoch":1,"update":17}`)},
		&Checkpoint{Run: "run-1"},
		&Checkpoint{Run: "run-1", Hold: true},
		&Held{Run: "run-1", Stage: 1, Step: 7, Blob: Ref{SHA256: strings.Repeat("a", 64), Size: 9}, Position: json.RawMessage(`{"step":7}`)},
		&Bring{Run: "run-1", Stage: 1, Blob: Ref{SHA256: strings.Repeat("a", 64), Size: 9}},
		&Leaving{Reason: "the lid was closed"},
		&Fetching{Run: "run-1", Have: 9, Want: 12},
		&Done{Run: "run-1", Stage: 2, Step: 17},
		&Done{Run: "run-check-1", Step: 17, States: []State{{Cluster: 1, Stage: 2, SHA256: sum}}},
		&Stop{Run: "run-1", Reason: "interrupted", Mode: Graceful},
		&Failed{Run: "run-1", Stage: 2, Error: "out of memory", Kind: FailedMemory},
		&Failed{Run: "run-1", Stage: 2, Error: "lost node_1", Kind: FailedPeer, Peer: "p1"},
		&Bye{Reason: "closing"},
		&Ping{Seq: 3, RTT: 120_000, Got: 7},
		&Pong{Seq: 3, Got: 9},
		&Ack{Got: 32},
	}
}

func TestRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	for _, m := range samples() {
		b, err := Encode(m)
		if err != nil {
			t.Fatalf("%s: %v", m.Type(), err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatalf("%s: %v", m.Type(), err)
		}
		again, err := Encode(got)
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%s changed on the way:\n%s\n%s (%v)", m.Type(), b, again, err)
		}
		if _, isProgress := m.(*Progress); !isProgress && !reflect.DeepEqual(m, got) { // NaN differs from itself
			t.Errorf("%s: got %+v, want %+v", m.Type(), got, m)
		}
		seen[m.Type()] = true
	}
	if len(seen) != 24 {
		t.Errorf("%d types have samples, want 24", len(seen))
	}
}

func TestReal(t *testing.T) {
	// A float32 loss must survive unchanged, since losses.txt is compared byte by byte.
	for _, f := range []float64{0, 1.0 / 3, float64(float32(0.0899)), math.MaxFloat64, math.SmallestNonzeroFloat64, math.Inf(1), math.Inf(-1), math.NaN(), math.Copysign(0, -1)} {
		b, err := json.Marshal(Real(f))
		if err != nil {
			t.Fatal(err)
		}
		var r Real
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		if math.Float64bits(float64(r)) != math.Float64bits(f) && !(math.IsNaN(f) && math.IsNaN(float64(r))) {
			t.Errorf("%g became %g by %s", f, float64(r), b)
		}
	}
	var r Real
	if json.Unmarshal([]byte(`"Infinity"`), &r) == nil {
		t.Error("an unknown word was read as a number")
	}
}

// checking is an envelope of an assignment to check stretches.
func checking(stretches string) string {
	return `{"v":V,"type":"assign","body":{"run":"r","name":"n","stages":1,"job":1,"graph":{"sha256":"` + sum + `","size":1},"check":{"from":5,"stretches":[` + stretches + `]}}}`
}

// ours puts this program's version in the place of V in an envelope.
func ours(envelope string) string {
	return strings.Replace(envelope, `{"v":V,`, fmt.Sprintf(`{"v":%d,`, Version), 1)
}

func TestDecodeRefuses(t *testing.T) {
	long := strings.Repeat("x", MaxText+1)
	tests := []struct {
		name, in string
		want     error
		text     string
	}{
		{"empty", ``, ErrMalformed, ""},
		{"not JSON", `hello`, ErrMalformed, ""},
		{"an array", `[1]`, ErrMalformed, ""},
		{"no version", `{"type":"pong","body":{"seq":1}}`, ErrMalformed, "no protocol version"},
		{"unknown type", `{"v":V,"type":"format_disk","body":{}}`, ErrUnknownType, `"format_disk"`},
		{"no body", `{"v":V,"type":"pong"}`, ErrMalformed, "no body"},
		{"null body", `{"v":V,"type":"pong","body":null}`, ErrMalformed, "no body"},
		{"unknown field", `{"v":V,"type":"pong","body":{"seq":1,"x":2}}`, ErrMalformed, "unknown field"},
		{"unknown envelope field", `{"v":V,"type":"pong","body":{"seq":1},"x":2}`, ErrMalformed, "unknown field"},
		{"trailing data", `{"v":V,"type":"pong","body":{"seq":1}} {}`, ErrMalformed, ""},
		{"wrong field type", `{"v":V,"type":"pong","body":{"seq":"1"}}`, ErrMalformed, ""},
		{"negative seq", `{"v":V,"type":"pong","body":{"seq":-1}}`, ErrMalformed, ""},
		{"class", `{"v":V,"type":"hello","body":{"class":"x87"}}`, ErrMalformed, "numeric class"},
		{"name with a path", `{"v":V,"type":"hello","body":{"class":"fma","name":"../etc"}}`, ErrMalformed, "only letters"},
		{"negative RAM", `{"v":V,"type":"hello","body":{"class":"fma","ram_bytes":-1}}`, ErrMalformed, "ram_bytes"},
		{"benchmark", `{"v":V,"type":"hello","body":{"class":"fma","bench":{"gemm_gflops":-3}}}`, ErrMalformed, "gemm_gflops"},
		{"token", `{"v":V,"type":"hello","body":{"class":"fma","token":"\u001b[2J"}}`, ErrMalformed, "control character"},
		{"long token", `{"v":V,"type":"hello","body":{"class":"fma","token":"` + long + `"}}`, ErrMalformed, "limit"},
		{"hash", `{"v":V,"type":"saved","body":{"run":"r","blob":{"sha256":"AB","size":1}}}`, ErrMalformed, "SHA-256"},
		{"upper-case hash", `{"v":V,"type":"saved","body":{"run":"r","blob":{"sha256":"` + strings.ToUpper(sum) + `","size":1}}}`, ErrMalformed, "hex"},
		{"state", `{"v":V,"type":"done","body":{"run":"r","states":[{"sha256":"` + strings.ToUpper(sum) + `"}]}}`, ErrMalformed, "state: SHA-256"},
		{"too many states", `{"v":V,"type":"done","body":{"run":"r","states":[{}` + strings.Repeat(",{}", MaxStates) + `]}}`, ErrMalformed, "limit"},
		{"check of nothing", checking(``), ErrMalformed, "a check of 0 stretches"},
		{"check of too much", checking(`{}` + strings.Repeat(`,{}`, MaxStretches)), ErrMalformed, "a check of 65 stretches"},
		{"stretch without plans", checking(`{"until":9}`), ErrMalformed, "0 plans"},
		{"stretch that goes back", checking(`{"until":9,"plans":[1]},{"until":9,"plans":[1]}`), ErrMalformed, "until is 9"},
		{"counts", `{"v":V,"type":"progress","body":{"run":"r","digests":[{"sums":"` + sum + `","open":[1,2,3]}]}}`, ErrMalformed, "3 counts"},
		{"negative count", `{"v":V,"type":"progress","body":{"run":"r","digests":[{"sums":"` + sum + `","open":[1,2,3,-1]}]}}`, ErrMalformed, "count is -1"},
		{"stage", `{"v":V,"type":"done","body":{"run":"r","stage":-1}}`, ErrMalformed, "stage"},
		{"correct over total", `{"v":V,"type":"progress","body":{"run":"r","vals":[{"correct":2,"total":1}]}}`, ErrMalformed, "correct"},
		{"stop mode", `{"v":V,"type":"stop","body":{"run":"r","mode":"soon"}}`, ErrMalformed, "mode"},
		{"signal without body", `{"v":V,"type":"signal","body":{"run":"r","to":"p"}}`, ErrMalformed, "body"},
		{"signal to nobody", `{"v":V,"type":"signal","body":{"run":"r","body":1}}`, ErrMalformed, "neither"},
		{"signal too large", `{"v":V,"type":"signal","body":{"run":"r","to":"p","body":"` + strings.Repeat("x", MaxSignal) + `"}}`, ErrMalformed, "limit"},
		{"many losses", `{"v":V,"type":"progress","body":{"run":"r","losses":[{}` + strings.Repeat(`,{}`, MaxLosses) + `]}}`, ErrMalformed, "losses"},
		{"no parts to resume from", `{"v":V,"type":"assign","body":{"run":"r","name":"n","stages":1,"job":{},"graph":{"sha256":"` + sum + `"},"resume":{"position":{},"parts":[]}}}`, ErrMalformed, "parts"},
		{"resuming nowhere", `{"v":V,"type":"assign","body":{"run":"r","name":"n","stages":1,"job":{},"graph":{"sha256":"` + sum + `"},"resume":{"parts":[{"sha256":"` + sum + `","start":0,"end":1}]}}}`, ErrMalformed, "position"},
		{"empty part", `{"v":V,"type":"assign","body":{"run":"r","name":"n","stages":1,"job":{},"graph":{"sha256":"` + sum + `"},"resume":{"position":{},"parts":[{"sha256":"` + sum + `","start":3,"end":3}]}}}`, ErrMalformed, "end"},
		{"long position", `{"v":V,"type":"saved","body":{"run":"r","blob":{"sha256":"` + sum + `","size":1},"position":"` + strings.Repeat("x", MaxPosition) + `"}}`, ErrMalformed, "position"},
		{"kind of failure", `{"v":V,"type":"failed","body":{"run":"r","stage":0,"error":"","kind":"bad luck"}}`, ErrMalformed, "kind"},
		{"blamed by another kind", `{"v":V,"type":"failed","body":{"run":"r","stage":0,"error":"","kind":"memory","peer":"p1"}}`, ErrMalformed, "peer"},
		{"peer failure without a peer", `{"v":V,"type":"failed","body":{"run":"r","stage":0,"error":"","kind":"peer"}}`, ErrMalformed, "peer"},
		{"fetched more than there is", `{"v":V,"type":"fetching","body":{"run":"r","have_bytes":2,"want_bytes":1}}`, ErrMalformed, "have_bytes"},
		{"many ICE servers", `{"v":V,"type":"welcome","body":{"id":"p1","name":"n","ice_servers":[{"urls":["stun:a"` + strings.Repeat(`,"stun:b"`, MaxICE-1) + `]},{"urls":["stun:c"]}]}}`, ErrMalformed, "17 URLs"},
		{"oversize", `{"v":V,"type":"pong","body":{"seq":1` + strings.Repeat(" ", MaxMessage) + `}}`, ErrTooLarge, ""},
		{"deep", strings.Repeat(`[`, 100_000), ErrMalformed, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Decode([]byte(ours(tt.in)))
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, %v, want %v naming %q", m, err, tt.want, tt.text)
			}
		})
	}
}

func TestVersionMismatchNamesBoth(t *testing.T) {
	// The rest of another version's envelope may have any form.
	_, err := Decode(fmt.Appendf(nil, `{"v":%d,"kind":"hello","payload":[1]}`, Version+1))
	var v *VersionError
	if !errors.As(err, &v) || v.Got != Version+1 || v.Want != Version {
		t.Fatalf("got %v", err)
	}
	if s := err.Error(); !strings.Contains(s, fmt.Sprintf("version %d", Version+1)) || !strings.Contains(s, fmt.Sprintf("version %d", Version)) {
		t.Errorf("%q does not name both versions", s)
	}
}

func TestEncodeRefuses(t *testing.T) {
	huge := json.RawMessage(`"` + strings.Repeat("x", MaxRaw) + `"`)
	for _, m := range []Message{
		&Assign{Run: "r", Name: "n", Stages: 1, Graph: Ref{SHA256: sum}, Job: huge},
		&Signal{Run: "r", To: "p", Body: json.RawMessage(`{`)},
		&Start{},
	} {
		if b, err := Encode(m); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %.60s, %v", m.Type(), b, err)
		}
	}
}

func TestEncodeTidiesText(t *testing.T) {
	b, err := Encode(&Failed{Run: "r", Error: "a\x1b[31mred\x00" + strings.Repeat("é", MaxText)})
	if err != nil {
		t.Fatal(err)
	}
	m, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if s := m.(*Failed).Error; !strings.HasPrefix(s, "a [31mred ") || len(s) > MaxText {
		t.Errorf("got %.40q of %d bytes", s, len(s))
	}
}

// A peer's text becomes a single printable line, whatever it sent, so that it cannot forge
// lines of the terminal or the log.
func TestDecodeTidiesText(t *testing.T) {
	evil := "a\n\r\tb\u001b[2Jc\u202ed\u2066e\u2028f\u200fg\u0085h\ufeffi\U000e0041j \u200d\u00e9"
	want := "a   b [2Jc d e f g h i j \u200d\u00e9"
	body := func(m Message) string {
		b, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`{"v":%d,"type":%q,"body":%s}`, Version, m.Type(), b)
	}
	for _, c := range []struct {
		in  Message
		got func(Message) string
	}{
		{&Hello{Class: ClassFMA, Agent: evil}, func(m Message) string { return m.(*Hello).Agent }},
		{&Hello{Class: ClassFMA, Platform: evil}, func(m Message) string { return m.(*Hello).Platform }},
		{&Failed{Run: "r", Error: evil}, func(m Message) string { return m.(*Failed).Error }},
		{&Leaving{Reason: evil}, func(m Message) string { return m.(*Leaving).Reason }},
		{&Bye{Reason: evil}, func(m Message) string { return m.(*Bye).Reason }},
		{&Stop{Run: "r", Mode: Now, Reason: evil}, func(m Message) string { return m.(*Stop).Reason }},
		{&Error{Code: Full, Message: evil}, func(m Message) string { return m.(*Error).Message }},
		{&Error{Code: Full, Hint: evil}, func(m Message) string { return m.(*Error).Hint }},
	} {
		m, err := Decode([]byte(body(c.in)))
		if err != nil {
			t.Errorf("%s: %v", c.in.Type(), err)
		} else if got := c.got(m); got != want {
			t.Errorf("%s: %q, want %q", c.in.Type(), got, want)
		}
	}
	m, err := Decode([]byte(body(&Bye{Reason: strings.Repeat("\u00e9", MaxText)})))
	if err != nil || len(m.(*Bye).Reason) != MaxText {
		t.Errorf("a long reason: %v", err)
	}
}

func TestCheckToken(t *testing.T) {
	for _, s := range []string{"", "plain", "q83v+/8=", "a&b=c", "100%", "p\u00e2t\u00e9", "\u03a9mega", "a b", strings.Repeat("x", MaxToken)} {
		if err := CheckToken(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"\xff", "a\nb", " a", "a ", "a\u202eb", strings.Repeat("x", MaxToken+1)} {
		if CheckToken(s) == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestErrorIs(t *testing.T) {
	err := error(&Error{Code: NameTaken, Message: "taken", Hint: "choose another"})
	if !errors.Is(err, ErrNameTaken) || errors.Is(err, ErrFull) {
		t.Error("errors.Is does not compare codes")
	}
	if err.Error() != "taken: choose another" {
		t.Errorf("got %q", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		b, err := Encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(ours(`{"v":V,"type":"hello"}`)))
	f.Add([]byte(ours(`{"v":V,"type":"progress","body":{"losses":[{"loss":"NaN"}]}}`)))
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := Decode(in)
		if err != nil {
			return
		}
		once, err := Encode(m)
		if errors.Is(err, ErrTooLarge) {
			return // numbers such as 1e300 can become longer in their shortest form
		}
		if err != nil {
			t.Fatalf("decoded but does not encode: %v", err)
		}
		back, err := Decode(once)
		if err != nil {
			t.Fatalf("does not decode again: %v\n%s", err, once)
		}
		twice, err := Encode(back)
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("unstable: %v\n%s\n%s", err, once, twice)
		}
	})
}

// BenchmarkCodec measures the host's cost for a provider's progress (22 losses) and for
// relaying a signal of the largest size.
func BenchmarkCodec(b *testing.B) {
	for name, m := range map[string]Message{
		"progress": &Progress{Run: "r", Losses: make([]Loss, 22), Samples: 1408, Out: 1 << 20, In: 1 << 20},
		"signal":   &Signal{Run: "r", To: "p", Body: json.RawMessage(`"` + strings.Repeat("x", MaxSignal-2) + `"`)},
	} {
		msg, err := Encode(m)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("decode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if _, err := Decode(msg); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("encode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			for b.Loop() {
				if _, err := Encode(m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
