package server_test

// Members that send messages of every type, valid and almost valid, in any order.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ravnest/ravnest/engine/pipeline/snapshot"
	"github.com/ravnest/ravnest/signaling/client"
	"github.com/ravnest/ravnest/signaling/proto"
	"github.com/ravnest/ravnest/signaling/server"
	"github.com/ravnest/ravnest/signaling/store"
)

// everyMessage returns a message of every type.
func everyMessage() []proto.Message {
	return []proto.Message{
		&proto.Hello{}, &proto.Welcome{}, &proto.Error{}, &proto.Assign{}, &proto.Signal{}, &proto.Ready{}, &proto.Start{}, &proto.Progress{}, &proto.Saved{},
		&proto.Done{}, &proto.Stop{}, &proto.Failed{}, &proto.Checkpoint{}, &proto.Leaving{}, &proto.Fetching{}, &proto.Bye{}, &proto.Ping{}, &proto.Pong{},
	}
}

// talker makes random messages from values that a member may know.
type talker struct {
	rng  *rand.Rand
	ids  []string // of members
	runs []string
	// sly ones send only what a provider may send, so that they are kept longer.
	sly   bool
	stage int // its own, as far as it has been told
}

func (w *talker) pick(s ...string) string { return s[w.rng.IntN(len(s))] }

// text returns a string for a field of that name.
func (w *talker) text(field string) string {
	if w.rng.IntN(12) == 0 && (!w.sly || field == "Reason" || field == "Error") {
		return w.pick("", "\n\x1b[2J", "../../etc/passwd", "\u202e", "\xff", strings.Repeat("x", 1<<w.rng.IntN(15)))
	}
	switch field {
	case "Run":
		return w.pick(w.runs...)
	case "To", "From", "ID", "Peer":
		return w.pick(w.ids...)
	case "SHA256":
		return strings.Repeat(w.pick("a", "0", "f"), 64)
	case "Mode":
		return w.pick("graceful", "now")
	case "Kind":
		return w.pick("", "peer", "memory", "diverged", "blob", "other")
	case "Class":
		return w.pick("fma", "nofma")
	case "Code":
		return w.pick("stopped", "protocol", "full")
	}
	return w.pick("a", "node_0", "honest_0", "why")
}

// fill gives every field of a message a random value.
func (w *talker) fill(v reflect.Value, field string) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			w.fill(v.Field(i), v.Type().Field(i).Name)
		}
	case reflect.Pointer:
		if w.rng.IntN(2) == 0 {
			v.Set(reflect.New(v.Type().Elem()))
			w.fill(v.Elem(), field)
		}
	case reflect.String:
		v.SetString(w.text(field))
	case reflect.Int, reflect.Int64:
		if w.sly && field == "Stage" {
			v.SetInt(int64(w.stage))
			return
		}
		n := []int64{0, 1, 2, 3, 20, 255, -1, 1 << 20, math.MaxInt64, math.MinInt64}
		v.SetInt(n[w.rng.IntN(6+w.rng.IntN(len(n)-5))])
	case reflect.Uint64:
		v.SetUint(w.rng.Uint64N(4))
	case reflect.Float64:
		f := []float64{0, 1, 0.5, 1e300, -1e300, math.Inf(1), math.NaN()}
		v.SetFloat(f[w.rng.IntN(3+w.rng.IntN(len(f)-2))])
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes([]byte(w.pick(`{}`, `1`, `{"step":20,"epoch":1}`, `{"step":3,"seq":1e9}`, `[[[[]]]]`, `"`+strings.Repeat("y", 1<<w.rng.IntN(18))+`"`)))
			return
		}
		n := w.rng.IntN(3) * w.rng.IntN(20)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			w.fill(v.Index(i), field)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range w.rng.IntN(3) {
			e := reflect.New(v.Type().Elem()).Elem()
			w.fill(e, field)
			v.SetMapIndex(reflect.ValueOf(w.pick("inputs", "safetensors", "..")), e)
		}
	}
}

// message returns a random message as sent on the wire, often a valid one.
func (w *talker) message() []byte {
	all := everyMessage()
	if w.sly {
		all = []proto.Message{
			&proto.Signal{}, &proto.Ready{}, &proto.Progress{}, &proto.Saved{}, &proto.Done{}, &proto.Failed{}, &proto.Leaving{}, &proto.Fetching{}, &proto.Pong{},
		}
	}
	for range 30 {
		m := all[w.rng.IntN(len(all))]
		w.fill(reflect.ValueOf(m).Elem(), "")
		b, err := proto.Encode(m)
		if err != nil && w.rng.IntN(20) > 0 {
			continue // try again for a valid one
		}
		if err != nil {
			body, err := json.Marshal(m)
			if err != nil {
				continue // NaN
			}
			b = fmt.Appendf(nil, `{"v":%d,"type":%q,"body":%s}`, proto.Version, m.Type(), body)
		}
		if w.rng.IntN(25) == 0 && !w.sly { // nearly
			switch i := w.rng.IntN(len(b)); w.rng.IntN(4) {
			case 0:
				b[i] ^= 1 << w.rng.IntN(8)
			case 1:
				b = slices.Delete(b, i, i+1)
			case 2:
				b = slices.Insert(b, i, b[i])
			case 3:
				b = b[:i]
			}
		}
		return b
	}
	return []byte(`{}`)
}

// talk joins as a member, again and again, and sends what w makes until ctx ends.
// It counts the messages that were sent.
func (w *talker) talk(ctx context.Context, addr, name string, sent *atomic.Int64) {
	for i := 0; ctx.Err() == nil; i++ {
		func() {
			ws, _, err := websocket.Dial(ctx, "ws://"+addr+proto.JoinPath, nil)
			if err != nil {
				return
			}
			defer ws.CloseNow()
			ws.SetReadLimit(proto.MaxMessage)
			h := hello(name)
			b, err := proto.Encode(&h)
			if err != nil || ws.Write(ctx, websocket.MessageText, b) != nil {
				return
			}
			// Learn from what the host says, as a clever attacker would.
			var mu sync.Mutex
			var wg sync.WaitGroup
			defer wg.Wait()
			defer ws.CloseNow()
			wg.Go(func() {
				for {
					_, b, err := ws.Read(ctx)
					if err != nil {
						return
					}
					m, _ := proto.Decode(b)
					mu.Lock()
					switch m := m.(type) {
					case *proto.Assign:
						w.runs, w.stage = []string{m.Run, m.Run, m.Run, "digits-1"}, m.Stage
						if b, err := proto.Encode(&proto.Ready{Run: m.Run}); err == nil {
							_ = ws.Write(ctx, websocket.MessageText, b)
						}
						for _, p := range m.Peers {
							w.ids = append(w.ids[:min(len(w.ids), 8)], p.ID)
						}
					case *proto.Ping:
						if b, err := proto.Encode(&proto.Pong{Seq: m.Seq}); err == nil {
							_ = ws.Write(ctx, websocket.MessageText, b)
						}
					}
					mu.Unlock()
				}
			})
			for {
				mu.Lock()
				b := w.message()
				mu.Unlock()
				if ws.Write(ctx, websocket.MessageText, b) != nil {
					return
				}
				sent.Add(1)
				if time.Sleep(time.Duration(w.rng.IntN(3)) * time.Millisecond); w.sly {
					time.Sleep(20 * time.Millisecond)
				}
			}
		}()
		time.Sleep(time.Millisecond)
	}
}

// honest trains until hold is closed, saves, and is done. If it is told to stop, it trains
// again when assigned again. It ends when its session does.
func honest(ctx context.Context, c *client.Conn, hold <-chan struct{}) error {
	msgs := make(chan proto.Message, 256)
	lost := make(chan error, 1)
	go func() {
		for {
			m, err := c.Recv(ctx)
			if err != nil {
				lost <- err
				return
			}
			msgs <- m
		}
	}()
	var a *proto.Assign
	training := false
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	step := int64(0)
	for {
		var err error
		select {
		case err := <-lost:
			return err
		case <-tick.C:
			if !training {
				continue
			}
			select {
			case <-hold:
				training = false
				var ref proto.Ref
				if ref, err = c.Upload(ctx, a.Run, a.Stage, fmt.Appendf(nil, "stage %d", a.Stage)); err == nil {
					if err = c.Send(ctx, &proto.Saved{Run: a.Run, Stage: a.Stage, Step: 20, Epoch: 1, Blob: ref}); err == nil {
						err = c.Send(ctx, &proto.Done{Run: a.Run, Stage: a.Stage, Step: 20})
					}
				}
			default:
				step++
				err = c.Send(ctx, &proto.Progress{Run: a.Run, Stage: a.Stage, Step: min(step, 19), Samples: step, Out: step, In: step})
			}
		case m := <-msgs:
			switch m := m.(type) {
			case *proto.Assign:
				a, training = m, false
				err = c.Send(ctx, &proto.Ready{Run: a.Run, Peak: 1 << 20})
			case *proto.Start:
				training = a != nil && m.Run == a.Run
			case *proto.Stop:
				training = training && m.Mode != proto.Now
			}
		}
		// A run that was just stopped takes no more uploads; the session goes on.
		if e := (*proto.Error)(nil); err != nil && !errors.As(err, &e) {
			return err
		}
	}
}

// TestStrangersMessages has members outside and inside of a run send messages of every type.
// The host must neither panic nor grow, honest members must keep their sessions, and a run of
// theirs must succeed.
func TestStrangersMessages(t *testing.T) {
	for _, inside := range []bool{false, true} {
		t.Run(fmt.Sprintf("inside=%v", inside), func(t *testing.T) { strangersMessages(t, inside, 2*time.Second) })
	}
}

// placing returns a job for three honest members. If inside is set, a stranger has the stage
// between two of them until the attack is over: the worst case.
func placing(inside bool, over *atomic.Bool, within *atomic.Int64) server.Job {
	job := testJob(blobs{}, 3)
	plan := job.Plan
	job.Plan = func(ctx context.Context, ask server.Ask) ([]server.Assignment, error) {
		pool := ask.Pool
		var placed []server.Member
		for _, m := range pool {
			if strings.HasPrefix(m.Name, "honest") {
				placed = append(placed, m)
			}
		}
		if placed = placed[:min(3, len(placed))]; len(placed) < 3 {
			return nil, fmt.Errorf("%w: not all honest members are there", server.ErrPool)
		}
		if inside && !over.Load() {
			i := slices.IndexFunc(pool, func(m server.Member) bool { return strings.HasPrefix(m.Name, "node") })
			if i < 0 {
				return nil, fmt.Errorf("%w: no stranger is there", server.ErrPool)
			}
			placed[1] = pool[i]
			within.Add(1)
		}
		ask.Pool = placed
		as, err := plan(ctx, ask)
		for i := range as {
			as[i].Segment = snapshot.Segment{From: i, To: i + 1}
		}
		return as, err
	}
	return job
}

func strangersMessages(t *testing.T, inside bool, length time.Duration) {
	var over atomic.Bool    // the attack is over
	var within atomic.Int64 // number of plans that place a stranger
	s, addr := start(t, server.Config{Store: &store.Mem{}, Away: 2 * time.Second, Grace: 50 * time.Millisecond, Checkpoint: 100 * time.Millisecond})
	job := placing(inside, &over, &within)
	ids := []string{"nobody"}
	hold := make(chan struct{})
	ended := make(chan error, 4)
	ctx, cancel := context.WithCancel(t.Context())
	for i := range 3 {
		c := joins(t, addr, "", fmt.Sprintf("honest_%d", i))
		ids = append(ids, c.Welcome().ID)
		go func() { ended <- honest(ctx, c, hold) }()
	}
	before := inUse()

	hostile, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var sent atomic.Int64
	for i := range 6 {
		w := &talker{rng: rand.New(rand.NewPCG(uint64(i), 9)), ids: slices.Clone(ids), runs: []string{"digits-1", "digits-2", "x"}, sly: i%2 == 0}
		wg.Go(func() { w.talk(hostile, addr, fmt.Sprintf("node_%d", i), &sent) })
	}
	var ev events
	type end struct {
		result
		after bool
	}
	runs := make(chan end, 1)
	go func() {
		for { // until a run that began after the attack ends
			after := over.Load()
			r, err := s.Run(ctx, job, ev.on)
			if err == nil || after || ctx.Err() != nil {
				runs <- end{result{r, err}, after}
				return
			}
		}
	}()
	attempts := func() int {
		_, n := has[server.Started](&ev)
		return n
	}
	shown := func() bool {
		return attempts() > 0 && sent.Load() >= 100 && (!inside || within.Load() > 0)
	}
	for begin := time.Now(); time.Since(begin) < length || !shown() && time.Since(begin) < patience; time.Sleep(length / 4) {
		grows(t, before, 64<<20)
	}
	stop()
	wg.Wait()
	over.Store(true)
	close(hold)
	// Planning is tried again when somebody joins.
	last := joins(t, addr, "", "honest_3")
	go func() { ended <- honest(ctx, last, hold) }()
	select {
	case r := <-runs:
		if r.err != nil {
			t.Errorf("the honest members' run: %v (after the attack: %v)", r.err, r.after)
		}
	case err := <-ended:
		t.Errorf("an honest member lost its session: %v", err)
	case <-time.After(2 * patience):
		ev.mu.Lock()
		for _, e := range ev.all {
			switch e.(type) {
			case server.Joined, server.Left, server.Progress:
			default:
				t.Logf("%T %+v", e, e)
			}
		}
		ev.mu.Unlock()
		t.Errorf("the honest members' run does not end; the host says %+v", s.Status())
	}
	select {
	case err := <-ended:
		t.Errorf("an honest member lost its session: %v", err)
	default:
	}
	t.Logf("%d messages, %d attempts began, %d plans had a stranger in them", sent.Load(), attempts(), within.Load())
	if !shown() {
		t.Error("the test proves nothing")
	}
	grows(t, before, 32<<20)
	cancel()
	for range cap(ended) {
		<-ended
	}
}
