package provider

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"

	"github.com/ravnest/ravnest/engine/transport/mem"
	"github.com/ravnest/ravnest/engine/wire"
	"github.com/ravnest/ravnest/signaling/proto"
)

// TestConnections: an idle connection takes in whatever comes, is taken once, and only while it is of use.
func TestConnections(t *testing.T) {
	var wg sync.WaitGroup
	s := &connections{wg: &wg}
	idle := func(peer string) (l *connection, far *mem.Pipe) {
		near, far := mem.Pair(mem.Faults{}, mem.Faults{Queue: 1})
		l = &connection{peer: peer, made: "r1", gen: 1, pipe: near}
		s.put(l)
		return l, far
	}

	l, far := idle("a")
	for range 10 { // a queue holds one
		if err := far.Send(t.Context(), make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if s.take("b", 2) != nil || s.take("a", 1) != nil {
		t.Error("took another's connection, or one for a generation that it has seen")
	}
	if s.take("a", 2) != l || s.take("a", 2) != nil {
		t.Error("the connection cannot be taken once")
	}
	s.put(l)
	s.only([]proto.Peer{{ID: "a"}})
	if s.take("a", 2) != l {
		t.Error("the connection of a peer in the plan was closed")
	}
	s.put(l)
	s.only(nil)
	if _, err := far.Recv(t.Context()); err == nil {
		t.Error("the connection of a peer that is not in the plan stays open")
	}
	<-l.idle
	if s.take("a", 2) != nil {
		t.Error("took a connection that was closed")
	}

	l, far = idle("a")
	_ = far.Close()
	<-l.idle
	if s.take("a", 2) != nil {
		t.Error("took a connection whose peer is gone")
	}

	l, far = idle("a")
	if err := l.pipe.Send(t.Context(), make([]byte, wire.MaxFrame)); err != nil {
		t.Fatal(err)
	}
	if err := l.pipe.Send(t.Context(), make([]byte, wire.MaxFrame)); err != nil {
		t.Fatal(err)
	}
	if s.take("a", 2) != nil {
		t.Error("took a connection with a backlog")
	}
	wg.Wait()
	if err := far.Send(t.Context(), make([]byte, 1)); err == nil {
		t.Error("the connection with a backlog stays open")
	}
}

// TestLateSignals: what a connection has to say while no attempt uses it, waits for one.
func TestLateSignals(t *testing.T) {
	var said []string
	l := &connection{}
	l.use(nil)
	for _, s := range []string{"1", "2"} {
		if err := l.send(json.RawMessage(s)); err != nil {
			t.Fatal(err)
		}
	}
	l.use(func(b json.RawMessage) error { said = append(said, string(b)); return errors.New("away") })
	if err := l.send(json.RawMessage("3")); err == nil || len(said) != 3 || said[0] != "1" || said[2] != "3" {
		t.Errorf("said %v, %v", said, err)
	}
}
