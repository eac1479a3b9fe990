// The events that a Machine takes and the actions that it returns.

package machine

import (
	"encoding/json"

	"github.com/ravnest/ravnest/engine/pipeline/order"
	"github.com/ravnest/ravnest/signaling/proto"
)

// Event is one of the events below.
type Event interface{ event() }

// Events about the host.
type (
	// Start is the first event.
	Start struct{}
	// Joined says that a host has welcomed this provider.
	Joined struct{}
	// JoinFailed says that a Join failed. Again says that the next try may succeed.
	JoinFailed struct {
		Why   string
		Again bool
	}
	// Lost says that the session with the host is over.
	Lost struct {
		Why     string
		Goodbye bool // the host ended it on purpose
		Again   bool // joining again may help
	}
	// Heard is a message from the host.
	Heard struct{ Msg proto.Message }
)

// Events of an attempt. Those of a run other than the current one are dropped.
type (
	// Fetched reports the progress of the downloads, in bytes.
	Fetched struct {
		Run        string
		Have, Want int64
	}
	// Prepared says that everything has been fetched and connecting begins.
	Prepared struct{ Run string }
	// Linked says that the link to a peer is up.
	Linked struct{ Run, Peer string }
	// Compiled says that all links are up and the stage, which will use at most Peak bytes,
	// can start.
	Compiled struct {
		Run   string
		Peak  int64
		Links []proto.LinkTime
	}
	// Saving says that a save begins or, without Begins, that it has ended.
	Saving struct {
		Run    string
		Begins bool
	}
	// Ended says that the attempt has stopped computing. Its links are still up.
	Ended struct {
		Run     string
		Outcome Outcome
		Step    int64 // number of steps done
		Why     string
		States  []proto.State // with Done, of a check
		Kind    proto.Kind    // with Failed
		Peer    string        // with proto.FailedPeer: its ID
	}
)

// Other events.
type (
	// Leave says that the user wants to leave. A second one has the effect of AtOnce.
	Leave struct {
		Reason string
		AtOnce bool
	}
	// Tick says only that time has passed.
	Tick struct{}
)

func (Start) event()      {}
func (Joined) event()     {}
func (JoinFailed) event() {}
func (Lost) event()       {}
func (Heard) event()      {}
func (Fetched) event()    {}
func (Prepared) event()   {}
func (Linked) event()     {}
func (Compiled) event()   {}
func (Saving) event()     {}
func (Ended) event()      {}
func (Leave) event()      {}
func (Tick) event()       {}

// Action is one of the actions below.
type Action interface{ action() }

// The actions.
type (
	// Join asks for a session with the host. It is answered by Joined or JoinFailed.
	Join struct{}
	// Send sends a message to the host.
	Send struct{ Msg proto.Message }
	// Begin starts an attempt. No other one is active.
	Begin struct{ Assign *proto.Assign }
	// Deliver hands a peer's signal to the attempt.
	Deliver struct {
		Run  string          `json:"run"`
		Peer string          `json:"peer"`
		Body json.RawMessage `json:"body"`
	}
	// Train starts training, in an attempt that has reported Compiled.
	Train struct{ Run string }
	// SetMark sets the mark before the root's next update.
	SetMark struct {
		Run  string
		Mark order.Mark
	}
	// Cancel ends an attempt. It is answered by Ended.
	Cancel struct {
		Run     string     `json:"run"`
		Outcome Outcome    `json:"outcome"`
		Why     string     `json:"why"`
		Kind    proto.Kind `json:"kind,omitempty"`
		Peer    string     `json:"peer,omitempty"`
	}
	// Unlink closes the links of an attempt that has ended, after earlier messages are sent.
	Unlink struct{ Run string }
	// Bring uploads a state that is held in memory.
	Bring struct {
		Run   string
		Stage int
		Blob  proto.Ref
	}
	// Tell shows the user a line of text.
	Tell struct{ Text string }
	// Show updates the status shown; Have and Want are the bytes of a download.
	Show struct {
		State      State
		Have, Want int64
		Text       string
	}
	// Quit ends the provider: it says goodbye with the reason Why, then shuts down.
	Quit struct {
		Outcome Outcome
		Why     string
	}
)

func (Join) action()    {}
func (Send) action()    {}
func (Begin) action()   {}
func (Deliver) action() {}
func (Train) action()   {}
func (SetMark) action() {}
func (Cancel) action()  {}
func (Unlink) action()  {}
func (Bring) action()   {}
func (Tell) action()    {}
func (Show) action()    {}
func (Quit) action()    {}
